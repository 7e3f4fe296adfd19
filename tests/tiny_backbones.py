"""The smallest backbone of `keras.applications`, with weights that let a signal through, and what trains on it."""

import keras
import numpy as np

BACKBONE = ["model=pretrained", "model.backbone=MobileNet", "model.alpha=0.25", "model.dense_units=[4]"]
PRETRAINED = [
    *("data=synthetic", "data.num_images=60", "data.image_size=32", "data.channels=3", "data.difficulty=0.2"),
    *("training.epochs=2", "training.batch_size=16", "evaluation.pictures=none"),
    *BACKBONE,
]


def tiny_backbone(**settings):
    """Build it with the same weights every time; TensorFlow is not seeded, which would have it prepare graphs anew."""
    shape = {"input_shape": (32, 32, 3), "include_top": False} | settings
    backbone, random = keras.applications.MobileNet(alpha=0.25, weights=None, **shape), np.random.default_rng(0)
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            fan_in = 2  # of images that are a pixel wide there, most of the kernel lies outside
        elif isinstance(layer, keras.layers.Conv2D):
            fan_in = int(np.prod(layer.kernel.shape[:3]))
        else:
            continue
        layer.set_weights([random.normal(0, np.sqrt(2 / fan_in), each.shape) for each in layer.get_weights()])
    return backbone
