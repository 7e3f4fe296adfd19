"""What this application adds to its sweeps: checks, a run in MLflow, the test of the best trials."""

from __future__ import annotations

import gc
import os
import pkgutil
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, Trial

from cnn_sweeps.data.images import forget_images
from cnn_sweeps.errors import OutageError, TrackingError
from cnn_sweeps.experiment.notes import (
    ABOUT_RUN,
    CONFIRMS,
    DATA,
    DATA_TOLD,
    FOLDER,
    PROGRAM,
    RECORD,
    STORE,
    STUDY_RUN_ID,
    subfolder_of,
)
from cnn_sweeps.selection.checked import CheckedApplication
from cnn_sweeps.selection.standing import NUM_SEEDS, Standing, stand
from cnn_sweeps.settings.schema import of_one_run
from cnn_sweeps.sweep.application import TRIAL, Confirmation, Ranked
from cnn_sweeps.sweep.jobs.executor import Executor, call_until_worker_lasts
from cnn_sweeps.sweep.study.study import SweepStudy
from cnn_sweeps.system.libraries import prepare_libraries, slow_imports
from cnn_sweeps.text.commands import describe_command
from cnn_sweeps.text.names import for_terminal
from cnn_sweeps.tracking.database.address import describe_store, is_recorded_as, uri_seen_from
from cnn_sweeps.tracking.page import WINNER_NOTE
from cnn_sweeps.tracking.record.entry import read_record
from cnn_sweeps.training.checkpoint import remove_checkpoint

if TYPE_CHECKING:
    from cnn_sweeps.selection.outcome import Sweep
    from cnn_sweeps.selection.sweep_run import SweepRun
    from cnn_sweeps.tracking.record.entry import Status


def _call_by_name(function: str, *arguments: Any) -> Any:
    """Call a function, `module:function`, in a worker: so the controller imports nothing slow."""
    prepare_libraries()
    return pkgutil.resolve_name(function)(*arguments)


class CnnSweep(CheckedApplication):
    """A sweep whose trials are runs of `cnn_sweeps.train`."""

    worker_module = "cnn_sweeps.selection.worker"
    about_ranking = WINNER_NOTE
    _folder: Path
    _look: Callable[[], Sweep]
    _describe_run: Callable[[], dict[str, Any]]
    _standing: Standing
    _noted: dict[str, Any] | None = None
    _newest: Sweep
    _run: SweepRun | None = None
    _is_data_told = False

    def of_one_trial(self, overrides: Sequence[str]) -> list[str]:
        """Leave out how many trials are tested, trained again and the like."""
        return of_one_run(overrides)

    def begin(self, study: SweepStudy, about: dict[str, str], folder: Path, say: Callable[[str], None]) -> None:
        """Make or reopen the sweep's run.

        Raises:
            TrackingError: if the store cannot be used.
            StudyError: if the study has lost the trials whose records are in the folder.
        """
        if "joblib" in str(HydraConfig.get().launcher.get("_target_")):
            os.environ["JOBLIB_MULTIPROCESSING"] = "1"  # else it runs jobs in threads, which mix up their settings
        for line in describe_store(self.store):  # before the slow imports
            say(line)
        with slow_imports():
            from cnn_sweeps.selection.sweep_run import SweepRun, check_no_trials_lost, describe_run, look_at
        gc.enable()  # it was off for a quick start
        forget_images()
        store, known = uri_seen_from(Path(), self.store), study.optuna_study.user_attrs.get(STORE)
        if known is not None and not is_recorded_as(self.store, str(known)):
            raise TrackingError(
                f"tracking.uri={store}: the runs of study {study.name} are in {known}; name that store, or choose "
                "another hydra.sweeper.study_name"
            )
        self._folder, self._look = folder, partial(look_at, study, self, folder)
        self._describe_run = partial(describe_run, study, self, about)
        with study.exclusively():  # so that two controllers share one run
            check_no_trials_lost(self._look(), about["storage"])
            study.optuna_study.set_user_attr(STORE, store)
            study.optuna_study.set_user_attr(PROGRAM, describe_command([]))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                study.optuna_study.set_metric_names(self.config.objective)  # for Optuna's dashboard
            self._note_about_run(study)
            self._newest = self._look()
            self._run = SweepRun(self._newest)
            study.optuna_study.set_user_attr(STUDY_RUN_ID, self._run.run_id)
            self._run.settle(self._look())

    def _note_about_run(self, study: SweepStudy) -> None:
        if (about_run := self._describe_run()) != self._noted:  # a conditional space may add parameters
            study.optuna_study.set_user_attr(ABOUT_RUN, about_run)
            self._noted = about_run

    def update(self, study: SweepStudy) -> None:
        """Record counts by state and the best value so far."""
        assert self._run is not None
        self._note_about_run(study)
        self._newest = self._look()
        self._run.update(self._newest, study.exclusively)

    def news(self, study: SweepStudy) -> list[str]:
        """Return, once, what the first trial said about the images."""
        told = None if self._is_data_told else study.optuna_study.user_attrs.get(DATA_TOLD)
        self._is_data_told = self._is_data_told or told is not None
        return [for_terminal(str(line)) for line in told or []]

    def record_duplicate(self, trial: Trial, original: FrozenTrial) -> None:
        """Record a trial that repeats a finished one as a run of its own.

        Raises:
            DiskError: if the disk is full; the caller tries again.
        """
        assert self._run is not None
        trial.set_user_attr(RECORD, self._run.record_duplicate(self._look(), trial, original))

    def close_lost(self, trials: Sequence[FrozenTrial]) -> None:
        """Close the runs of trials that were killed, lost, or left by a dead controller."""
        if self._run is not None and trials:
            self._run.settle_soon(self._look(), trials)

    def to_confirm(self, study: SweepStudy) -> Confirmation | None:
        """Return the best trials with other seeds, if the settings ask for it and there are several."""
        config, noted = self.config, study.optuna_study.user_attrs
        best = [trial.number for trial in study.ranking() if FOLDER in trial.user_attrs][: config.confirm]
        if len(best) < 2:
            return None
        seeds = [config.seed + config.repeats * further for further in range(1, NUM_SEEDS + 1)]
        attributes = {key: noted[key] for key in (DATA, DATA_TOLD, PROGRAM, STUDY_RUN_ID) if key in noted}
        points = [{TRIAL: number, "seed": seed} for seed in seeds for number in best]
        return Confirmation(points, attributes | {CONFIRMS: study.name})

    def rank(self, study: SweepStudy, confirmed: Sequence[FrozenTrial]) -> list[Ranked]:
        """Rank by value, or the best ones by their mean with other seeds; mark trials that are tied with the best."""
        from cnn_sweeps.selection.outcome import is_ablation

        completed = study.ranking()
        if is_ablation(study.trials):
            self.has_best, self.about_ranking = False, ""
        self._standing = stand(completed, confirmed, self.config, self._settings_of)
        return self._standing.rank(completed)

    def _settings_of(self, trial: FrozenTrial) -> dict[str, str]:
        recorded = None
        with suppress(TrackingError):  # the record may make no sense
            recorded = read_record(self._folder / subfolder_of(trial))
        return {} if recorded is None else recorded.params

    def finish(self, study: SweepStudy, executor: Executor) -> list[str]:
        """Test the best trials, register the champion, write the report; return the lines to show."""
        from cnn_sweeps.selection.finishing import Finishing

        assert self._run is not None
        self.update(study)
        call = partial(call_until_worker_lasts, executor, _call_by_name)
        return Finishing(study, self.config, self._folder, self._run.run_id, self.trusted, call).finish(self._standing)

    def describe_next(self) -> list[str]:
        """Say where MLflow shows the ranked trials."""
        assert self._run is not None
        return self._run.describe_page()

    def end(self, status: Status) -> None:
        """Close the sweep's run."""
        if self._run is None:
            return
        from cnn_sweeps.selection.agreement import useless_checkpoints

        with suppress(OutageError):  # during an outage, the newest known state counts
            self._newest = self._look()
            for path in useless_checkpoints(Path(self.config.training.checkpoint_dir), self._newest.trials):
                remove_checkpoint(path)
        self._run.end(self._newest, status)
