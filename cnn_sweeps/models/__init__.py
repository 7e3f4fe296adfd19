"""The networks: the functions that `model._target_` names, and the parts they share."""

from cnn_sweeps.models.blocks import FusedBatchNormalization, classification_head, plain_copy
from cnn_sweeps.models.cnn import build_cnn
from cnn_sweeps.models.residual import build_residual

__all__ = ["FusedBatchNormalization", "build_cnn", "build_residual", "classification_head", "plain_copy"]
