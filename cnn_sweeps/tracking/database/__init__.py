"""Finds, checks and mends MLflow's database before MLflow is imported."""
