"""Grad-CAM: which places of an image speak for the predicted class."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from numpy.typing import NDArray

from cnn_sweeps.evaluation.metrics import Floats, Labels
from cnn_sweeps.models.layers import is_scaling

_NO_MAPS = (  # layers without feature maps of their own: the input, dropout, and pooling, which only coarsens a map
    *(layers.InputLayer, layers.Dropout, layers.SpatialDropout2D),
    *(layers.MaxPooling2D, layers.AveragePooling2D),
)


def grad_cam(model: keras.Model, images: NDArray[np.uint8], predicted: Labels) -> Floats | None:
    """Compute how much each place of the last feature map speaks for the predicted class.

    Gradient-weighted class activation mapping (Selvaraju et al., Grad-CAM, 2017): the feature maps, weighted by the
    mean gradient of the class's logit, positive parts only, each image scaled to a maximum of 1.

    Args:
        model: the network.
        images: (n, height, width, channels), 0 to 255.
        predicted: (n,), the classes.

    Returns:
        (n, rows, columns), 0 to 1; None if the network is no chain from a last feature map to a dense layer.
    """
    if (parts := _divided(model)) is None:
        return None
    (to_map, rest), head = parts, model.layers[-1]
    feature_map = to_map(tf.cast(images, tf.float32), training=False)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(feature_map)
        features = tf.cast(rest(feature_map, training=False), tf.float32)
        logits = tf.matmul(features, head.kernel) + (head.bias if head.use_bias else 0.0)
        if logits.shape[1] == 1:
            logits = tf.concat([-logits, logits], axis=1)
        of_predicted = tf.gather(logits, predicted, batch_dims=1)
    weights = tf.reduce_mean(tape.gradient(of_predicted, feature_map), axis=(1, 2), keepdims=True)
    heat = tf.nn.relu(tf.reduce_sum(feature_map * weights, axis=-1)).numpy().astype(np.float64)
    highest: Floats = heat.max(axis=(1, 2), keepdims=True)
    scaled: Floats = np.divide(heat, highest, out=np.zeros_like(heat), where=highest > 0)
    return scaled


def has_grad_cam(model: keras.Model) -> bool:
    """Return whether `grad_cam` works for a network."""
    return _divided(model) is not None


def _divided(model: keras.Model) -> tuple[keras.Model, keras.Model] | None:
    """Split a network into two: up to its last feature map, and from there to the input of its last, dense layer.

    Returns None if the network is no such chain.
    """
    maps, head = [layer for layer in model.layers if _is_feature_map(layer)], model.layers[-1]
    if not maps or not isinstance(head, layers.Dense):
        return None
    try:
        return keras.Model(model.inputs, maps[-1].output), keras.Model(maps[-1].output, head.input)
    except ValueError:  # the output depends on something beside the map
        return None


def _is_feature_map(layer: layers.Layer) -> bool:
    if isinstance(layer, _NO_MAPS) or is_scaling(layer):
        return False
    shape = getattr(layer.output, "shape", ())  # a layer may give several tensors
    return len(shape) == 4 and min(shape[1:3]) > 1
