"""Sweeps with Optuna for any Hydra application: search space, study, jobs and console.

Imports neither TensorFlow nor MLflow.
"""
