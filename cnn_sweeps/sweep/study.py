"""A study that several controllers may work on, one after another or at once, and that loses nothing when they die."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import random
import time
import warnings
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Any

import optuna
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from optuna.distributions import distribution_to_json
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from cnn_sweeps.errors import ConfigError, StudyError
from cnn_sweeps.owners import has_owner_died, owner_tags
from cnn_sweeps.sweep.ledger import (
    ATTEMPT,
    DUPLICATE_OF,
    ERROR,
    OWNER,
    RETRIED,
    RETRY_OF,
    SETTINGS_ID,
    TrialLedger,
    has_settings,
)
from cnn_sweeps.sweep.outcome import INTERRUPTED, Outcome
from cnn_sweeps.sweep.settings import SweepSettings
from cnn_sweeps.sweep.space import SearchSpace
from cnn_sweeps.sweep.storage import controllers_lock, describe_storage, lock_file, open_storage

_DEFINITION, SET_ASIDE = "definition", "set_aside"  # of a study

_OWNERLESS_GRACE = timedelta(seconds=60)  # where no lock tells whether a new trial's owner is about to sign
_NEEDED_PACKAGES = {"GPSampler": "torch"}  # needed only after its first, random trials
_CONSTANT_SEED = ("QMCSampler",)  # draws one sequence for the whole study


class SweepStudy:
    """The study of one sweep: hands out trials, is told what became of them, recovers those of dead controllers."""

    def __init__(self, space: SearchSpace, settings: SweepSettings, total: int, kept_settings: dict[str, Any]) -> None:
        """Open the study, or make it.

        Args:
            space: what is searched.
            settings: name and storage of the study, sampler, pruner, directions, retries.
            total: number of trials of the study, those before included.
            kept_settings: what every trial has in common and its result depends on, by key.

        Raises:
            StudyError: if the storage cannot be used, or the study was made for another space, direction or settings.
            ConfigError: if sampler or pruner cannot be built.
        """
        assert settings.storage is not None
        assert settings.study_name is not None
        self._space, self._settings, self.total = space, settings, total
        self._storage = settings.storage
        definition = {
            "directions": list(settings.direction),
            "space": {key: json.loads(distribution_to_json(each)) for key, each in space.distributions.items()},
            "settings": json.loads(json.dumps(kept_settings, default=str)),
        }
        self._settings_id = hashlib.blake2b(json.dumps(definition["settings"], sort_keys=True).encode()).hexdigest()[
            :12
        ]
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        _check_sampler(settings, space)
        pruner = build_pruner(settings.pruner)
        storage = open_storage(settings.storage)
        with controllers_lock(settings.storage):
            self.optuna_study = optuna.create_study(
                study_name=settings.study_name,
                storage=storage,
                directions=_known_directions(storage, settings.study_name) or settings.direction,
                pruner=pruner,
                load_if_exists=True,
            )
            self._check_definition(definition)
            self._ledger = self._new_ledger()

    def _new_ledger(self) -> TrialLedger:
        is_single = len(self._settings.direction) == 1
        return TrialLedger(
            minimize=self._settings.direction[0] == "minimize" if is_single else None,
            set_aside=self.optuna_study.user_attrs.get(SET_ASIDE, []),
            settings_id=self._settings_id,
        )

    def _check_definition(self, definition: dict[str, Any]) -> None:
        before = self.optuna_study.user_attrs.get(_DEFINITION)
        if before is None:  # a new study, or one that another program made
            before = definition | {"directions": [each.name.lower() for each in self.optuna_study.directions]}
        if before is not None and (changes := _differences(before, definition)):
            obstacles = _obstacles(before, definition)
            if self._settings.on_change == "refuse" or obstacles:
                advice = (
                    f"Optuna cannot continue with another {' or '.join(obstacles)}; "
                    "choose another hydra.sweeper.study_name"
                    if obstacles
                    else "choose another hydra.sweeper.study_name, or hydra.sweeper.on_change=continue"
                )
                raise StudyError(
                    f"hydra.sweeper.study_name={self.optuna_study.study_name}: was made for another sweep "
                    f"({'; '.join(changes)}); {advice}"
                )
        if self.optuna_study.user_attrs.get(_DEFINITION) != definition:
            self.optuna_study.set_user_attr(_DEFINITION, definition)

    @property
    def name(self) -> str:
        """The study's name."""
        return self.optuna_study.study_name

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials by number; not to be changed."""
        return self.optuna_study.get_trials(deepcopy=False)

    def exclusively(self) -> AbstractContextManager[None]:
        """Keep other controllers on this machine waiting while the block runs."""
        return controllers_lock(self._storage)

    def set_aside(self, numbers: Sequence[int]) -> None:
        """Count failed trials no longer, and queue them again: their cause is to be corrected."""
        with self.exclusively():
            known = self.optuna_study.user_attrs.get(SET_ASIDE, [])
            self.optuna_study.set_user_attr(SET_ASIDE, [*known, *numbers])
            for number in numbers:
                self._queue_again(self._frozen(number), attempt=0)
        self._ledger = self._new_ledger()

    @property
    def ledger(self) -> TrialLedger:
        """What the trials add up to now."""
        self._ledger.read(self.trials)
        return self._ledger

    def enqueue(self, points: Iterable[dict[str, Any]]) -> None:
        """Queue the points that are not in the study yet, to be tried before the sampler is asked."""
        with controllers_lock(self._storage):
            known = {_point_id(_known_params(trial)) for trial in self.trials}
            known |= {_point_id(_queued_params(trial)) for trial in self.trials}
            for point in points:
                if _point_id(point) not in known:
                    self.optuna_study.enqueue_trial(point)
                    known.add(_point_id(point))

    def claim(self) -> Trial | None:
        """Start the next trial and give it; None if as many as the study's total have been started."""
        while True:
            with controllers_lock(self._storage):
                num_started = self.ledger.num_started
                if num_started >= self.total:
                    return None
                self.optuna_study.sampler = build_sampler(self._settings.sampler, num_started)
                trial = self._ask()
                trial.set_user_attr(OWNER, owner_tags() | {SETTINGS_ID: self._settings_id})
                if self.ledger.num_started <= self.total:
                    return trial
                self._fail_and_queue_again(self._frozen(trial), "another controller was faster")
            time.sleep(random.uniform(0.1, 1.0))

    def _ask(self) -> Trial:
        try:
            return self.optuna_study.ask(self._space.distributions)
        except Exception as error:  # leave no trial behind that nobody runs
            for trial in self.trials:
                if trial.state == TrialState.RUNNING and OWNER not in trial.user_attrs:
                    self._fail_and_queue_again(trial, "the sampler failed")
            if isinstance(error, ValueError) and "distribution" in str(error):
                raise StudyError(
                    f"hydra.sweeper.study_name={self.name}: holds trials of another search space ({error}); "
                    "choose another hydra.sweeper.study_name"
                ) from error
            raise

    def finished_duplicate(self, trial: Trial) -> FrozenTrial | None:
        """Give a finished trial of the same parameters and settings, if there is one."""
        number = self.ledger.finished_with(trial.params)
        return None if number is None else self._frozen(number)

    def tell_duplicate(self, trial: Trial, original: FrozenTrial) -> FrozenTrial:
        """End the trial as the finished one that it repeats."""
        trial.set_user_attr(DUPLICATE_OF, original.number)
        if original.state == TrialState.PRUNED and original.last_step is not None:
            trial.report(original.intermediate_values[original.last_step], original.last_step)
        values = original.values if original.state == TrialState.COMPLETE else None
        return self._tell(trial, original.state, values)

    def tell(self, trial: Trial, outcome: Outcome) -> FrozenTrial:
        """End the trial; if it was lost, and not too often before, queue it again as a new one."""
        if outcome.error:
            trial.set_user_attr(ERROR, outcome.error[:2000])
        attempt = trial.user_attrs.get(ATTEMPT, 0)
        if outcome is INTERRUPTED or (outcome.is_lost and attempt < self._settings.max_retries):
            with controllers_lock(self._storage):
                is_lost = outcome is not INTERRUPTED
                return self._fail_and_queue_again(self._frozen(trial), outcome.error, is_lost=is_lost)
        return self._tell(trial, outcome.state, outcome.values)

    def recover(self) -> list[FrozenTrial]:
        """Fail the running trials whose controller is dead and queue them again as new ones; give them."""
        with controllers_lock(self._storage):
            abandoned = [
                trial for trial in self.trials if trial.state == TrialState.RUNNING and self._is_abandoned(trial)
            ]
            return [self._fail_and_queue_again(trial, "its controller died") for trial in abandoned]

    def _is_abandoned(self, trial: FrozenTrial) -> bool:
        if OWNER in trial.user_attrs:
            return has_owner_died(trial.user_attrs[OWNER])
        assert trial.datetime_start is not None
        started = trial.datetime_start.replace(tzinfo=UTC)
        return lock_file(self._storage) is not None or datetime.now(UTC) - started > _OWNERLESS_GRACE

    def _fail_and_queue_again(self, trial: FrozenTrial, error: str, *, is_lost: bool = False) -> FrozenTrial:
        """In an order in which nothing is lost, or done twice, if this process is killed in between."""
        storage = self.optuna_study._storage
        storage.set_trial_user_attr(trial._trial_id, RETRIED, value=True)
        storage.set_trial_user_attr(trial._trial_id, ERROR, error)
        self._queue_again(trial, trial.user_attrs.get(ATTEMPT, 0) + is_lost)
        return self._tell(trial.number, TrialState.FAIL, None)

    def _queue_again(self, trial: FrozenTrial, attempt: int) -> None:
        if all(other.user_attrs.get(RETRY_OF) != trial.number for other in self.trials):
            self.optuna_study.enqueue_trial(_known_params(trial), {RETRY_OF: trial.number, ATTEMPT: attempt})

    def _tell(self, trial: Trial | int, state: TrialState, values: list[float] | None) -> FrozenTrial:
        try:
            return self.optuna_study.tell(trial, values, state)
        except RuntimeError as error:
            if "Study.stop" not in str(error):
                raise
        self.total = self.ledger.num_started  # a sampler that has tried everything asks to stop
        return self._frozen(trial)

    def _frozen(self, trial: Trial | int) -> FrozenTrial:
        return self.trials[trial if isinstance(trial, int) else trial.number]

    def ranking(self) -> list[FrozenTrial]:
        """Give the completed trials of these settings, best first; of several objectives the Pareto front alone."""
        signs = [1 if direction == "minimize" else -1 for direction in self._settings.direction]
        losses = {  # lower is better
            trial.number: [sign * value for sign, value in zip(signs, trial.values, strict=True)]
            for trial in self.trials
            if trial.state == TrialState.COMPLETE and has_settings(trial, self._settings_id)
        }
        if len(signs) > 1:
            every = list(losses.values())
            losses = {number: own for number, own in losses.items() if not any(_dominates(each, own) for each in every)}
        trials = self.trials
        return [trials[number] for number in sorted(losses, key=lambda number: (losses[number][0], number))]


def _dominates(losses: Sequence[float], others: Sequence[float]) -> bool:
    """Tell whether a trial is nowhere worse than another one, and somewhere better."""
    return losses != others and all(mine <= its for mine, its in zip(losses, others, strict=True))


def _check_sampler(settings: SweepSettings, space: SearchSpace) -> None:
    """Have the sampler suggest a trial of a study that is thrown away, so that what it cannot do is told at once."""
    target = str(settings.sampler.get("_target_"))
    for sampler, package in _NEEDED_PACKAGES.items():
        if target.endswith(sampler) and importlib.util.find_spec(package) is None:
            raise ConfigError(f"hydra.sweeper.sampler._target_={target}: needs {package}; pip install {package}")
    sampler_of_first_trial = build_sampler(settings.sampler, 0)
    try:
        optuna.create_study(directions=settings.direction, sampler=sampler_of_first_trial).ask(space.distributions)
    except (ImportError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"hydra.sweeper.sampler._target_={target}: cannot search this space ({reason}); choose another "
            "hydra/sweeper/sampler, or change its settings or the space"
        ) from error


def build_sampler(config: dict[str, Any], num_started: int) -> BaseSampler:
    """Build the sampler of the next trial, its seed a function of the given one and of how many trials were started.

    So a sweep that is interrupted and continued tries what it would have tried.

    Raises:
        ConfigError: if it cannot be built.
    """
    reseed = not str(config.get("_target_")).endswith(_CONSTANT_SEED)
    sampler = _build("sampler", _reseeded(config, num_started) if reseed else config)
    if not isinstance(sampler, BaseSampler):
        raise ConfigError(f"hydra.sweeper.sampler._target_={config.get('_target_')}: is no Optuna sampler")
    return sampler


def build_pruner(config: dict[str, Any]) -> BasePruner:
    """Build the pruner.

    Raises:
        ConfigError: if it cannot be built.
    """
    pruner = _build("pruner", config)
    if not isinstance(pruner, BasePruner):
        raise ConfigError(f"hydra.sweeper.pruner._target_={config.get('_target_')}: is no Optuna pruner")
    return pruner


def _build(kind: str, config: dict[str, Any]) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return instantiate({key: value for key, value in config.items() if value is not None}, _convert_="all")
    except InstantiationException as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise ConfigError(
            f"hydra.sweeper.{kind}._target_={config.get('_target_')}: cannot be built ({reason})"
        ) from error


def _reseeded(config: dict[str, Any], num_started: int) -> dict[str, Any]:
    changed = {
        key: _reseeded(each, num_started) if isinstance(each, dict) and "_target_" in each else each
        for key, each in config.items()
    }
    if isinstance(config.get("seed"), int):
        digest = hashlib.blake2b(f"{config['seed']} {num_started}".encode(), digest_size=4).digest()
        changed["seed"] = int.from_bytes(digest)
    return changed


def _known_directions(storage: optuna.storages.BaseStorage, name: str) -> Sequence[StudyDirection] | None:
    """Give the directions of the study if it exists, since Optuna refuses others before the difference can be told."""
    for study in optuna.get_all_study_summaries(storage, include_best_trial=False):
        if study.study_name == name:
            return study.directions
    return None


def _known_params(trial: FrozenTrial) -> dict[str, Any]:
    """Give what is known of a trial's parameters, whether it was suggested or only queued."""
    return _queued_params(trial) | trial.params


def _queued_params(trial: FrozenTrial) -> dict[str, Any]:
    fixed: dict[str, Any] = trial.system_attrs.get("fixed_params", {})
    return fixed


def _point_id(params: dict[str, Any]) -> str:
    return json.dumps(params, sort_keys=True)


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    changes = []
    if before["directions"] != now["directions"]:
        changes.append(f"direction: {', '.join(before['directions'])} -> {', '.join(now['directions'])}")
    for part, show in (("space", _show_distribution), ("settings", str)):
        for key in sorted(before[part].keys() | now[part].keys()):
            old, new = before[part].get(key), now[part].get(key)
            if old != new:
                changes.append(f"{key}: {'-' if old is None else show(old)} -> {'-' if new is None else show(new)}")
    return changes


def _obstacles(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Name what Optuna cannot change in a study."""
    obstacles = ["direction"] if before["directions"] != now["directions"] else []
    for key in before["space"].keys() & now["space"].keys():
        old, new = before["space"][key], now["space"][key]
        is_list = "CategoricalDistribution" in (old["name"], new["name"])
        is_other_type = (old["name"], old["attributes"].get("log")) != (new["name"], new["attributes"].get("log"))
        if old != new and (is_list or is_other_type):
            obstacles.append(f"list of values of {key}" if is_list else f"type of {key}")
    return obstacles


def _show_distribution(distribution: dict[str, Any]) -> str:
    attributes = distribution["attributes"]
    if "choices" in attributes:
        return f"choice({','.join(str(choice) for choice in attributes['choices'])})"
    told = ", log" if attributes["log"] else ""
    told += f", step {attributes['step']:g}" if attributes["step"] not in (None, 1) else ""
    return f"[{attributes['low']:g}, {attributes['high']:g}{told}]"


def describe_study(settings: SweepSettings, space: SearchSpace) -> dict[str, str]:
    """Say in plain words what a sweep searches, how and where it is kept."""
    return {
        "search space": "; ".join(
            f"{key} in {_show_distribution(json.loads(distribution_to_json(each)))}"
            for key, each in space.distributions.items()
        ),
        "sampler": str(settings.sampler.get("_target_")),
        "pruner": str(settings.pruner.get("_target_")),
        "direction": ", ".join(settings.direction),
        "storage": describe_storage(settings.storage or ""),
    }
