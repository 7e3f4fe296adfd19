"""A kept model behind MLflow's interface. MLflow copies this file into the model's folder, and runs it there.

Pixels need only Keras and NumPy. Image files are decoded by this package, which must be installed for that.
"""

import base64
import io
from pathlib import Path
from typing import Any

import keras
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import Model, set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray

_IMAGES_A_CALL = 64


class ServedModel(PythonModel):
    """Predicts probabilities or classes of images, given as files or as pixels."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the network in Keras's safe mode, which runs no code from the file."""
        file = context.artifacts["model"]
        self._network = keras.saving.load_model(file, safe_mode=True)
        self._image_shape = tuple(self._network.input_shape[1:])
        self._record: dict[str, Any] = (Model.load(str(Path(file).parents[1])).metadata or {})["cnn_sweeps"]
        if self._record.get("pixels") != "0 to 255":
            raise _refusal(
                "the model was made by an earlier version of cnn-sweeps, whose networks take pixels from 0 to 1; "
                "serve it with that version"
            )

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002  part of MLflow's interface
        model_input: np.ndarray,  # MLflow warns about any other type hint
        params: dict[str, Any] | None = None,
    ) -> NDArray[Any]:
        """Predict N image files in Base64, (N,), or pixels from 0 to 255, (N, height, width, channels).

        Returns:
            The probability of the second of two classes, float32 (N, 1), or of each of three or more, (N, C). With the
            parameter `classes`, the names of the classes, (N,): of two the second if its probability is at least the
            model's decision threshold, of more the most probable one.

        Raises:
            MlflowException: if the input is neither; a client gets status 400.
        """
        is_encoded = len(model_input) > 0 and all(isinstance(image, str) for image in model_input)
        pixels = self._decode(model_input) if is_encoded else self._check(model_input)
        calls = [pixels[start : start + _IMAGES_A_CALL] for start in range(0, max(1, len(pixels)), _IMAGES_A_CALL)]
        outputs = np.concatenate([keras.ops.convert_to_numpy(self._network(each, training=False)) for each in calls])
        return self._choose(outputs) if (params or {}).get("classes") else outputs

    def _choose(self, outputs: NDArray[np.float32]) -> NDArray[np.object_]:
        threshold = self._record["decision_threshold"]
        is_second = outputs[:, 0].astype(np.float64) >= (0.5 if threshold is None else threshold)
        classes = is_second.astype(np.int64) if outputs.shape[1] == 1 else outputs.argmax(axis=1)
        names: NDArray[np.object_] = np.array(self._record["class_names"], object)[classes]
        return names

    def _check(self, given: NDArray[Any]) -> NDArray[np.float32]:
        expected = f"allowed: image files in Base64, or pixels from 0 to 255 of shape (N, {str(self._image_shape)[1:]}"
        try:
            pixels = np.asarray(given).astype(np.float32)
        except (TypeError, ValueError) as error:
            raise _refusal(f"the images are not arrays of pixels of one shape ({error}); {expected}") from error
        if pixels.shape[1:] != self._image_shape:
            raise _refusal(f"the images have shape {pixels.shape}; {expected}")
        if pixels.size and not (pixels.min() >= 0 and pixels.max() <= 255):
            raise _refusal(f"the pixels go from {pixels.min():g} to {pixels.max():g}; {expected}")
        if pixels.size and 0 < pixels.max() <= 1 and np.asarray(given).dtype.kind not in "bui":  # all black is allowed
            raise _refusal(f"the pixels go up to {pixels.max():g}, as if they were divided by 255; {expected}")
        return pixels

    def _decode(self, images: NDArray[Any]) -> NDArray[np.float32]:
        try:
            from cnn_sweeps.data.decode import decode_stream
            from cnn_sweeps.errors import DataError
        except ImportError as error:
            raise _refusal("image files need cnn-sweeps on the server; install it there, or send pixels") from error
        decoded = []
        for number, image in enumerate(images, 1):
            try:
                content = base64.b64decode("".join(image.split()), validate=True)  # it may be wrapped into lines
                decoded.append(decode_stream(io.BytesIO(content), *self._image_shape))
            except (DataError, ValueError) as error:
                why = error if isinstance(error, DataError) else f"is not Base64 ({error})"
                raise _refusal(f"image {number} of {len(images)} {why}") from error
        return np.stack(decoded).astype(np.float32)


def _refusal(message: str) -> MlflowException:
    return MlflowException(message, error_code=INVALID_PARAMETER_VALUE)


set_model(ServedModel())
