"""Keeps the record of each run in its folder, and copies it to MLflow."""
