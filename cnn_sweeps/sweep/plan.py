"""The plan of a sweep, checked before its first trial: what it searches and what it tries first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_method
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict, read_write
from optuna.distributions import CategoricalDistribution
from optuna.trial import Trial

from cnn_sweeps.errors import ConfigError
from cnn_sweeps.settings.environment import move_passwords
from cnn_sweeps.sweep.application import SweepApplication
from cnn_sweeps.sweep.introduction import pin
from cnn_sweeps.sweep.jobs.executor import JobsAhead
from cnn_sweeps.sweep.settings import DEFAULT_NUM_TRIALS, SweepSettings, check_settings
from cnn_sweeps.sweep.space import SearchSpace, extreme_values, find_value, parse_search_space, setting_name
from cnn_sweeps.sweep.study.address import is_only_here, parse_address
from cnn_sweeps.sweep.study.samplers import build_setting

_NOT_KEPT = ("hydra.mode=", "hydra.sweeper.study_name=")


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep will do.

    Attributes:
        settings: of the sweeper.
        space: what is searched.
        extend: suggests further parameters of a trial.
        points: to try before the sampler chooses.
        total: number of trials of the study.
        application: what the application adds.
        shared_settings: settings that are equal in all trials, and that results depend on.
        overrides: the command line, without the study's name.
        called: the console's word for a trial.
    """

    settings: SweepSettings
    space: SearchSpace
    extend: Callable[[Trial], None] | None
    points: list[dict[str, Any]]
    total: int
    application: SweepApplication
    shared_settings: dict[str, Any]
    overrides: list[str]
    called: str = "trial"

    @property
    def num_points(self) -> int | None:
        """Number of different trials, if none runs twice; None if there is no limit, or trials may repeat."""
        return self.space.num_points if self.extend is None and self.settings.deterministic else None

    @property
    def is_grid(self) -> bool:
        """Whether the sweep tries every point of the space, and no other."""
        return self.extend is None and self.total == self.space.num_points == len(self.points)

    @property
    def jobs_ahead(self) -> JobsAhead:
        """What the executor must be able to do."""
        address, only_here = self.settings.address, self.application.only_here()
        if address.target is None and is_only_here(address.place):
            fix = "name a database that all machines reach, e.g. postgresql+psycopg://USER@HOST/studies"
            only_here = [(f"hydra.sweeper.storage={address.shown}", fix), *only_here]
        return JobsAhead(
            self.settings.n_jobs or 1,
            at_most=self.total,
            timeout_s=self.settings.trial_timeout_s,
            worker_module=self.application.worker_module,
            only_here=only_here,
        )


def prepare_sweep(arguments: Sequence[str], loader: ConfigLoader, config: DictConfig) -> SweepPlan:
    """Read the settings, and check all that can be checked before the first trial.

    Raises:
        UserError: for whatever the user can fix.
    """
    move_passwords(config)  # again: another application may not have the callback that does it
    given: dict[str, Any] = OmegaConf.to_container(config.hydra.overrides, resolve=False)  # type: ignore[assignment]
    _pin_storage(config)
    settings = check_settings(OmegaConf.to_container(config.hydra.sweeper, resolve=True))  # type: ignore[arg-type]
    group = settings.preset_group
    chosen = config.hydra.runtime.choices.get(group) if group is not None else None
    kept = [each for each in arguments if group is None or not each.startswith(f"{group}=")]
    is_chosen = len(kept) < len(arguments) or chosen not in (None, settings.default_preset)
    space = parse_search_space(kept, settings.params, loader, is_preset_chosen=is_chosen)
    extend = _load_extension(settings, space, config)
    points = _points_to_try_first(settings, space, is_extended=extend is not None)
    application = SweepApplication()
    if settings.application is not None:
        application = build_setting("application", settings.application, SweepApplication, "SweepApplication")

    def compose(point: dict[str, Any]) -> DictConfig:
        return loader.load_sweep_config(config, space.overrides_of(point))

    shared_settings = _check_trials(space, compose, lambda each: application.check(each, settings.direction))
    return SweepPlan(
        settings=settings,
        space=space,
        extend=extend,
        points=points or _current_point(space, config if set(space.fixed) <= set(arguments) else compose({})),
        total=settings.n_trials or DEFAULT_NUM_TRIALS,
        application=application,
        shared_settings=shared_settings,
        overrides=[each for each in [*given["hydra"], *given["task"]] if not each.startswith(_NOT_KEPT)],
    )


def _pin_storage(config: DictConfig) -> None:
    """Write the storage of the study into the configuration, which every job composes again."""
    sweeper = config.hydra.sweeper
    storage = sweeper.storage or f"studies/{sweeper.study_name}.journal"
    if isinstance(storage, str) and (address := parse_address(storage)).file is not None:
        pin(config, "storage", address.absolute_place)  # jobs may work in folders of their own


def _load_extension(settings: SweepSettings, space: SearchSpace, config: DictConfig) -> Callable[[Trial], None] | None:
    if settings.custom_search_space is None:
        if not space.distributions:
            raise ConfigError(
                "nothing to search; name values, e.g. model.l2=1e-4,1e-3, or an interval, "
                "e.g. 'model.l2=tag(log,interval(1e-6,1e-2))', or choose a preset with search=..."
            )
        return None
    try:
        extend = get_method(settings.custom_search_space)
    except Exception as error:
        raise ConfigError(
            f"hydra.sweeper.custom_search_space={settings.custom_search_space}: cannot be imported "
            f"({' '.join(str(error).split())}); give the dotted path of a function(config, trial)"
        ) from error
    fixed = {setting_name(override.partition("=")[0]) for override in space.fixed}

    def extend_trial(trial: Trial) -> None:
        extend(config, trial)
        if overlap := sorted(fixed & set(map(setting_name, trial.params))):
            raise ConfigError(
                f"{', '.join(overlap)}: both the command line and {settings.custom_search_space} set this; "
                "remove it from one of the two"
            )

    return extend_trial


def _points_to_try_first(settings: SweepSettings, space: SearchSpace, *, is_extended: bool) -> list[dict[str, Any]]:
    """Return the points that the user enqueues and, for a grid, all its points; set the number of trials of a grid."""
    points = [_known_point(index, point, space) for index, point in enumerate(settings.enqueue)]
    is_grid_asked = str(settings.sampler.get("_target_")).endswith(".GridSampler")
    if is_grid_asked:
        settings.sampler = {"_target_": "optuna.samplers.RandomSampler"}  # not used: every point is enqueued
    num_points = space.num_points
    is_small_enough = num_points is not None and num_points <= (settings.n_trials or num_points)
    if is_grid_asked or (space.is_named and is_small_enough and not is_extended):
        points += [point for point in space.grid() if point not in points]
        settings.n_trials = min(settings.n_trials or len(points), len(points))
    return points


def _known_point(index: int, point: dict[str, Any], space: SearchSpace) -> dict[str, Any]:
    known = {}
    for key, value in point.items():
        told = f"hydra.sweeper.enqueue[{index}].{key}"
        if key not in space.distributions:
            searched = ", ".join(space.distributions) or "nothing"
            raise ConfigError(f"{told}: the sweep does not search this key; remove it; the sweep searches {searched}")
        try:
            known[key] = find_value(value, space.distributions[key])
        except ValueError as error:
            raise ConfigError(f"{told}: {error}; change the value or the search space") from error
    return known


def _current_point(space: SearchSpace, composed: DictConfig) -> list[dict[str, Any]]:
    """Return the point of the current configuration, if it is in the space."""
    point = {}
    for key, distribution in space.distributions.items():
        current = composed.hydra.runtime.choices.get(key) or OmegaConf.select(composed, key.lstrip("+"))
        if isinstance(current, (DictConfig, ListConfig)):
            current = OmegaConf.to_container(current, resolve=True)
        try:
            point[key] = find_value(current, distribution)
        except ValueError:
            return []
    return [point] if point else []


def _check_trials(
    space: SearchSpace,
    compose: Callable[[dict[str, Any]], DictConfig],
    check: Callable[[DictConfig], dict[str, Any]],
) -> dict[str, Any]:
    """Compose and check both ends of every interval and every listed value; return the settings that all trials share.

    Each check changes one key, so that an error names a value that is wrong by itself. Composing takes 0.25 s: so one
    check takes the upper ends of all intervals, and only if it fails, each end is checked alone.
    """
    values = {key: extreme_values(distribution) for key, distribution in space.distributions.items()}
    first = {key: each[0] for key, each in values.items()}
    listed = [key for key, each in space.distributions.items() if isinstance(each, CategoricalDistribution)]
    of_lists = [{**first, key: value} for key in listed for value in values[key][1:]]
    ends = {key: each[-1] for key, each in values.items() if key not in listed}
    one_at_a_time = [first, *of_lists, *({**first, key: value} for key, value in ends.items())]
    together = [first, *of_lists, *([first | ends] if ends else [])]

    def check_point(point: dict[str, Any]) -> dict[str, Any]:
        composed = compose(point)
        with read_write(composed), open_dict(composed):
            composed.hydra.job.num, composed.hydra.job.id = 0, "0"
            composed.hydra.runtime.output_dir = str(Path(composed.hydra.sweep.dir).absolute())
            HydraConfig.instance().set_config(composed)
            task_config = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
        return check(task_config)

    try:
        checked = [check_point(point) for point in together]
    except Exception:
        if len(together) == len(one_at_a_time):
            raise
        checked = [check_point(point) for point in one_at_a_time]
    if not checked[0]:
        return {"overrides": sorted(space.fixed)}
    searched = tuple(f"{setting_name(key)}." for key in space.distributions)  # with what belongs to a chosen group
    return {
        key: value
        for key, value in checked[0].items()
        if all(key in each and each[key] == value for each in checked) and not f"{key}.".startswith(searched)
    }
