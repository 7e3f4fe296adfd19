"""The end of a sweep: test the best trials, register and retrain the champion, write the report."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from cnn_sweeps.evaluation.html_file import REPORT_FILE, evaluation_in
from cnn_sweeps.evaluation.metrics import describe_no_better, describe_test
from cnn_sweeps.experiment.notes import (
    DATA,
    DATA_TOLD,
    RANKING,
    REGISTERED,
    RETRAINED,
    TESTED,
    VERDICTS,
    subfolder_of,
)
from cnn_sweeps.experiment.parts import RESULTS
from cnn_sweeps.experiment.trial_folder import WEIGHTS_FILE, TrialFolder
from cnn_sweeps.selection.ablation import Ablation, write_ablation
from cnn_sweeps.selection.agreement import REPORT, read_if_sensible
from cnn_sweeps.selection.claims import AblationTraining
from cnn_sweeps.selection.outcome import is_ablation, noted_about
from cnn_sweeps.selection.report import write_table
from cnn_sweeps.selection.standing import Standing, describe_uncertainty
from cnn_sweeps.selection.sweep_report import Swept, write_report
from cnn_sweeps.settings.schema import RunConfig
from cnn_sweeps.settings.stored_config import Trusted
from cnn_sweeps.sweep.study.ledger import final_of, owner_of
from cnn_sweeps.sweep.study.study import SweepStudy
from cnn_sweeps.system.files import collecting_failures
from cnn_sweeps.system.owners import is_here
from cnn_sweeps.system.patience import patiently
from cnn_sweeps.text.commands import Command
from cnn_sweeps.text.names import for_markdown
from cnn_sweeps.text.numbers import counted
from cnn_sweeps.text.passwords import hide_passwords
from cnn_sweeps.tracking.database.address import store_of
from cnn_sweeps.tracking.record.entry import PARENT_TAG
from cnn_sweeps.tracking.record.record import short_path
from cnn_sweeps.tracking.usage import command_to_look, commands_of_record

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finishing:
    """The last step of a sweep.

    Attributes:
        study: of the sweep.
        config: of the sweep.
        folder: of the sweep's files.
        run_id: of the sweep's own run in MLflow.
        trusted: what the stored configuration of a trial may name.
        call: calls a function, `module:function`, where trials run.
    """

    study: SweepStudy
    config: RunConfig
    folder: Path
    run_id: str
    trusted: Trusted
    call: Callable[..., Any]

    def finish(self, standing: Standing) -> list[str]:
        """Do all that was not done before; return the lines to show."""
        config = self.config
        num_chosen = max(config.evaluate_best, 1 if config.tracking.log_model or config.retrain_best else 0)
        chosen = standing.order[:num_chosen]
        self._note(standing)
        lines = [*standing.told, *describe_uncertainty(standing, config)]
        lines += [line for rank, trial in enumerate(chosen) for line in self.evaluate(trial, is_best=rank == 0)]
        if chosen and config.retrain_best:
            lines += self._retrain(chosen[0])
        if chosen and (no_better := describe_no_better(self._measured(chosen[0]))):
            lines.append(f"warning: trial {chosen[0].number}: {no_better}")
        lines += self._report(standing)
        return sorted(lines, key=lambda line: line.startswith("warning: "))  # warnings last

    def _note(self, standing: Standing) -> None:
        """Note in the study which trial is the champion, its values with other seeds, and the ties with the best."""
        if not standing.by_value or len(self.config.objective) > 1:
            return
        again = {str(number): values for number, values in standing.again.items()}
        first = {"best": standing.by_value[0].number, "champion": standing.order[0].number}
        noted: dict[str, Any] = first | {"again": again}
        if (known := standing.uncertainty) is not None:
            noted |= {"trials": len(known.is_tied), "images": known.num_images, "tied": standing.tied}
            noted["luck"] = known.luck
        self.study.optuna_study.set_user_attr(RANKING, noted)

    @property
    def _done(self) -> dict[str, Any]:
        return self.study.optuna_study.user_attrs

    def _tested(self, trial: FrozenTrial) -> dict[str, float]:
        tested = self._done.get(f"{TESTED}{trial.number}")
        if tested is None and self._did_before(trial, "test.evaluated"):
            return self._recorded(trial)
        return tested if isinstance(tested, dict) else {}

    def _measured(self, trial: FrozenTrial) -> dict[str, float]:
        return (final_of(trial) or self._recorded(trial)) | self._tested(trial)

    def _recorded(self, trial: FrozenTrial) -> dict[str, float]:
        """Return the metrics in a trial's record, if the study lacks them: it was away, or of an earlier version."""
        recorded = read_if_sensible(self.folder / subfolder_of(trial))
        return {} if recorded is None else recorded.newest

    def _did_before(self, trial: FrozenTrial, tag: str) -> bool:
        """Return whether an earlier version of the package has set a tag in a trial's record."""
        recorded = read_if_sensible(self.folder / subfolder_of(trial))
        return recorded is not None and tag in recorded.tags

    def evaluate(self, trial: FrozenTrial, *, is_best: bool) -> list[str]:
        """Test the trial and, if it is the best one, register it, unless that was done before; return lines to show."""
        number, folder, owner = trial.number, self.folder / subfolder_of(trial), owner_of(trial)
        tested = self._tested(trial)
        is_registered = self._done.get(REGISTERED) == number or self._did_before(trial, "registered.model")
        on_test = self.config.evaluate_best > 0 and not tested
        keep_model = is_best and self.config.tracking.log_model and not is_registered
        if not on_test and not keep_model:
            if tested:
                return [f"trial {number} was tested before: {describe_test(tested)}"]
            return [f"trial {number}: its model was registered before"] if is_registered else []
        if not (folder / WEIGHTS_FILE).exists():
            if not is_here(owner):
                host = owner.get("owner.host")
                return [f"trial {number}: its weights are on {host}; run the same command there to test it"]
            return [f"trial {number}: its weights were not kept; train it again to test it"]
        tags = {"study": self.study.name, "trial.number": str(number), "sweep.run_id": self.run_id}
        asked = {"confirm": self.config.confirm, "prefer": self.config.prefer}
        if by := [f"{key}={each}" for key, each in asked.items() if each]:
            tags["chosen.by"] = " ".join(by)  # not by its value alone
        chosen = self._describe_choice() if keep_model else ""
        act = partial(self._call, "evaluate_trial", trial, tags, trial.values[0], on_test, chosen, self.config.report)
        return patiently(act, log.warning)  # after an outage, all of it is done again

    def _describe_choice(self) -> str:
        """Say which sweep has chosen a trial, out of how many: that stays true, whoever has the alias `champion`."""
        trials = counted(self.study.ledger.counts["COMPLETE"], "completed trial")
        return f"Chosen by the sweep {for_markdown(noted_about(self._done).name or self.study.name)} out of {trials}"

    def _retrain(self, trial: FrozenTrial) -> list[str]:
        """Train the trial's configuration on training and validation images, unless that was done before."""
        if self._done.get(RETRAINED) == str(trial.number):
            return [f"trial {trial.number} was retrained before"]
        if not (self.folder / subfolder_of(trial) / WEIGHTS_FILE).exists():
            return []
        tags = {PARENT_TAG: self.run_id, "study": self.study.name, "retrained.trial": str(trial.number)}
        return self._call("retrain_trial", trial, tags, self.config.evaluate_best > 0, self.config.tracking.log_model)

    def _call(self, function: str, trial: FrozenTrial, *arguments: Any) -> list[str]:
        """Call a function of `chosen` where trials run, note in the study what it has done; return lines to show."""
        left = TrialFolder(str(self.folder / subfolder_of(trial)), trial.number, self._done[DATA], self.trusted)
        lines, done = self.call(f"cnn_sweeps.selection.chosen:{function}", left, *arguments)
        for key, value in done.items():
            self.study.optuna_study.set_user_attr(key, value)
        return list(lines)

    def _report(self, standing: Standing) -> list[str]:
        """Write the table and the report; return lines to show, those of an ablation, too."""
        folder = self.folder / REPORT
        folder.mkdir(exist_ok=True)
        write_table(self.study.optuna_study, standing, folder)
        for name in ("multirun.yaml", "optimization_results.yaml"):
            text = (self.folder / name).read_text(encoding="utf-8")
            (folder / name).write_text(hide_passwords(text), encoding="utf-8")
        ablation = self._judge_ablation(sorted(standing.by_value, key=lambda trial: trial.number))
        if ablation is not None:
            self.study.optuna_study.set_user_attr(VERDICTS, ablation.verdicts)
        lines, failures = [] if ablation is None else ablation.lines, list[str]()
        with collecting_failures(failures, f"warning: {REPORT_FILE} cannot be written"):
            swept, commands, with_charts = *self._describe(standing), self.config.evaluation.pictures != "none"
            write_report(folder, swept, commands, ablation, with_charts=with_charts)
            lines.append(f"The report, for a browser: {short_path(folder / REPORT_FILE)}")
        return [*lines, *failures]

    def _judge_ablation(self, trials: Sequence[FrozenTrial]) -> Ablation | None:
        """If the trials, by number, are an ablation, judge it and write its table and picture."""
        config = self.config
        measured = [trial for trial in trials if self._measured(trial)]
        if not measured or not is_ablation(trials) or len(config.objective) > 1:
            return None
        has_epochs = config.objective == ["val_log_loss"] and config.repeats * config.folds == 1
        trainings = [
            AblationTraining(
                trial.params["ablation"],
                trial.params["seed"],
                self._measured(trial),
                [value for _, value in sorted(trial.intermediate_values.items()) if has_epochs],
            )
            for trial in measured
        ]
        return write_ablation(trainings, config.training.early_stopping.patience, self.folder / REPORT)

    def _describe(self, standing: Standing) -> tuple[Swept, list[Command]]:
        """Return the content of the report, and commands to go on with."""
        study, uri, noted = self.study, store_of(self.config.tracking), self._done
        about = noted_about(noted)
        again = about.tags.get("sweep.command", "")
        commands = [Command("To repeat this sweep, under another study name:", again)]
        metrics, evaluation = dict[str, float](), None
        if standing.order:
            place, metrics = self.folder / subfolder_of(standing.order[0]), self._measured(standing.order[0])
            evaluation = evaluation_in(place / RESULTS / REPORT_FILE, with_images=self.config.report.images)
            commands += commands_of_record(place, uri, f"trial {standing.order[0].number}")
        swept = Swept(
            name=about.name or study.name,
            counts=study.ledger.counts,
            trials=study.trials,
            standing=standing,
            objectives=self.config.objective,
            notes=[*standing.told, *describe_uncertainty(standing, self.config)],
            metrics=metrics,
            data_told=noted.get(DATA_TOLD, []),
            evaluation=evaluation,
        )
        look = command_to_look(uri)
        return swept, commands if look is None else [*commands, look]
