"""What is done with a network once it is trained: measured, recorded, kept, drawn."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from cnn_sweeps.errors import ModelError
from cnn_sweeps.evaluation.metrics import describe_no_better
from cnn_sweeps.experiment import kept
from cnn_sweeps.experiment.trained import TrainedNetwork
from cnn_sweeps.tracking import runs

log = logging.getLogger(__name__)

HINT = (
    "learning_curves.png shows whether it still learned at the end; try training.epochs, optimizer.learning_rate, "
    "regularization=none or more images; where one class is rare, training.class_weight=balanced, or, if accuracy is "
    "what counts, evaluation.threshold_metric=accuracy"
)


def finish_run(trained: TrainedNetwork, results_dir: Path) -> dict[str, float]:
    """Measure the final weights on all images, keep the model, and draw; give the metrics.

    Metrics and model come first, so that nothing that is drawn or written of them can lose them. What is said ends with
    results, warnings, a hint, and, of a run on its own, commands and the address of its page, in this order.
    """
    evaluation, final = trained.evaluate(on_test=True)
    final = trained.measure_train(final)
    trained.log(final | evaluation.intervals)
    warnings, is_kept = [], False
    if trained.part.config.tracking.log_model:
        try:
            trained.log_model(evaluation.threshold, results_dir)
            is_kept = True
        except ModelError as error:
            warnings.append(str(error))
    warnings += trained.report(results_dir, evaluation)
    if (no_better := describe_no_better(final)) is not None:
        warnings.append(no_better)
    for warning in warnings:
        log.warning("warning: %s", warning)
    if no_better is not None:
        log.info("hint: %s", HINT)
    for line in runs.describe_next(has_model=is_kept):
        log.info("%s", line)
    return final


def finish_trial(
    trained: TrainedNetwork, may_be_chosen: Callable[[dict[str, float]], bool], folder: Path
) -> dict[str, float]:
    """Give the final metrics; measure training images, and keep the weights in `folder`, only where that may matter."""
    evaluation, final = trained.evaluate(on_test=False)
    is_part = bool(trained.part.name)
    needs_gap = is_part or "generalization_gap" in trained.part.config.objective
    if needs_gap:
        final = trained.measure_train(final)
    if may_be_chosen(final):
        final = final if needs_gap else trained.measure_train(final)
        kept.keep(folder, trained.part.config, trained.model, trained.progress, evaluation.threshold)
    is_shown = trained.part.config.evaluation.pictures == "all"
    trained.log(final | (evaluation.intervals if is_shown else {}))
    if is_shown:
        for failure in trained.report(folder / "results", evaluation):
            log.warning("warning: %s", failure)
    if not is_part:
        runs.set_tags({runs.STATE_TAG: "COMPLETE"})
    return final
