"""Compares what Optuna, the disk and MLflow say of a sweep, and makes them agree."""
