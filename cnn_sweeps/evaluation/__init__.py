"""Measures how good a network is: metrics, pictures, and the report of one training."""
