"""What this application adds to its sweeps: checks, the record in MLflow, the test of the chosen trials."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from optuna.trial import FrozenTrial, Trial, TrialState

from cnn_sweeps.data.folder import list_folder
from cnn_sweeps.data.images import forget_images
from cnn_sweeps.errors import ConfigError, DiskError, OutageError, TrackingError, TrackingOutageError
from cnn_sweeps.evaluation.metrics import describe_no_better, describe_test
from cnn_sweeps.experiment.kept import WEIGHTS_FILE, TrialFolder
from cnn_sweeps.experiment.parts import final_metric
from cnn_sweeps.experiment.trial import (
    DATA,
    DATA_TOLD,
    FOLDER,
    PROGRAM,
    RECORD,
    STORE,
    STUDY_RUN_ID,
    record_of,
    run_id_of,
    subfolder_of,
)
from cnn_sweeps.selection.leftovers import remove_checkpoints
from cnn_sweeps.selection.report import write_report
from cnn_sweeps.selection.sweep_run import SweepRun, open_sweep_run
from cnn_sweeps.settings.config import check_config
from cnn_sweeps.settings.schema import OBJECTIVES, RunConfig
from cnn_sweeps.settings.stored_config import Trusted, trusted_of
from cnn_sweeps.settings.targets import targets_in_folder
from cnn_sweeps.sweep.application import SweepApplication
from cnn_sweeps.sweep.console import summarize
from cnn_sweeps.sweep.jobs.executor import Executor, call_until_worker_lasts
from cnn_sweeps.sweep.space import by_setting
from cnn_sweeps.sweep.study.address import trial_subfolder
from cnn_sweeps.sweep.study.ledger import owner_of, trial_tags
from cnn_sweeps.sweep.study.storage import is_only_here
from cnn_sweeps.sweep.study.study import SweepStudy
from cnn_sweeps.system.libraries import prepare_libraries
from cnn_sweeps.system.owners import is_here
from cnn_sweeps.system.patience import patiently
from cnn_sweeps.text.commands import describe_command
from cnn_sweeps.text.names import for_terminal
from cnn_sweeps.text.passwords import hide_passwords
from cnn_sweeps.tracking.address import find_store
from cnn_sweeps.tracking.delivery import project_all
from cnn_sweeps.tracking.entry import NOTE_TAG, PARENT_TAG, STATE_TAG, Status, read_run
from cnn_sweeps.tracking.page import WINNER_NOTE, describe_sweep

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")
_RETRAINED = "retrained.trial"  # of a study
_REPORT = "report"  # folder of what is drawn and written of a sweep
_FOLDER_SOURCE = "cnn_sweeps.data.load_folder"


def _evaluate_trial(*arguments: Any) -> list[str]:
    """Do what `champion.evaluate_trial` does, in a worker: the controller imports nothing slow."""
    prepare_libraries()
    from cnn_sweeps.selection.champion import evaluate_trial

    return evaluate_trial(*arguments)


def _retrain_trial(*arguments: Any) -> list[str]:
    """Do what `retraining.retrain_trial` does, in a worker."""
    prepare_libraries()
    from cnn_sweeps.selection.retraining import retrain_trial

    return retrain_trial(*arguments)


class CnnSweep(SweepApplication):
    """Trials are runs of `cnn_sweeps.train`."""

    worker_module = "cnn_sweeps.selection.worker"
    about_ranking = WINNER_NOTE
    _config: RunConfig
    _folder: Path
    _study: SweepStudy
    _run: SweepRun | None = None
    _store = ""
    _name = ""
    _searched: tuple[str, ...] = ()
    _listed_root = ""
    _fixed: dict[str, Any] | None = None
    _is_data_told = False
    _trusted = Trusted()

    def check(self, config: DictConfig, directions: Sequence[str]) -> dict[str, Any]:
        """Check a trial's configuration and the objectives' directions; give the settings that matter to them.

        Raises:
            ConfigError: to refuse the sweep.
            DataError: if the folder of images is missing or empty.
        """
        self._config = checked = check_config(config)
        self._trust(checked)
        known = checked.settings if self._fixed is None else self._fixed
        self._fixed = {key: value for key, value in known.items() if checked.settings.get(key) == value}
        self._store = self._store or find_store(checked.tracking)
        root = str(checked.data.get("root"))
        if checked.data["_target_"] == _FOLDER_SOURCE and root != self._listed_root:
            list_folder(root, checked.data.get("follow_links", False))
            self._listed_root = root
        needed = [OBJECTIVES[name] for name in checked.objective]
        if list(directions) != needed:
            names = checked.objective if len(needed) > 1 else checked.objective[0]
            fix = f"[{','.join(needed)}]" if len(needed) > 1 else needed[0]
            given = f"[{','.join(directions)}]" if len(directions) > 1 else directions[0]
            raise ConfigError(
                f"hydra.sweeper.direction={given}: does not fit objective={names}; set hydra.sweeper.direction={fix}"
            )
        return checked.settings_of_result

    def _trust(self, config: RunConfig) -> None:
        """Let the configuration that a trial keeps name what this sweep's own does, and its config groups do."""
        sources = [each.path for each in HydraConfig.get().runtime.config_sources if each.schema == "file"]
        in_groups = [] if self._trusted.targets else [t for each in sources for t in targets_in_folder(Path(each))]
        trusted = trusted_of(config, *self._trusted.targets, *in_groups)
        self._trusted = replace(trusted, texts={*trusted.texts, *self._trusted.texts})

    def only_here(self) -> list[tuple[str, str]]:
        """Give `tracking.uri` if it is a file or a server that no other machine can reach."""
        if self._store == "databricks" or not is_only_here(self._store):
            return []
        fix = "run `mlflow server` where both reach it, with a password (docs/servers.md), and set tracking.uri to it"
        return [(f"tracking.uri={hide_passwords(self._store)}", fix)]

    def begin(self, study: SweepStudy, about: dict[str, str], folder: Path) -> None:
        """Make or reopen the sweep's run.

        Raises:
            TrackingError: if the store cannot be used.
        """
        gc.enable()  # which was off for a quick start
        if "joblib" in str(HydraConfig.get().launcher.get("_target_")):
            os.environ["JOBLIB_MULTIPROCESSING"] = "1"  # else it runs jobs in threads, where they mix up their settings
        prepare_libraries()
        forget_images()
        self._study, self._folder = study, folder
        tracking = self._config.tracking
        self._name = tracking.run_name or f"sweep {study.name.removeprefix('sweep_')}"
        objective = ", ".join(self._config.objective)
        known_store = study.optuna_study.user_attrs.get(STORE)
        if known_store not in (None, hide_passwords(self._store)):
            raise TrackingError(
                f"tracking.uri={hide_passwords(self._store)}: the study {study.name} is recorded in {known_store}; "
                "name that one, or choose another hydra.sweeper.study_name"
            )
        with study.exclusively():  # so that two controllers share one run
            study.optuna_study.set_user_attr(STORE, hide_passwords(self._store))
            self._run = open_sweep_run(
                self._store,
                tracking.experiment_name,
                self._name,
                run_id_of(study.optuna_study.user_attrs),
                {"study": study.name, "objective": objective, "n_trials": str(study.total)}
                | {f"sweep.{key.replace(' ', '_')}": text for key, text in about.items()}
                | {NOTE_TAG: describe_sweep(objective, study.total, about)},
                folder,
            )
            study.optuna_study.set_user_attr(STUDY_RUN_ID, self._run.run_id)
            study.optuna_study.set_user_attr(PROGRAM, describe_command([]))
            self._settle()

    def _settle(self) -> None:
        """Bring the sweep's runs up to date, and give them their trials' ends where processes were killed."""
        assert self._run is not None
        trials = self._study.trials
        self._run.close_trials((trial, self._folder_of(trial)) for trial in trials if trial.state.is_finished())
        project_all(self._folder, self._store)
        self._run.close_elsewhere(trials)

    def _folder_of(self, trial: FrozenTrial) -> Path:
        return self._folder / subfolder_of(trial)

    def update(self, study: SweepStudy) -> None:
        """Record counts by state and the best value so far."""
        with suppress(DiskError):  # newer ones will follow
            self._record(study)

    def _record(self, study: SweepStudy) -> None:
        assert self._run is not None
        self._run.log(*summarize(study.ledger, self._config.objective[0]))
        with suppress(TrackingOutageError):  # it is tried again with the next trial
            self._note_searched(study.trials)

    def _note_searched(self, trials: Sequence[FrozenTrial]) -> None:
        """Have MLflow's pages tell what is searched, which a conditional space adds to, from what is fixed."""
        assert self._run is not None
        searched = tuple(dict.fromkeys(key for trial in trials for key in by_setting(trial.params)))
        if searched == self._searched:
            return
        assert self._fixed is not None
        objectives = self._config.objective
        shown = [*objectives, "val_log_loss", "val_accuracy", "val_accuracy_of_commonest_class"]
        metrics = dict.fromkeys(map(final_metric, shown))
        is_lower_better = OBJECTIVES[objectives[0]] == "minimize"
        groups = tuple(f"{key}." for key in searched)
        fixed = {key: value for key, value in self._fixed.items() if key not in searched and not key.startswith(groups)}
        with self._study.exclusively():  # MLflow fails where two controllers write the same new tag
            self._run.list_view(self._name, searched, list(metrics), ascending=is_lower_better)
            self._run.log_params(fixed)  # so that a comparison with the sweep's run finds only searched keys to differ
        self._searched = searched

    def news(self, study: SweepStudy) -> list[str]:
        """Give, once, what the first trial to load the images said of them."""
        told = None if self._is_data_told else study.optuna_study.user_attrs.get(DATA_TOLD)
        self._is_data_told = self._is_data_told or told is not None
        return [for_terminal(str(line)) for line in told or []]

    def record_duplicate(self, trial: Trial, original: FrozenTrial) -> None:
        """Record a trial that repeats a finished one as a run of its own.

        Raises:
            DiskError: if the disk is full; to be called again then.
        """
        assert self._run is not None
        values = original.values if original.state == TrialState.COMPLETE else []
        tags = trial_tags(self._study.name, trial.number, trial.user_attrs) | {
            STATE_TAG: original.state.name,
            "trial.duplicate_of": str(original.number),
        }
        metrics = dict(zip(map(final_metric, self._config.objective), values, strict=False))
        # the settings too, so that a comparison of the two finds no difference
        recorded = read_run(self._folder_of(original))
        params = by_setting(trial.params) if recorded is None else recorded.params
        name = f"trial {trial.number}: equals trial {original.number}"
        folder = self._folder / trial_subfolder(trial.number, None)
        trial.set_user_attr(RECORD, self._run.record_trial(folder, name, tags, metrics, params))

    def close_lost(self, trials: Sequence[FrozenTrial]) -> None:
        """Close the runs of trials that were killed, lost, or left by a dead controller."""
        if self._run is not None:
            self._run.close_trials((trial, self._folder_of(trial)) for trial in trials)
            with suppress(TrackingOutageError):
                self._run.close_elsewhere(trials)

    def finish(self, study: SweepStudy, executor: Executor) -> list[str]:
        """Test and register the best trials, draw the report; give what to say of it."""
        assert self._run is not None
        self._record(study)
        lines = []
        chosen = self._chosen()
        for rank, trial in enumerate(chosen):
            lines += self._evaluate(trial, executor, is_best=rank == 0)
        if self._config.retrain_best:
            lines += self._retrain(executor)
        lines += self._warn_of_chance(chosen[:1])
        folder = self._folder / _REPORT
        folder.mkdir(exist_ok=True)
        with_pictures = self._config.evaluation.pictures != "none"
        write_report(study.optuna_study, self._config.objective, folder, with_pictures=with_pictures)
        lines += self._report_ablation(study.ranking(), folder)
        for name in ("multirun.yaml", "optimization_results.yaml"):
            text = (self._folder / name).read_text(encoding="utf-8")
            (folder / name).write_text(hide_passwords(text), encoding="utf-8")
        self._run.log_files(folder.iterdir())
        return sorted(lines, key=lambda line: line.startswith("warning: "))  # below all results

    def _warn_of_chance(self, trials: Sequence[FrozenTrial]) -> list[str]:
        """Say of trials that they are no better than naming the commonest class."""
        assert self._run is not None
        lines = []
        with suppress(TrackingOutageError):  # all is done by then
            for trial in trials:
                no_better = describe_no_better(self._run.read_trial(trial, self._folder_of(trial))[0])
                lines += [f"warning: trial {trial.number}: {no_better}"] if no_better else []
        return lines

    def _retrain(self, executor: Executor) -> list[str]:
        """Train the best trial's configuration on training and validation images, unless that was done before."""
        assert self._run is not None
        trial = next(iter(self._chosen()), None)
        if trial is None or not (self._folder_of(trial) / WEIGHTS_FILE).exists():
            return []
        study, number = self._study.optuna_study, str(trial.number)
        if study.user_attrs.get(_RETRAINED) == number:
            return [f"trial {number} was retrained before"]
        lines: list[str] = call_until_worker_lasts(
            executor,
            _retrain_trial,
            self._left_by(trial),
            {PARENT_TAG: self._run.run_id, "study": self._study.name, "retrained.trial": number},
            self._config.evaluate_best > 0,
            self._config.tracking.log_model,
        )
        study.set_user_attr(_RETRAINED, number)
        return lines

    def _report_ablation(self, trials: Sequence[FrozenTrial], folder: Path) -> list[str]:
        """Write table and picture of an ablation, if the sweep is one; give them, and the verdicts, as text."""
        is_ablation = trials and all({"ablation", "seed"} <= trial.params.keys() for trial in trials)
        is_ablation = is_ablation and all(map(record_of, trials))
        if not is_ablation or len(self._config.objective) > 1:
            return []
        from cnn_sweeps.selection.ablation import AblationTraining, write_ablation

        assert self._run is not None
        trainings = [
            AblationTraining(
                trial.params["ablation"],
                trial.params["seed"],
                *_patiently(self._run.read_trial, trial, self._folder_of(trial)),
            )
            for trial in sorted(trials, key=lambda trial: trial.number)
        ]
        return write_ablation(trainings, self._config.training.early_stopping.patience, folder)

    def _chosen(self) -> list[FrozenTrial]:
        """Give the trials to test; at least the best one if its model is to be kept."""
        config = self._config
        num_chosen = max(config.evaluate_best, 1 if config.tracking.log_model or config.retrain_best else 0)
        ran = [trial for trial in self._study.ranking() if FOLDER in trial.user_attrs]  # which duplicates do not note
        return ran[:num_chosen]

    def _evaluate(self, trial: FrozenTrial, executor: Executor, *, is_best: bool) -> list[str]:
        """Test the trial unless that was done before; register the best one."""
        folder = self._folder_of(trial)
        if not (folder / WEIGHTS_FILE).exists():
            owner = owner_of(trial)
            if not is_here(owner):
                where = owner.get("owner.host")
                return [f"trial {trial.number}: its weights are on {where}; the same command there tests it"]
            return [f"trial {trial.number}: its weights were not kept; train it again to test it"]
        if (recorded := read_run(folder)) is None:
            return [f"trial {trial.number}: its record is not there; train it again to test it"]
        done = recorded.tags
        on_test = self._config.evaluate_best > 0 and "test.evaluated" not in done
        keep_model = is_best and self._config.tracking.log_model and "registered.model" not in done
        if not on_test and not keep_model:
            if "test.evaluated" in done:
                return [f"trial {trial.number} was tested before: {describe_test(recorded.newest)}"]
            return [f"trial {trial.number}: its model was registered before"] if "registered.model" in done else []
        return _patiently(  # what is cut off is done again
            call_until_worker_lasts,
            executor,
            _evaluate_trial,
            self._left_by(trial),
            {"study": self._study.name, "trial.number": str(trial.number)},
            trial.values[0],
            on_test,
            keep_model,
        )

    def _left_by(self, trial: FrozenTrial) -> TrialFolder:
        fingerprint = self._study.optuna_study.user_attrs[DATA]
        return TrialFolder(str(self._folder_of(trial)), trial.number, fingerprint, self._trusted)

    def end(self, status: Status) -> None:
        """Close the sweep's run."""
        if self._run is not None:
            with suppress(OutageError):
                self._record(self._study)
                remove_checkpoints(Path(self._config.training.checkpoint_dir), self._study.trials)
            with suppress(OutageError):
                self._run.log_files([self._folder / "sweep.log"])
                self._settle()
            self._run.end(status)


def _patiently(function: Callable[..., Answer], *arguments: Any) -> Answer:
    """Call what may be called again, and wait where the store is away for a while."""
    return patiently(partial(function, *arguments), log.warning)
