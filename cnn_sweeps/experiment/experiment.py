"""One run, from the configuration to the record; in a sweep, one trial."""

import logging

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from cnn_sweeps.experiment.beginning import prepare_beginning
from cnn_sweeps.experiment.parts import plan_parts
from cnn_sweeps.experiment.roles import Role, listing_bad_files
from cnn_sweeps.settings.schema import RunConfig
from cnn_sweeps.system.libraries import prepare_libraries, slow_imports

log = logging.getLogger(__name__)


def run_experiment(config: RunConfig, role: Role | None = None) -> float | tuple[float, ...]:
    """Do one whole run: data, network, training, evaluation and record.

    Returns:
        The objective; a tuple if there are several, or none, as when a pruned trial is reproduced.

    Raises:
        UserError: for whatever the user can fix.
        optuna.TrialPruned: in a sweep, if the trial is pruned.
    """
    prepare_libraries()
    if role is None and HydraConfig.get().mode == RunMode.MULTIRUN:
        from cnn_sweeps.experiment.trial import join_trial

        role = join_trial(config)
    role = role or Role(config)
    store = role.find_store()
    role.check_images()
    config = prepare_beginning(role.config)
    with listing_bad_files():
        images = role.load_images()  # the data
    parts = plan_parts(config, images)
    with slow_imports():  # TensorFlow and MLflow; errors in the data are reported before
        from cnn_sweeps.experiment import part, recording
    with recording.open_whole(parts, role, store) as whole:
        while not role.gives_up(whole.finals) and (number := len(whole.finals)) < len(parts):
            if len(parts) > 1:
                log.info("training %d of %d: %s", number + 1, len(parts), parts[number].name)
            if not part.run_part(parts[number], whole):  # network, training, evaluation, record
                break
    return role.outcome(whole.finals)
