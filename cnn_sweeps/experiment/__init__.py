"""The main path: one run from its images to its record."""
