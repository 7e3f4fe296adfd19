"""Write a kept model for other programs: `python -m cnn_sweeps.export model=champion format=tflite output=PATH`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from cnn_sweeps.data.batches import BadFiles, decoded_batches
from cnn_sweeps.data.listing import find_images
from cnn_sweeps.errors import ConfigError
from cnn_sweeps.settings.arguments import CommandLine, run_command
from cnn_sweeps.system.files import check_target
from cnn_sweeps.system.libraries import prepare_libraries, slow_imports
from cnn_sweeps.system.output import outlive_display
from cnn_sweeps.text.names import for_terminal
from cnn_sweeps.text.numbers import probability_text
from cnn_sweeps.use.place import find_place

FORMATS = ("saved_model", "tflite", "onnx")
_ONNX_PACKAGES = ("tf2onnx", "onnxruntime")
_HELP = """\
Write a model that a training or a sweep has kept for other programs, and check that it gives what Keras gives.

Examples:
  python -m cnn_sweeps.export model=champion format=saved_model output=exported
  python -m cnn_sweeps.export PHOTOS model=models:/NAME@champion format=tflite output=model.tflite

The check takes random images, and those that are named, or in folders that are named, if any. If a probability differs
by more than 1e-4, nothing is written. What is written takes float32 pixels from 0 to 255, (N, height, width, channels),
and gives the probability of the second of two classes, (N, 1), or of each of more classes, (N, C).

With it goes what using it takes, as JSON: {"class_names": [...], "image_shape": [height, width, channels],
"decision_threshold": from which the second of two classes is chosen, null: 0.5, "pixels": "0 to 255"}. It is in the
folder's cnn_sweeps.json (saved_model), in the file PATH.json beside (tflite), or in the file's metadata under the key
cnn_sweeps (onnx).

Settings:
  model=MODEL       champion or another alias of a registered model, models:/NAME@ALIAS, models:/NAME/VERSION,
                    runs:/ID/NAME, or the folder of an MLflow model
  format=FORMAT     saved_model, a folder for TensorFlow; tflite, a file for TensorFlow Lite; onnx, a file for ONNX
                    Runtime, which needs pip install 'cnn-sweeps[onnx]'
  output=PATH       what to make; it must not be there, nor, for tflite, PATH.json
  tracking.uri=URI  where the model is recorded; without it MLFLOW_TRACKING_URI, or mlflow.db in the working folder
"""


def export(arguments: Sequence[str]) -> None:
    """Do what the command line says.

    Raises:
        UserError: if something in it cannot be used, or the formats do not agree, or a named file is no usable image.
    """
    command_line = CommandLine(_HELP, required=["model", "format", "output"], optional=["tracking.uri"])
    _, names, settings = command_line.read(arguments)
    if settings["format"] not in FORMATS:
        raise ConfigError(f"format={settings['format']}: no such format; allowed: {', '.join(FORMATS)}")
    if settings["format"] == "onnx" and not all(map(find_spec, _ONNX_PACKAGES)):
        raise ConfigError(f"format=onnx: needs {' and '.join(_ONNX_PACKAGES)}; pip install 'cnn-sweeps[onnx]'")
    target = Path(os.path.expanduser(settings["output"]))  # noqa: PTH111  takes any name
    beside = Path(f"{target}.json") if settings["format"] == "tflite" else None
    for each in (target, beside):
        if each is not None:
            check_target(each, "output", may_exist=False)
    outlive_display()
    files, links = find_images([Path(name) for name in names])
    place = find_place(settings["model"], settings.get("tracking.uri"))
    prepare_libraries()
    with slow_imports():
        from cnn_sweeps.use import conversion, kept_model

        kept = kept_model.load_kept_model(place)
    bad_files = BadFiles(links)
    images = (batch for _, batch in decoded_batches(files, kept.record.image_shape, bad_files))
    print(f"writing {target} and comparing it with Keras, which takes some seconds", flush=True)
    difference, num_images = conversion.convert(kept, settings["format"], target, beside, images)
    given = f" and {num_images:,} given" if files else ""
    print(
        f"{target}: agrees with Keras on {conversion.NUM_RANDOM_IMAGES} random{given} images; "
        f"the largest difference of a probability is {difference:.1e}"
    )
    class_names, threshold = kept.record.class_names, kept.record.decision_threshold
    if threshold is not None and len(class_names) == 2:
        print(
            f"choose {for_terminal(class_names[1])} from a probability of {probability_text(threshold)} on, "
            "as cnn_sweeps.predict does"
        )
    bad_files.refuse(len(files) + len(links))


def main() -> None:
    """Run `export` on this process's arguments."""
    run_command(export)


if __name__ == "__main__":
    main()
