"""The inputs of a network: images, or the features that a frozen backbone computes from them."""

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
    """The images of a run as inputs of its network, to predict and to train on.

    Features of test images are computed only when somebody asks for them; those of all other images, together.
    """

    def __init__(self, network: Network, images: Images, config: RunConfig) -> None:
        """Take a network that was built for these images and this configuration."""
        self._network, self._images, self._config = network, images, config
        self._not_tested_on = np.sort(np.concatenate([images.split.train, images.split.val]))

    def predict(self, positions: Indices) -> NDArray[np.float64]:
        """Return the network's probabilities, float64 (n, C), for the images at n positions."""
        return self._network.predict(self._tensor_with(positions), positions)

    def to_train(self) -> TrainingImages:
        """Return the training data, with class weights and batch size from the settings."""
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
        """Return one row per image of the data set; with a backbone, rows at other positions may be 0."""
        backbone, dataset = self._network.backbone, self._images.dataset
        if backbone is None:
            return image_tensor(dataset)
        test = self._images.split.test
        is_tested = len(positions) > 0 and bool(np.isin(positions[:1], test)[0])
        of = test if is_tested else self._not_tested_on
        return load_features(backbone, dataset, of, self._config.training.cache_dir)

    def _views(self) -> tf.Tensor | None:
        config, backbone = self._config, self._network.backbone
        if backbone is None:
            return None
        of = self._images.split.train if config.folds == 1 else self._not_tested_on  # any fold may be trained on
        return load_views(backbone, self._images.dataset, of, config.training.cache_dir, config.augmentation)
