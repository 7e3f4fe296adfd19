"""What the charts of a study show, as plotly.js takes them, and what its settings did, in words."""
