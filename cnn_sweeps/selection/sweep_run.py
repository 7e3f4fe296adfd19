"""A sweep's own run in MLflow, the parent of its trials' runs, while a controller works on the sweep."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
from hydra.core.hydra_config import HydraConfig
from optuna.trial import FrozenTrial, Trial, TrialState

from cnn_sweeps.errors import DiskError, StudyError, TrackingOutageError
from cnn_sweeps.experiment.notes import run_id_of
from cnn_sweeps.experiment.parts import final_metric
from cnn_sweeps.selection.agreement import Change, changes, made, read_if_sensible, record_sweep
from cnn_sweeps.selection.checked import CheckedApplication
from cnn_sweeps.selection.outcome import AboutRun, Sweep
from cnn_sweeps.settings.schema import OBJECTIVES, RunConfig
from cnn_sweeps.settings.target_arguments import FOLDER
from cnn_sweeps.sweep.space import by_setting
from cnn_sweeps.sweep.study.address import trial_subfolder
from cnn_sweeps.sweep.study.ledger import final_of, trial_tags
from cnn_sweeps.sweep.study.study import SweepStudy
from cnn_sweeps.text.passwords import hide_passwords
from cnn_sweeps.tracking.dead_runs import close_dead_runs, tell_what_waits
from cnn_sweeps.tracking.live_run import LiveRun
from cnn_sweeps.tracking.page import describe_sweep
from cnn_sweeps.tracking.projection import EXPERIMENT_ID, RUN_ID, project
from cnn_sweeps.tracking.record.entry import NOTE_TAG, PARENT_TAG, RECORD_FILE, STATE_TAG, Status, read_record
from cnn_sweeps.tracking.record.position import read_position
from cnn_sweeps.tracking.record.process import run_tags
from cnn_sweeps.tracking.record.record import Record
from cnn_sweeps.tracking.store import store_errors, use_store
from cnn_sweeps.tracking.usage import describe_page
from cnn_sweeps.tracking.views import describe_view, link_to_view, view_tags

log = logging.getLogger(__name__)

_COMPARED = ("val_log_loss", "val_accuracy")


def describe_run(study: SweepStudy, application: CheckedApplication, about: Mapping[str, str]) -> dict[str, Any]:
    """Return the study's note ABOUT_RUN; `about` says in words what is searched."""
    config, objective = application.config, ", ".join(application.config.objective)
    link = f"[The trials, ranked and drawn]({link_to_view(EXPERIMENT_ID, RUN_ID)})"
    tags = {"study": study.name, "objective": objective, "n_trials": str(study.total)}
    tags |= {f"sweep.{key.replace(' ', '_')}": text for key, text in about.items()}
    tags[NOTE_TAG] = f"{link}\n\n{describe_sweep(objective, study.total, about)}"
    return AboutRun(
        experiment=config.tracking.experiment_name,
        name=config.tracking.run_name or name_sweep(_subject(config), study.name),
        tags={key: hide_passwords(text) for key, text in tags.items()},
        params={key: hide_passwords(str(value)) for key, value in (application.fixed or {}).items()},
    ).model_dump()


def _subject(config: RunConfig) -> str:
    """Name the data set before it is loaded: the folder's name, or the option of the group `data`; and an ablation."""
    choices = HydraConfig.get().runtime.choices
    name = str(choices.get("data", "sweep"))
    if config.data["_target_"] == FOLDER:
        name = Path(str(config.data["root"])).expanduser().resolve().name
    return f"ablation {name}" if choices.get("search") == "ablation" else name


def name_sweep(subject: str, study_name: str) -> str:
    """Name a sweep for a narrow column: `hotdog 28 Nov 15:59`, or with the study's name if the user has chosen it."""
    try:
        begun = datetime.strptime(study_name.rpartition("-")[0], "sweep_%Y-%m-%d_%H-%M-%S")
    except ValueError:
        return f"{subject} {study_name}"
    return f"{subject} {begun.day} {begun:%b %H:%M}"


def look_at(study: SweepStudy, application: CheckedApplication, folder: Path) -> Sweep:
    """Return the current state of a sweep."""
    known = (study.name, application.config.objective, study.optuna_study.user_attrs, study.trials, study.ledger)
    return Sweep(*known, folder, application.store)


def check_no_trials_lost(sweep: Sweep, storage: str) -> None:
    """Check that a study without trials is new; `storage` says where it is.

    Raises:
        StudyError: if the study has none of the trials whose records are in the sweep's folder.
    """
    if sweep.trials:
        return
    records = [read_if_sensible(file.parent) for file in sweep.folder.glob(f"*/{RECORD_FILE}")]
    if num_lost := sum(each is not None and each.tags.get("study") == sweep.name for each in records):
        raise StudyError(
            f"hydra.sweeper.study_name={sweep.name}: {storage} has lost the {num_lost} trials that have records in "
            f"{sweep.folder}; restore it from a copy, or choose another hydra.sweeper.study_name"
        )


class SweepRun:
    """The run of a sweep in MLflow; `sweep` is in each method the current state of the sweep."""

    def __init__(self, sweep: Sweep) -> None:
        """Make the run, or go on with the one that the study notes, if the store still has it.

        Raises:
            TrackingError: if the store cannot be used.
        """
        self._uri, about, known = sweep.uri, sweep.about_run, run_id_of(sweep.attributes)
        self._live = LiveRun(sweep.folder, sweep.uri)
        record, run_id = self._live.record, known if known is not None and _has_run(sweep.uri, known) else None
        if run_id is not None and read_position(sweep.folder, sweep.uri).run_id == run_id:
            record.again()
        else:
            record.begin(about.experiment, about.name, sweep.uri, {}, run_id=run_id)
        record.log_tags(run_tags({}))
        record_sweep(sweep)
        self._live.start(may_be_away=False, closes_others=True)
        position = read_position(sweep.folder, sweep.uri)
        self.run_id, self._experiment_id = str(position.run_id), str(position.experiment_id)
        self._listed: dict[str, Any] | None = None

    def update(self, sweep: Sweep, exclusively: Callable[[], AbstractContextManager[Any]]) -> None:
        """Record what is new, and bring it to the store as soon as that answers.

        `exclusively` makes the study's other controllers wait: MLflow fails if two write the same new tag.
        """
        with suppress(DiskError):  # newer values will follow
            record_sweep(sweep)
        self._live.catch_up()
        metrics = list(dict.fromkeys(map(final_metric, [*sweep.objectives, *_COMPARED])))
        is_lower_better = OBJECTIVES[sweep.objectives[0]] == "minimize"
        view = describe_view(self.run_id, sweep.searched, metrics, ascending=is_lower_better)
        if sweep.searched and view != self._listed and self._live.may_ask:
            with suppress(TrackingOutageError), exclusively():
                self._make([Change("its view", "it is listed", partial(self._list, sweep.about_run.name, view))])
                self._listed = view

    def describe_page(self) -> list[str]:
        """Say where MLflow shows the trials, ranked and drawn; empty if it has no view of them."""
        if self._listed is None:
            return []
        return describe_page("the trials, ranked", link_to_view(self._experiment_id, self.run_id), self._uri)

    @store_errors()
    def _list(self, name: str, view: dict[str, Any]) -> None:
        """List a view of the sweep's trials on the experiment's page."""
        client = mlflow.MlflowClient()
        tags = client.get_experiment(self._experiment_id).tags
        for key, value in view_tags(tags, self.run_id, name, view).items():
            client.set_experiment_tag(self._experiment_id, key, value)

    def settle(self, sweep: Sweep, trials: Sequence[FrozenTrial] | None = None) -> None:
        """Bring the runs of some trials, or of all, to the state in the study; log what cannot be changed.

        Raises:
            TrackingError: if the store cannot be used.
        """
        self._make(changes(sweep, trials))

    def _make(self, wanted: Iterable[Change]) -> None:
        with self._live.backoff.noting_outages():
            for change, is_made in made(wanted):
                if not is_made:
                    log.warning("%s", change.what)

    def settle_soon(self, sweep: Sweep, trials: Sequence[FrozenTrial]) -> None:
        """Settle the runs of some trials; while the store is away, the end of the sweep does it, and nobody waits."""
        if self._live.may_ask:
            with suppress(TrackingOutageError):
                self.settle(sweep, trials)

    def record_duplicate(self, sweep: Sweep, trial: Trial, original: FrozenTrial) -> str:
        """Record a trial that repeats a finished one as a run of its own; return the record's id.

        Raises:
            DiskError: if the disk is full.
        """
        record = Record(sweep.folder / trial_subfolder(trial.number, None))
        tags = {STATE_TAG: original.state.name, "trial.duplicate_of": str(original.number), PARENT_TAG: self.run_id}
        tags |= trial_tags(sweep.name, trial.number, trial.user_attrs)
        name = f"trial {trial.number}: equals trial {original.number}"
        record.begin(sweep.about_run.experiment, name, sweep.uri, tags)
        recorded = read_record(sweep.folder_of(original))  # all settings, so that a comparison shows no difference
        record.log_params(by_setting(trial.params) if recorded is None else recorded.params)
        if original.state == TrialState.COMPLETE:
            objectives = dict(zip(map(final_metric, sweep.objectives), original.values, strict=False))
            record.log_metrics(final_of(original) | objectives, 0)
        record.end("FINISHED")
        if self._live.may_ask:
            with suppress(TrackingOutageError):  # the sweep's end brings it
                self._make([Change(name, "it is delivered", partial(project, record.folder, sweep.uri))])
        return record.record_id

    def end(self, sweep: Sweep, status: Status) -> None:
        """End the run; log a line if something of the sweep still waits for the store.

        Raises:
            DiskError: if the disk is full.
        """
        record_sweep(sweep, status)
        try:
            self.settle(sweep)  # first, since it begins with files on this disk
            close_dead_runs(sweep.uri, self._experiment_id)
        except TrackingOutageError as error:
            tell_what_waits(sweep.folder, sweep.uri, error)


@store_errors()
def _has_run(uri: str, run_id: str) -> bool:
    use_store(uri)
    condition = f"attributes.run_id = '{run_id}'"
    return bool(mlflow.search_runs(search_all_experiments=True, filter_string=condition, output_format="list"))
