"""One run, from the configuration to the record; in a sweep, one trial."""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from cnn_sweeps.experiment.parts import plan_parts
from cnn_sweeps.experiment.roles import Role
from cnn_sweeps.settings.schema import RunConfig
from cnn_sweeps.system.libraries import native_messages_off, prepare_libraries


def run_experiment(config: RunConfig, role: Role | None = None) -> float | tuple[float, ...]:
    """Load, split, build, train, evaluate, record; return the objective, or objectives, of the final weights.

    A pruned trial that is reproduced has none.

    Raises:
        UserError: for whatever the user can fix.
        optuna.TrialPruned: in a sweep, if the trial is not worth going on with.
    """
    prepare_libraries()
    role = role or _choose_role(config)
    store = role.find_store()
    images = role.load_images()
    parts = plan_parts(config, images)
    with native_messages_off():
        from cnn_sweeps.experiment.part import open_whole, run_part
    with open_whole(parts, role, store) as whole:
        finals = whole.finals
        while not role.gives_up(finals) and len(finals) < len(parts):
            final = run_part(parts[len(finals)], whole)
            if final is None:
                break
            finals.append(final)
        whole.record(finals)
    return role.outcome(finals)


def _choose_role(config: RunConfig) -> Role:
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        from cnn_sweeps.experiment.trial import join_trial

        if (trial := join_trial(config)) is not None:
            return trial
    return Role(config)
