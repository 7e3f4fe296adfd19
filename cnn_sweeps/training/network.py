"""A network with its compiled training step, which trials can use one after another."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from cnn_sweeps.data.split import Indices
from cnn_sweeps.errors import ModelError
from cnn_sweeps.models.layers import adjustable_values, class_probabilities
from cnn_sweeps.settings.schema import AugmentationConfig
from cnn_sweeps.training.batch_statistics import forget, measurable_layers, moving
from cnn_sweeps.training.batches import TrainingImages, epoch_order, training_batch
from cnn_sweeps.training.features import FrozenBackbone
from cnn_sweeps.training.replicas import training_step

# One call into TensorFlow covers about this many pixels: so many that Python's time does not count (1,300 images of
# 28x28), so few that the process answers a signal within a second or two (64 images of 128x128).
_PIXELS_A_CALL = 2**20
# So many training images are enough to measure the statistics of batch normalization.
_MOST_MEASURED_IMAGES = 256


class Network:
    """A network, its optimizer and what TensorFlow has compiled for them.

    `model` is the trained part: it takes features if there is a frozen backbone, else pixels.

    Dropout rates, L2 factors and the numbers of the learning-rate schedule are variables, as weights are. So a trial
    that differs only in them, or in its seed, uses what an earlier trial has compiled.
    """

    def __init__(
        self,
        whole: keras.Model,
        model: keras.Model,
        schedule: Sequence[tf.Variable],
        augmentation: AugmentationConfig,
        *,
        backbone: FrozenBackbone | None = None,
        xla: bool,
    ) -> None:
        """Take the whole network and its trained part `model`, which `compile_model` has compiled.

        `model` is `whole`, or the head after a frozen `backbone`. `schedule` are the variables of its learning rate.
        """
        self._whole, self._head = whole, model
        self.model, self.backbone = model, backbone
        self._schedule = schedule
        self._run_steps = _build_run_steps(model, augmentation, xla=xla)
        measured = measurable_layers(model)

        def forward(images: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
            with tf.device("CPU:0"):  # where the images are; only the batch goes to a GPU
                batch = tf.gather(images, indices)
            return model(tf.cast(batch, tf.float32), training=False)

        def measure(images: tf.Tensor, indices: tf.Tensor, weight: tf.Tensor) -> None:
            with moving(measured, 1.0 - weight):
                forward(images, indices)

        kind = tf.uint8 if backbone is None else tf.float32
        some_images = [tf.TensorSpec((None, *model.input_shape[1:]), kind), tf.TensorSpec((None,), tf.int64)]
        self._forward = tf.function(forward, input_signature=some_images)
        self._measure = tf.function(measure, input_signature=[*some_images, tf.TensorSpec((), tf.float32)])

    @property
    def whole(self) -> keras.Model:
        """The network from pixels to probabilities, with its current weights."""
        if self._head is not self.model:
            self._head.set_weights(self.model.get_weights())
        return self._whole

    @property
    def _state(self) -> list[Any]:
        """Every variable that a training depends on."""
        variables = [*self.model.variables, *self.model.optimizer.variables]
        return [*variables, *adjustable_values(self.model), *self._schedule]

    @property
    def num_bytes(self) -> int:
        """The size of its variables on each device, in bytes."""
        return sum(math.prod(each.shape) * tf.as_dtype(each.dtype).size for each in self._state)

    @property
    def num_graphs(self) -> int:
        """How many graphs of the training step TensorFlow has traced."""
        return int(self._run_steps.experimental_get_tracing_count())

    def adopt(self, fresh: "Network") -> None:
        """Take over the weights, optimizer, random generators and settings of `fresh`, which has the same structure."""
        for mine, its in zip(self._state, fresh._state, strict=True):
            mine.assign(its)
        if fresh.backbone is not None:
            self._whole, self._head, self.backbone = fresh._whole, fresh.model, fresh.backbone

    def go_on_from(self, head: "Network") -> None:
        """Copy the weights of a trained head, to train the backbone, too, from now on."""
        for layer in filter(lambda each: each.weights, head.model.layers):
            self.model.get_layer(layer.name).set_weights(layer.get_weights())

    def train_steps(self, source: TrainingImages, *, epoch: int, first_step: int, num_steps: int) -> None:
        """Train some steps of an epoch; epochs and steps count from 0. Batches depend on the arguments alone."""
        steps = (tf.constant(number, tf.int32) for number in (first_step, num_steps))
        self._run_steps(source, tf.constant(epoch, tf.int64), *steps)

    def measure_batch_statistics(self, source: TrainingImages) -> None:
        """Measure the statistics that batch normalization uses outside training, on unchanged training images.

        It always takes the same images, at most 256, in equal parts of at least a training batch if there are enough.
        Training does not depend on the result.
        """
        if not (measured := measurable_layers(self.model)):
            return
        order = epoch_order(source, tf.constant(0, tf.int64))[:_MOST_MEASURED_IMAGES]
        num_parts = max(1, len(order) // max(int(source.batch_size), images_a_call(source.images)))
        forget(measured)
        for i, part in enumerate(np.array_split(order.numpy(), num_parts)):
            self._measure(source.images, tf.constant(part), tf.constant(1 / (i + 1), tf.float32))

    def predict(self, images: tf.Tensor, indices: Indices) -> NDArray[np.float64]:
        """Return the probabilities of the images at `indices`, float64 (len(indices), num_classes), rows summing to 1.

        The images are uint8, (N, height, width, channels), or features of the frozen backbone, float32 (N, D).
        """
        count = images_a_call(images)
        outputs = [
            self._forward(images, tf.constant(indices[start : start + count])).numpy()
            for start in range(0, len(indices), count)
        ]
        return class_probabilities(np.concatenate(outputs))


def images_a_call(images: tf.Tensor) -> int:
    """Return how many rows of images, (N, height, width, channels), or features, (N, D), one TensorFlow call covers."""
    return int(max(1, _PIXELS_A_CALL // math.prod(images.shape[1:3])))


def _build_run_steps(model: keras.Model, augmentation: AugmentationConfig, *, xla: bool) -> Any:
    one_step = tf.function(training_step(model), jit_compile=xla, reduce_retracing=True, autograph=False)

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def run_steps(source: TrainingImages, epoch: tf.Tensor, first_step: tf.Tensor, num_steps: tf.Tensor) -> None:
        order = epoch_order(source, epoch)
        for step in tf.range(first_step, first_step + num_steps):
            one_step(training_batch(source, order, augmentation, epoch, step))

    return run_steps


def check_network(model: keras.Model, num_classes: int) -> None:
    """Check that a function has returned a network for so many classes.

    Raises:
        ModelError: if it is no functional model, or its output is not (B, 1) for two classes, or (B, num_classes).
    """
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise ModelError(
            f"model: the function returned a {type(model).__name__}; it must return a keras.Model, Sequential or "
            "functional"
        )
    units = 1 if num_classes == 2 else num_classes
    if tuple(model.output_shape) != (None, units):
        raise ModelError(
            f"model: the output has shape {tuple(model.output_shape)}; {num_classes} classes need (None, {units}) "
            f"with {'sigmoid' if units == 1 else 'softmax'}; end it with cnn_sweeps.models.classification_head"
        )


def compile_model(model: keras.Model, optimizer: keras.optimizers.Optimizer, num_classes: int) -> None:
    """Compile with cross-entropy as loss and the metrics `log_loss` and `accuracy`; build the optimizer."""
    kind = "Binary" if num_classes == 2 else "SparseCategorical"
    log_loss = getattr(keras.metrics, f"{kind}Crossentropy")(name="log_loss")
    accuracy = getattr(keras.metrics, f"{kind}Accuracy")(name="accuracy")
    model.compile(optimizer, getattr(keras.losses, f"{kind}Crossentropy")(), metrics=[log_loss, accuracy])
    model.optimizer.build(model.trainable_variables)
