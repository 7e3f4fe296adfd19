"""Writes a Grad-CAM picture of each predicted image."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnn_sweeps.errors import ModelError
from cnn_sweeps.evaluation.grad_cam import grad_cam, has_grad_cam
from cnn_sweeps.evaluation.metrics import Labels
from cnn_sweeps.evaluation.pictures import draw_explained
from cnn_sweeps.system.files import written_whole
from cnn_sweeps.text.names import for_file_name
from cnn_sweeps.use.kept_model import KeptModel
from cnn_sweeps.use.output import Prediction
from cnn_sweeps.use.prediction import Explain


def pictures_in(folder: Path, kept: KeptModel, num_files: int) -> Explain:
    """Make a folder for Grad-CAM pictures, and return the function that writes them.

    A picture is called `NUMBER_NAME.png`: the number counts the predictions, and the name is that of the image file.

    Raises:
        ModelError: if Grad-CAM does not work for the network; then no folder is made.
    """
    if not has_grad_cam(kept.network):
        raise ModelError(
            f"explain={folder}: Grad-CAM needs a network that is a chain from a last feature map to a dense layer, and "
            "this model's is not; predict without explain, or use another model"
        )
    folder.mkdir(exist_ok=True)
    numbers, width = count(1), len(str(num_files))

    def explain(images: NDArray[np.uint8], classes: Labels, predictions: list[Prediction]) -> None:
        heat = grad_cam(kept.network, images, classes)
        assert heat is not None
        for image, heat_of_image, (path, class_name, probability, _) in zip(images, heat, predictions, strict=True):
            figure = draw_explained(image, heat_of_image, path.name, class_name, probability)
            file = folder / f"{next(numbers):0{width}}_{for_file_name(path.stem)}.png"
            with written_whole(file) as unfinished:
                figure.savefig(unfinished)

    return explain
