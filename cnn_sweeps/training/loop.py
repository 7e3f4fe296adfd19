"""Trains a network: the loop over epochs, early stopping."""

import logging
import math
import time
from collections.abc import Callable, Iterator

import keras
import numpy as np
from tqdm import tqdm

from cnn_sweeps.errors import TrainingError
from cnn_sweeps.settings.schema import TrainingConfig
from cnn_sweeps.training.batches import TrainingImages
from cnn_sweeps.training.network import Network, images_a_call
from cnn_sweeps.training.progress import TrainingProgress

log = logging.getLogger(__name__)


def train(
    network: Network,
    source: TrainingImages,
    validate: Callable[[], dict[str, float]],
    config: TrainingConfig,
    progress: TrainingProgress,
    on_epoch: Callable[[dict[str, float]], bool | None],
) -> None:
    """Train from where `progress` stands to the last epoch or early stopping.

    The network ends with the weights of the best epoch, if `config.restore_best_weights` is set.

    Args:
        network: the network to train.
        source: the images to train on.
        validate: returns `log_loss` and `accuracy` on validation images; nothing if there are none.
        config: how long and how.
        progress: gets each finished epoch.
        on_epoch: called with the metrics of each epoch, after `progress` has it; a true result ends the training.

    Raises:
        TrainingError: if the loss is no longer finite.
    """
    num_images = len(source.positions)
    steps_per_epoch = math.ceil(num_images / config.batch_size)
    started, num_graphs = time.perf_counter(), network.num_graphs
    network.train_steps(source, epoch=0, first_step=0, num_steps=0)
    if network.num_graphs > num_graphs:
        log.info("compiled in %.1f s", time.perf_counter() - started)

    first_epoch, started, num_epochs = progress.epochs_done, time.perf_counter(), _last_epoch(progress, config)
    while progress.epochs_done < num_epochs and not _has_stalled(progress, config, steps_per_epoch):
        epoch, epoch_started = progress.epochs_done + 1, time.perf_counter()
        _train_epoch(network, source, epoch, num_epochs)
        train_s = time.perf_counter() - epoch_started
        network.measure_batch_statistics(source)
        metrics = _train_metrics(network.model) | {f"val_{name}": value for name, value in validate().items()}
        if "val_log_loss" in metrics:
            metrics["generalization_gap"] = metrics["val_log_loss"] - metrics["train_log_loss"]
        metrics |= {"epoch_s": time.perf_counter() - epoch_started, "images_per_s": num_images / train_s}
        _check_finite(metrics, epoch)
        is_best = _update(progress, metrics, network.model, config)
        is_to_stop = on_epoch(metrics)
        epoch_s = (time.perf_counter() - started) / (epoch - first_epoch)
        log.info("%s", _epoch_line(metrics, epoch, num_epochs, epoch_s, is_best))
        if is_to_stop:
            break

    if config.restore_best_weights and progress.best_weights:
        network.model.set_weights(progress.best_weights)


def _train_epoch(network: Network, source: TrainingImages, epoch: int, num_epochs: int) -> None:
    """Train an epoch, counted from 1, of `num_epochs`; afterwards the model's metrics are those of this epoch."""
    network.model.reset_metrics()
    for first_step, num_steps in _calls(source, f"epoch {epoch}/{num_epochs}"):
        network.train_steps(source, epoch=epoch - 1, first_step=first_step, num_steps=num_steps)


def _train_metrics(model: keras.Model) -> dict[str, float]:
    """Return what the model measured while it was trained, e.g. `train_log_loss`, and its learning rate."""
    measured = {f"train_{name}": float(value) for name, value in model.get_metrics_result().items()}
    return measured | {"learning_rate": float(np.asarray(model.optimizer.learning_rate))}


def stopped_early(progress: TrainingProgress, config: TrainingConfig) -> bool:
    """Return whether early stopping, not the number of epochs, ended the run."""
    return progress.epochs_done < _last_epoch(progress, config)


def _last_epoch(progress: TrainingProgress, config: TrainingConfig) -> int:
    if progress.fine_tuned_after is None:
        return config.epochs
    return progress.fine_tuned_after + config.fine_tune_epochs


def _calls(source: TrainingImages, title: str) -> Iterator[tuple[int, int]]:
    """Divide an epoch into calls: the first step and the number of steps of each; show a progress bar on a terminal."""
    batch_size = int(source.batch_size)
    total = math.ceil(len(source.positions) / batch_size)
    steps_a_call = max(1, images_a_call(source.images) // batch_size)
    with tqdm(total=total, desc=title, unit="step", leave=False, disable=None) as bar:
        for first_step in range(0, total, steps_a_call):
            num_steps = min(steps_a_call, total - first_step)
            yield first_step, num_steps
            bar.update(num_steps)


def _check_finite(metrics: dict[str, float], epoch: int) -> None:
    """Check that a training has not diverged.

    Raises:
        TrainingError: if the loss on training images or the log loss on validation images is not finite.
    """
    for name in ("train_loss", "val_log_loss"):
        if name in metrics and not math.isfinite(metrics[name]):
            raise TrainingError(
                f"{name} became {metrics[name]} in epoch {epoch}; set a lower optimizer.learning_rate "
                f"(it was {metrics['learning_rate']:.3g} there), or training.precision=float32 if that is mixed"
            )


def _update(progress: TrainingProgress, metrics: dict[str, float], model: keras.Model, config: TrainingConfig) -> bool:
    """Add a finished epoch; return whether it is the best so far."""
    progress.history.append(metrics)
    if config.monitor not in metrics:  # there are no validation images: the last epoch counts
        progress.best_epoch = progress.epochs_done
        return False
    value, best = metrics[config.monitor], progress.best_value
    if best is not None and not (value < best if config.monitor == "val_log_loss" else value > best):
        return False
    progress.best_epoch, progress.best_value = progress.epochs_done, value
    if config.restore_best_weights:
        progress.best_weights = model.get_weights()
    return True


def _has_stalled(progress: TrainingProgress, config: TrainingConfig, steps_per_epoch: int) -> bool:
    stopping = config.early_stopping
    waited = progress.epochs_done - max(progress.best_epoch, progress.fine_tuned_after or 0)
    has_begun = progress.epochs_done * steps_per_epoch >= stopping.min_steps
    return stopping.enabled and has_begun and waited >= stopping.patience


def _epoch_line(metrics: dict[str, float], epoch: int, epochs: int, epoch_s: float, is_best: bool) -> str:
    remaining_s = round(epoch_s * (epochs - epoch))
    val_loss = f" {metrics['val_log_loss']:.4f} val{'*' if is_best else ' '}" if "val_log_loss" in metrics else ""
    val_accuracy = f" {metrics['val_accuracy']:.3f} val" if "val_accuracy" in metrics else ""
    return (
        f"epoch {epoch:{len(str(epochs))}}/{epochs}  log loss {metrics['train_log_loss']:.4f} train{val_loss}  "
        f"accuracy {metrics['train_accuracy']:.3f} train{val_accuracy}  "
        f"lr {metrics['learning_rate']:.2e}  {metrics['images_per_s']:,.0f} images/s  "
        f"at most {remaining_s // 60}:{remaining_s % 60:02d} left"
    )
