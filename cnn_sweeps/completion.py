"""What is done with a network once it is trained: measured, recorded, drawn, kept."""

from __future__ import annotations

from pathlib import Path

from cnn_sweeps import chosen
from cnn_sweeps.tracking import runs
from cnn_sweeps.trained import TrainedNetwork
from cnn_sweeps.trial_run import TrialRun


def finish_run(trained: TrainedNetwork, results_dir: Path) -> dict[str, float]:
    """Measure the final weights on all images, draw and keep the model; give the metrics."""
    evaluation, final = trained.evaluate(on_test=True)
    final = trained.measure_train(final)
    trained.log(final, evaluation)
    trained.draw(results_dir, evaluation)
    if trained.config.tracking.log_model:
        trained.log_model(evaluation.threshold)
    return final


def finish_trial(trained: TrainedNetwork, trial: TrialRun, folder: Path, *, is_part: bool) -> dict[str, float]:
    """Give the final metrics; measure training images, and keep the weights in `folder`, only where that may matter."""
    evaluation, final = trained.evaluate(on_test=False)
    needs_gap = is_part or "generalization_gap" in trained.config.objective
    if needs_gap:
        final = trained.measure_train(final)
    if trial.may_be_chosen(final):
        final = final if needs_gap else trained.measure_train(final)
        chosen.keep(folder, trained.config, trained.model, trained.progress)
    trained.log(final, evaluation)
    if trained.config.evaluation.pictures == "all":
        trained.draw(folder / "results", evaluation)
    if not is_part:
        runs.set_tags({runs.STATE_TAG: "COMPLETE"})
    return final
