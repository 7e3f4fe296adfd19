"""Convert a kept model for other programs: `python -m cnn_sweeps.export model=champion format=tflite output=PATH`."""

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
from cnn_sweeps.system.libraries import slow_imports
from cnn_sweeps.system.output import outlive_display
from cnn_sweeps.text.names import for_terminal
from cnn_sweeps.text.numbers import probability_text
from cnn_sweeps.use.place import find_place

FORMATS = ("saved_model", "tflite", "onnx")
_ONNX_PACKAGES = ("tf2onnx", "onnxruntime")
_HELP = """\
Convert a model that a training or a sweep has kept, for other programs, and check that its outputs equal Keras's.

Examples:
  python -m cnn_sweeps.export model=champion format=saved_model output=exported
  python -m cnn_sweeps.export PHOTOS model=models:/NAME@champion format=tflite output=model.tflite

The check uses random images, and the images and folders of images that you give. If a probability differs by more than
1e-4, nothing is written. The converted model takes float32 pixels from 0 to 255, (N, height, width, channels). It
returns the probability of the second of two classes, (N, 1), or of each of three or more classes, (N, C).

Facts that a user of the model needs are kept with it as JSON: {"class_names": [...], "image_shape": [height, width,
channels], "decision_threshold": the lowest probability for which the second of two classes is chosen (null: 0.5),
"pixels": "0 to 255"}. Find them in cnn_sweeps.json in the folder (saved_model), in PATH.json beside the file (tflite),
or in the file's metadata under the key cnn_sweeps (onnx).

Settings:
  model=MODEL       champion or another alias of a registered model, models:/NAME@ALIAS, models:/NAME/VERSION,
                    runs:/ID/NAME, or the folder of an MLflow model
  format=FORMAT     saved_model, a folder for TensorFlow; tflite, a file for TensorFlow Lite; onnx, a file for ONNX
                    Runtime, which needs pip install 'cnn-sweeps[onnx]'
  output=PATH       the new file or folder; it must not exist yet, and neither may PATH.json for tflite
  tracking.uri=URI  where the model is recorded; default: MLFLOW_TRACKING_URI, or mlflow.db in the working folder
"""


def export(arguments: Sequence[str]) -> None:
    """Convert the model that the command line names.

    Raises:
        UserError: if an argument is wrong, the converted model differs from Keras, or a given file is no usable image.
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
    with slow_imports():
        from cnn_sweeps.use import conversion, kept_model

        kept = kept_model.load_kept_model(place)
    bad_files = BadFiles(links)
    images = (batch for _, batch in decoded_batches(files, kept.record.image_shape, bad_files))
    print(f"writing {target} and comparing it with Keras; this takes some seconds", flush=True)
    difference, num_images = conversion.convert(kept, settings["format"], target, beside, images)
    given = f" and {num_images:,} given" if files else ""
    print(
        f"{target}: agrees with Keras on {conversion.NUM_RANDOM_IMAGES} random{given} images; "
        f"the largest difference of a probability is {difference:.1e}"
    )
    class_names, threshold = kept.record.class_names, kept.record.decision_threshold
    if threshold is not None and len(class_names) == 2:
        print(
            f"choose {for_terminal(class_names[1])} if its probability is at least {probability_text(threshold)}, "
            "as cnn_sweeps.predict does"
        )
    bad_files.refuse(len(files) + len(links))


def main() -> None:
    """Run `export` on this process's arguments."""
    run_command(export)


if __name__ == "__main__":
    main()
