"""How good a network is: metrics and pictures."""
