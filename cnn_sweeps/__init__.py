"""Hydra-driven experiments and sweeps for CNN image classification with Keras, tracked in MLflow."""

__version__ = "0.1.0"
