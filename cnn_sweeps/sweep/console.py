"""What a person sees of a sweep: one live line, a line for each trial, the ranking at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from cnn_sweeps.sweep.application import Ranked
from cnn_sweeps.sweep.plan import SweepPlan
from cnn_sweeps.sweep.space import override_text
from cnn_sweeps.sweep.study.ledger import DUPLICATE_OF, RETRIED, error_of
from cnn_sweeps.sweep.study.study import SweepStudy
from cnn_sweeps.text.commands import describe_command
from cnn_sweeps.text.names import for_terminal, lines_for_terminal
from cnn_sweeps.text.numbers import counted

STATES = {"COMPLETE": "completed", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "RETRIED": "tried again"}
"""What people read of a trial's state."""
_RANKED = 10
_SHOW_EVERY_S = 0.5
_COUNTED = ("COMPLETE", "PRUNED", "FAIL", "RUNNING", "WAITING", "RETRIED")


class Console:
    """Prints lines on the terminal and into the folder's `sweep.log`; a terminal also has one live line below them."""

    def __init__(self, plan: SweepPlan, folder: Path) -> None:
        """Write the log and the results into the folder, which must exist."""
        self._plan, self.folder = plan, folder
        self._bar = tqdm(bar_format="{desc}", disable=None, leave=False, dynamic_ncols=True)
        self._shown = 0.0

    def say(self, text: str) -> None:
        """Print lines above the live line, and log them."""
        text = lines_for_terminal(text)
        tqdm.write(text, file=sys.stdout)
        now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")
        with suppress(OSError), (self.folder / "sweep.log").open("a", encoding="utf-8") as file:  # a disk may be full
            file.writelines(f"{now} {line}\n" for line in text.splitlines())

    def show(self, study: SweepStudy, num_slots: int) -> None:
        """Update the live line, at most twice a second: trials by state, estimated time left, the best trial."""
        if time.monotonic() - self._shown < _SHOW_EVERY_S:
            return
        self._shown, ledger = time.monotonic(), study.ledger
        counts, best = ledger.counts, ledger.best
        ended = counts["COMPLETE"] + counts["PRUNED"] + counts["FAIL"]
        parts = [f"{ended}/{study.total} trials: {describe_counts(counts)}"]
        if ledger.num_durations:
            num_left = study.total - ledger.num_started + counts["RUNNING"]
            left_s = round(num_left * ledger.total_duration_s / ledger.num_durations / max(1, num_slots))
            parts.append(f"about {left_s // 60}:{left_s % 60:02d} left")
        if best is not None:  # last: a narrow terminal cuts it off
            parts.append(f"best {_describe_values(best)} (trial {best.number} {describe_params(best)})")
        self._bar.set_description_str(for_terminal("; ".join(parts)))

    def keep_traceback(self, result: JobReturn | BaseException, number: int, text: str) -> None:
        """Write the traceback of a trial into its folder."""
        folder = self.folder / str(number)
        if isinstance(result, JobReturn) and result.hydra_cfg is not None:
            folder = Path(result.hydra_cfg.hydra.runtime.output_dir)
        with suppress(OSError):  # the console's line says enough
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "error.txt").write_text(text, encoding="utf-8", errors="backslashreplace")

    def report(self, study: SweepStudy, ranking: Sequence[Ranked]) -> None:
        """Show the results, and write them into `optimization_results.yaml`."""
        self._bar.set_description_str("all trials have ended; finishing the sweep")
        is_single = len(self._plan.settings.direction) == 1
        self.say(f"{describe_counts(study.ledger.counts)}; the study is for {counted(study.total, 'trial')}")
        if not ranking:
            self.say("no trial completed; see the reasons above and in the trials' folders")
            return
        self.say(describe_ranking(ranking, "Ranking" if is_single else "Pareto front"))
        if self._plan.application.about_ranking:
            self.say(self._plan.application.about_ranking)
        best = ranking[0].trial
        results: dict[str, Any] = {"best_params": best.params, "best_value": best.values[0], "best_trial": best.number}
        if not is_single:
            results = {"solutions": [{"params": each.params, "values": list(each.values)} for each, *_ in ranking]}
        OmegaConf.save(OmegaConf.create({"name": "optuna"} | results), self.folder / "optimization_results.yaml")

    def say_commands(self, best: FrozenTrial | None, to_go_on: str, to_look: Sequence[str]) -> None:
        """Show, below the results, the commands to continue with, and where to look at the results."""
        if to_go_on:
            self.say(f"To go on:\n  {to_go_on}")
        if best is not None and self._plan.application.has_best:
            params, space = best.params, self._plan.space
            searched = params.keys() if self._plan.extend else space.distributions.keys()
            own = [override_text(key, value) for key, value in params.items() if key in searched]
            command = describe_command([*self._plan.application.of_one_trial(space.fixed), *own])
            self.say(f"The best configuration, to run by itself:\n  {command}")
        if to_look:
            self.say("\n".join(to_look))

    def close(self) -> None:
        """Remove the live line."""
        self._bar.close()


def summarize(
    counts: Mapping[str, int], best: FrozenTrial | None, objective: str
) -> tuple[dict[str, float], dict[str, str]]:
    """Return metrics and tags about the trials, for the record of a sweep; `objective` names the first objective."""
    metrics = {f"trials.{state.lower()}": float(counts[state]) for state in _COUNTED}
    tags = {"trials": describe_counts(counts)}
    if best is not None:
        metrics[f"best_{objective}"] = best.values[0]
        tags |= {"best.trial": str(best.number), "best.params": describe_params(best)}
    return metrics, tags


def describe_counts(counts: Mapping[str, int]) -> str:
    """Say how many trials are in which state."""
    told = {state: f"{counts[state]} {word}" for state, word in STATES.items()}
    return ", ".join(text for state, text in told.items() if counts[state] or state != "RETRIED")


def describe_trial(trial: FrozenTrial, called: str = "trial") -> str:
    """Say in one line how a trial ended; `called` is its word in the line."""
    seconds = f"{trial.duration.total_seconds():.1f} s" if trial.duration is not None else ""
    state = "RETRIED" if trial.user_attrs.get(RETRIED) else trial.state.name
    value = _describe_values(trial) if trial.state == TrialState.COMPLETE else ""
    columns = [f"{called} {trial.number:3d}", f"{state:8s}", f"{value:>10s}", f"{seconds:>8s}", describe_params(trial)]
    columns += [error] if (error := error_of(trial)) else []
    if DUPLICATE_OF in trial.user_attrs:
        columns.append(f"equals trial {trial.user_attrs[DUPLICATE_OF]}, not run again")
    return "  ".join(columns)


def _describe_values(trial: FrozenTrial) -> str:
    return ", ".join(f"{value:.4g}" for value in trial.values)


def describe_params(trial: FrozenTrial) -> str:
    """Return the parameters as one text of overrides, floats to four significant digits."""
    return " ".join(rounded_overrides(trial))


def rounded_overrides(trial: FrozenTrial) -> list[str]:
    """Return the parameters as a list of overrides, floats to four significant digits."""
    rounded = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in trial.params.items()}
    return [override_text(key, value) for key, value in rounded.items()]


def describe_ranking(ranking: Sequence[Ranked], title: str) -> str:
    """Return lines with the best trials, one trial per line."""
    shown = ranking[:_RANKED]
    width = max(len(_describe_values(trial)) for trial, *_ in shown)
    lines = [f"{title}, {len(shown)} of {counted(len(ranking), 'completed trial')}:"]
    for rank, (trial, mark, remark) in enumerate(shown, 1):
        value = f"{mark} {_describe_values(trial):>{width}s}"
        line = f"{rank:4d}.{value}  trial {trial.number:3d}  {describe_params(trial)}"
        lines.append(f"{line}  {remark}" if remark else line)
    return "\n".join(lines)
