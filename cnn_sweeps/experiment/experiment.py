"""One run, from the configuration to the record; in a sweep, one trial."""

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from cnn_sweeps.experiment.beginning import prepare_beginning
from cnn_sweeps.experiment.parts import plan_parts
from cnn_sweeps.experiment.roles import Role, listing_bad_files
from cnn_sweeps.settings.schema import RunConfig
from cnn_sweeps.system.libraries import prepare_libraries, slow_imports


def run_experiment(config: RunConfig, role: Role | None = None) -> float | tuple[float, ...]:
    """Take one run from its data through network, training, evaluation and record to its objective, or objectives.

    A pruned trial that is reproduced has none.

    Raises:
        UserError: for whatever the user can fix.
        optuna.TrialPruned: in a sweep, if the trial is not worth going on with.
    """
    prepare_libraries()
    if role is None and HydraConfig.get().mode == RunMode.MULTIRUN:
        from cnn_sweeps.experiment.trial import join_trial

        role = join_trial(config)
    role = role or Role(config)
    store = role.find_store()
    config = prepare_beginning(role.config)
    with listing_bad_files():
        images = role.load_images()  # the data
    parts = plan_parts(config, images)
    with slow_imports():  # TensorFlow and MLflow; what is wrong with the data is told before they are there
        from cnn_sweeps.experiment import part, recording
    with recording.open_whole(parts, role, store) as whole:
        while not role.gives_up(whole.finals) and len(whole.finals) < len(parts):
            if not part.run_part(parts[len(whole.finals)], whole):  # network, training, evaluation, record
                break
    return role.outcome(whole.finals)
