"""What a network is trained and measured on: images or, after a frozen beginning, what that makes of them."""

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from cnn_sweeps.data.images import Images
from cnn_sweeps.data.split import Indices, balanced_class_weights
from cnn_sweeps.settings.schema import RunConfig
from cnn_sweeps.training.batches import TrainingImages, image_tensor, training_images
from cnn_sweeps.training.features import load_features, load_views
from cnn_sweeps.training.network import Network


class Inputs:
    """A network's inputs: those of a configuration's images, as they are, and as they are to be trained on.

    Features of test images are computed once they are asked for, of all others at once.
    """

    def __init__(self, network: Network, images: Images, config: RunConfig) -> None:
        """Of a network, built for these images and this configuration."""
        self._network, self._images, self._config = network, images, config
        self._not_tested_on = np.sort(np.concatenate([images.split.train, images.split.val]))

    def predict(self, positions: Indices) -> NDArray[np.float64]:
        """Give the network's probabilities, (n, C), of the images at n positions."""
        return self._network.predict(self._tensor_with(positions), positions)

    def to_train(self) -> TrainingImages:
        """Give what is trained on, weighted and in batches as the settings have it."""
        config, labels, train = self._config, self._images.dataset.labels, self._images.split.train
        is_balanced = config.training.class_weight == "balanced"
        source = training_images(
            self._tensor_with(train),
            labels,
            train,
            balanced_class_weights(labels[train]) if is_balanced else None,
            seed=config.seed,
            batch_size=config.training.batch_size,
        )
        return source._replace(views=self._views())

    def _tensor_with(self, positions: Indices) -> tf.Tensor:
        """Give one row an image, of which those at some positions hold something."""
        beginning, dataset = self._network.beginning, self._images.dataset
        if beginning is None:
            return image_tensor(dataset)
        test = self._images.split.test
        is_tested = len(positions) > 0 and bool(np.isin(positions[:1], test)[0])
        of = test if is_tested else self._not_tested_on
        return load_features(beginning, dataset, of, self._config.training.cache_dir)

    def _views(self) -> tf.Tensor | None:
        config, beginning = self._config, self._network.beginning
        if beginning is None:
            return None
        of = self._images.split.train if config.folds == 1 else self._not_tested_on  # any fold may be trained on
        return load_views(beginning, self._images.dataset, of, config.training.cache_dir, config.augmentation)
