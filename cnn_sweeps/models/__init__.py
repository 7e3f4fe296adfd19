"""The networks that `model._target_` can name, and the layers to build your own with."""

from cnn_sweeps.models.layers import (
    AdjustableDropout,
    AdjustableL2,
    Features,
    FusedBatchNormalization,
    classification_head,
    scaled,
)
from cnn_sweeps.models.networks import build_cnn, build_residual
from cnn_sweeps.models.pretrained import build_pretrained

__all__ = [
    "AdjustableDropout",
    "AdjustableL2",
    "Features",
    "FusedBatchNormalization",
    "build_cnn",
    "build_pretrained",
    "build_residual",
    "classification_head",
    "scaled",
]
