"""The networks: the functions that `model._target_` names, and the parts they share."""

from cnn_sweeps.models.blocks import (
    AdjustableDropout,
    AdjustableL2,
    FusedBatchNormalization,
    adjustable_values,
    class_probabilities,
    classification_head,
    is_scaling,
    plain_copy,
    scaled,
)
from cnn_sweeps.models.cnn import build_cnn
from cnn_sweeps.models.residual import build_residual

__all__ = [
    "AdjustableDropout",
    "AdjustableL2",
    "FusedBatchNormalization",
    "adjustable_values",
    "build_cnn",
    "build_residual",
    "class_probabilities",
    "classification_head",
    "is_scaling",
    "plain_copy",
    "scaled",
]
