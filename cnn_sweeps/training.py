"""Fits a network: compiled steps, the loop over epochs, early stopping."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tqdm import tqdm

from cnn_sweeps.checkpoint import TrainingProgress
from cnn_sweeps.data.split import Indices
from cnn_sweeps.errors import ModelError, TrainingError
from cnn_sweeps.evaluation.metrics import class_probabilities, summarize
from cnn_sweeps.schema import TrainingConfig

log = logging.getLogger(__name__)

# One call into TensorFlow covers about this many pixels: enough that Python costs nothing (28x28: 1,300 images a call),
# few enough that a signal is answered within a second or two (128x128: 64 images).
_PIXELS_A_CALL = 2**20


def prepare_process(seed: int, precision: str, *, xla: bool) -> None:
    """Seed every generator and ask TensorFlow for repeatable kernels and the precision, before the model is built.

    XLA has no repeatable kernel for the gradient of max pooling, so with it none are asked for.
    """
    keras.backend.clear_session()  # of what earlier trials of this process have left
    keras.utils.disable_interactive_logging()  # MLflow's check of a saved model would draw progress bars
    keras.config.set_floatx("float32")  # whatever the user's keras.json says
    keras.config.set_image_data_format("channels_last")
    keras.utils.set_random_seed(seed)
    if not xla:
        tf.config.experimental.enable_op_determinism()
    keras.mixed_precision.set_global_policy(precision)


def device_names() -> str:
    """Say where TensorFlow will compute."""
    gpus = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    return ", ".join(details.get("device_name", "GPU") for details in gpus) or f"{os.cpu_count()} CPU cores"


def compile_model(model: keras.Model, optimizer: keras.optimizers.Optimizer, num_classes: int) -> None:
    """Give the model its loss (cross-entropy), its metrics `log_loss` and `accuracy`, and its optimizer, built.

    Raises:
        ModelError: if it is no functional model, or its output not (B, 1) for two, (B, num_classes) for more classes.
    """
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise ModelError(
            f"model: the function gave a {type(model).__name__}; it must return a Sequential or functional keras.Model"
        )
    units = 1 if num_classes == 2 else num_classes
    if tuple(model.output_shape) != (None, units):
        raise ModelError(
            f"model: the output has shape {tuple(model.output_shape)}; {num_classes} classes need (None, {units}) "
            f"with {'sigmoid' if units == 1 else 'softmax'}, as cnn_sweeps.models.classification_head gives"
        )
    kind = "Binary" if units == 1 else "SparseCategorical"
    model.compile(
        optimizer=optimizer,
        loss=getattr(keras.losses, f"{kind}Crossentropy")(),
        metrics=[
            getattr(keras.metrics, f"{kind}Crossentropy")(name="log_loss"),
            getattr(keras.metrics, f"{kind}Accuracy")(name="accuracy"),
        ],
    )
    model.optimizer.build(model.trainable_variables)


class Predictor:
    """The network's probabilities for images of a data set, in inference mode."""

    def __init__(self, model: keras.Model, images: tf.Tensor) -> None:
        """Compile `model` for `images`, uint8 (N, height, width, channels)."""
        self._images_a_call = max(1, _PIXELS_A_CALL // (images.shape[1] * images.shape[2]))

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)])  # type: ignore[untyped-decorator]
        def forward(indices: tf.Tensor) -> tf.Tensor:
            with tf.device("CPU:0"):  # where the images are; only the batch goes to a GPU
                batch = tf.gather(images, indices)
            return model(tf.cast(batch, tf.float32) / 255.0, training=False)

        self._forward = forward

    def __call__(self, indices: Indices) -> NDArray[np.float64]:
        """Give float64 (len(indices), num_classes), rows summing to 1."""
        starts = range(0, len(indices), self._images_a_call)
        outputs = [self._forward(indices[start : start + self._images_a_call]).numpy() for start in starts]
        return class_probabilities(np.concatenate(outputs))


def train(
    model: keras.Model,
    batches: tf.data.Dataset,
    num_images: int,
    validate: Callable[[], dict[str, float]],
    config: TrainingConfig,
    progress: TrainingProgress,
    on_epoch: Callable[[dict[str, float]], bool | None],
) -> None:
    """Train from where `progress` stands to the last epoch or early stopping; leave the best weights in the model.

    Args:
        model: compiled.
        batches: of all epochs still to come, in a row.
        num_images: in one epoch.
        validate: gives `log_loss` and `accuracy` on validation images.
        config: how long and how.
        progress: is moved on after each epoch.
        on_epoch: called after each epoch, once `progress` holds it, with its metrics; true stops there.

    Raises:
        TrainingError: if the loss is no longer finite.
    """
    num_steps = math.ceil(num_images / config.batch_size)
    run_steps, iterator = _compile_steps(model, config), iter(batches)
    started = time.perf_counter()
    run_steps(iterator, tf.constant(0))
    log.info("compiled in %.1f s", time.perf_counter() - started)

    first_epoch, started = progress.epochs_done, time.perf_counter()
    while progress.epochs_done < config.epochs and not _has_stalled(progress, config):
        epoch = progress.epochs_done + 1
        epoch_started = time.perf_counter()
        model.reset_metrics()
        for steps in _calls(num_steps, _steps_a_call(batches, config.batch_size), f"epoch {epoch}/{config.epochs}"):
            run_steps(iterator, tf.constant(steps))
        train_s = time.perf_counter() - epoch_started
        metrics = _epoch_metrics(model, validate()) | {
            "epoch_s": time.perf_counter() - epoch_started,
            "images_per_s": num_images / train_s,
        }
        _check_finite(metrics, epoch)
        is_best = _update(progress, metrics, model, config)
        is_to_stop = on_epoch(metrics)
        epoch_s = (time.perf_counter() - started) / (epoch - first_epoch)
        log.info("%s", _epoch_line(metrics, epoch, config.epochs, epoch_s, is_best))
        if is_to_stop:
            break

    if config.restore_best_weights:
        model.set_weights(progress.best_weights)


def stopped_early(progress: TrainingProgress, config: TrainingConfig) -> bool:
    """Tell whether early stopping, not the number of epochs, ended the run."""
    return progress.epochs_done < config.epochs


def _compile_steps(model: keras.Model, config: TrainingConfig) -> Callable[[Iterator[Any], tf.Tensor], None]:
    one_step = tf.function(model.train_step, jit_compile=config.xla, reduce_retracing=True, autograph=False)

    @tf.function  # type: ignore[untyped-decorator]
    def run_steps(iterator: Iterator[Any], num_steps: tf.Tensor) -> None:
        for _ in tf.range(num_steps):
            one_step(next(iterator))

    return run_steps  # type: ignore[no-any-return]


def _steps_a_call(batches: tf.data.Dataset, batch_size: int) -> int:
    _, height, width, _ = batches.element_spec[0].shape
    return int(max(1, _PIXELS_A_CALL // (batch_size * height * width)))


def _calls(num_steps: int, steps_a_call: int, title: str) -> Iterator[int]:
    """Divide an epoch's steps into calls; on a terminal, show how far they are."""
    with tqdm(total=num_steps, desc=title, unit="step", leave=False, disable=None) as bar:
        for start in range(0, num_steps, steps_a_call):
            steps = min(steps_a_call, num_steps - start)
            yield steps
            bar.update(steps)


def _epoch_metrics(model: keras.Model, validation: dict[str, float]) -> dict[str, float]:
    train_metrics = {f"train_{name}": float(value) for name, value in model.get_metrics_result().items()}
    val_metrics = {f"val_{name}": value for name, value in validation.items()}
    return {
        **train_metrics,
        **val_metrics,
        "generalization_gap": val_metrics["val_log_loss"] - train_metrics["train_log_loss"],
        "learning_rate": float(model.optimizer.learning_rate),
    }


def _check_finite(metrics: dict[str, float], epoch: int) -> None:
    for name in ("train_loss", "val_log_loss"):
        if not math.isfinite(metrics[name]):
            raise TrainingError(
                f"{name} became {metrics[name]} in epoch {epoch}; lower optimizer.learning_rate "
                f"(now {metrics['learning_rate']:.3g}), or set training.precision=float32 if it is mixed"
            )


def _update(progress: TrainingProgress, metrics: dict[str, float], model: keras.Model, config: TrainingConfig) -> bool:
    """Add a finished epoch; tell whether it is the best so far."""
    progress.history.append(metrics)
    value, best = metrics[config.monitor], progress.best_value
    gain = math.inf if best is None else (best - value if config.monitor == "val_log_loss" else value - best)
    if gain <= 0:
        return False
    progress.best_epoch, progress.best_value = progress.epochs_done, value
    if config.restore_best_weights:
        progress.best_weights = model.get_weights()
    return True


def _has_stalled(progress: TrainingProgress, config: TrainingConfig) -> bool:
    waited = progress.epochs_done - progress.best_epoch
    return config.early_stopping.enabled and waited >= config.early_stopping.patience


def _epoch_line(metrics: dict[str, float], epoch: int, epochs: int, epoch_s: float, is_best: bool) -> str:
    remaining_s = round(epoch_s * (epochs - epoch))
    return (
        f"epoch {epoch:{len(str(epochs))}}/{epochs}  "
        f"log loss {metrics['train_log_loss']:.4f} train {metrics['val_log_loss']:.4f} val{'*' if is_best else ' '}  "
        f"accuracy {metrics['train_accuracy']:.3f} train {metrics['val_accuracy']:.3f} val  "
        f"lr {metrics['learning_rate']:.2e}  {metrics['images_per_s']:,.0f} images/s  "
        f"at most {remaining_s // 60}:{remaining_s % 60:02d} left"
    )


def measure(predict: Predictor, indices: Indices, labels: Indices) -> dict[str, float]:
    """`log_loss` and `accuracy` of the images at `indices`; `labels` are those of the whole data set."""
    return summarize(predict(indices), labels[indices])
