"""Makes small images for a report: mistakes of a network, and Grad-CAM of some predictions."""

import base64
import io

import keras
import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnn_sweeps.evaluation.grad_cam import grad_cam
from cnn_sweeps.evaluation.metrics import Floats, Labels
from cnn_sweeps.evaluation.report import Thumbnail
from cnn_sweeps.evaluation.results import Measured
from cnn_sweeps.text.names import for_terminal

NUM_MISTAKES = 12
NUM_EXPLAINED = 4  # right predictions, and as many wrong ones
_LONGEST_SIDE = 160  # pixels
_QUALITY = 88  # of JPEG; twenty such photographs take 0.2 MB


def show_mistakes(measured: Measured) -> list[Thumbnail]:
    """Return up to 12 wrongly predicted images, the most confident first."""
    return [_show(measured, i) for i in most_confident_mistakes(measured).tolist()]


def show_explained(model: keras.Model, measured: Measured) -> list[Thumbnail]:
    """Return up to 4 right and 4 wrong predictions with their Grad-CAM; none if Grad-CAM does not work."""
    chosen = images_to_explain(measured)
    heat = grad_cam(model, measured.dataset.images[measured.indices[chosen]], measured.predicted[chosen])
    return [] if heat is None else [_show(measured, i, each) for i, each in zip(chosen.tolist(), heat, strict=True)]


def most_confident_mistakes(measured: Measured) -> Labels:
    """Return the positions, among the measured images, of up to 12 wrong predictions, the most confident first."""
    return _most_confident(measured, measured.predicted != measured.labels, NUM_MISTAKES)


def images_to_explain(measured: Measured) -> Labels:
    """Return the positions of up to 4 right predictions, from all classes in turn, and up to 4 wrong ones."""
    is_right, classes = measured.predicted == measured.labels, np.unique(measured.labels)
    best = [_most_confident(measured, is_right & (measured.labels == i), NUM_EXPLAINED) for i in classes]
    in_turn = [of_class[rank] for rank in range(NUM_EXPLAINED) for of_class in best if rank < len(of_class)]
    wrong = _most_confident(measured, ~is_right, NUM_EXPLAINED)
    return np.array([*in_turn[:NUM_EXPLAINED], *wrong], np.int64)


def _most_confident(measured: Measured, is_wanted: NDArray[np.bool_], number: int) -> Labels:
    wanted = np.flatnonzero(is_wanted)
    return wanted[np.argsort(-measured.confidence[wanted], kind="stable")][:number]


def _show(measured: Measured, i: int, heat: Floats | None = None) -> Thumbnail:
    position, names = int(measured.indices[i]), [for_terminal(name) for name in measured.dataset.class_names]
    true, predicted = int(measured.labels[i]), int(measured.predicted[i])
    address = address_of(measured.dataset.images[position], heat)
    is_what = "" if true == predicted else names[true]
    return Thumbnail(
        address, measured.dataset.image_name(position), names[predicted], float(measured.confidence[i]), is_what
    )


def address_of(image: NDArray[np.uint8], heat: Floats | None = None) -> str:
    """Return a small copy of an image, (height, width, 1 or 3), as a data: address; heat, 0 to 1, is laid over it."""
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).convert("RGB")
    scale = _LONGEST_SIDE / max(picture.size)
    size = max(1, round(scale * picture.width)), max(1, round(scale * picture.height))
    picture = picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    if heat is not None:
        smooth = Image.fromarray(np.uint8(255 * heat)).resize(size, Image.Resampling.BILINEAR)
        colours = mpl.colormaps["inferno"](np.asarray(smooth), bytes=True)[:, :, :3]
        picture = Image.blend(picture, Image.fromarray(colours), 0.5)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
