"""One network is trained."""
