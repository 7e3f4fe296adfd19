"""A kept model is found, loaded, used and converted."""
