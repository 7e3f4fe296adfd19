"""What runs, models and sweeps leave in MLflow."""
