"""Finds, loads, uses and converts a kept model, and compares two runs."""
