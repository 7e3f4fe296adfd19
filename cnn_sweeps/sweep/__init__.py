"""Sweeps with Optuna for any Hydra application: what to try, where it is kept, who runs it, what comes of it.

Imports neither TensorFlow nor MLflow.
"""
