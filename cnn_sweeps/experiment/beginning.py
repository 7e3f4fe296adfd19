"""Makes sure that a network's first weights are on this machine before any image is decoded."""

from dataclasses import replace

from cnn_sweeps.errors import ModelError
from cnn_sweeps.settings.schema import RunConfig
from cnn_sweeps.settings.target_arguments import PRETRAINED
from cnn_sweeps.system.libraries import slow_imports
from cnn_sweeps.use.place import find_place, naming


def prepare_beginning(config: RunConfig) -> RunConfig:
    """Fetch a pretrained network's weights, and check that they and the images fit the network.

    Returns:
        The configuration. If a kept model's weights are used, its settings name that model's version, and the network
        gets the path of their file.

    Raises:
        UserError: if the weights cannot be fetched, belong to another network, or the images do not fit.
    """
    if config.model["_target_"] != PRETRAINED:
        return config
    weights, place = config.model["weights"], None
    if weights is not None and weights != "imagenet" and not weights.endswith(".h5"):
        with naming("model.weights"):
            place = find_place(weights, config.tracking.uri)
    with slow_imports():
        from cnn_sweeps.training.warm import try_network
        from cnn_sweeps.use.weights import weights_of_kept
    if place is not None:
        with naming("model.weights"):
            address, file = weights_of_kept(place, config.training.cache_dir)
        recorded = config.resolved | {"model": config.resolved["model"] | {"weights": address}}
        config = replace(config, model=config.model | {"weights": str(file)}, resolved=recorded)
    try:
        try_network(config)
    except ModelError as error:  # it names the file that was made from a kept model
        used, given = config.model["weights"], config.settings["model.weights"]
        raise ModelError(str(error).replace(f"{used}:", f"{given}:")) from error
    return config
