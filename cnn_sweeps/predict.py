"""Predict the classes of images: `python -m cnn_sweeps.predict IMAGE_OR_FOLDER... model=champion`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from cnn_sweeps.data.batches import BadFiles
from cnn_sweeps.data.listing import find_images
from cnn_sweeps.errors import ConfigError
from cnn_sweeps.settings.arguments import CommandLine, run_command
from cnn_sweeps.system.files import check_folder, check_target
from cnn_sweeps.system.libraries import slow_imports
from cnn_sweeps.system.output import outlive_display
from cnn_sweeps.use.output import summarize, write_tables
from cnn_sweeps.use.place import find_place

_HELP = """\
Predict the classes of images with a model that a training or a sweep has kept. Images are prepared as in training.

Examples:
  python -m cnn_sweeps.predict PHOTOS model=champion
  python -m cnn_sweeps.predict a.jpg b.png PHOTOS model=models:/NAME@champion --csv classes.csv
  python -m cnn_sweeps.predict PHOTOS model=champion explain=explained

Folders are searched at any depth; hidden files are left out. With two classes, the second one is chosen if its
probability is at least the model's decision threshold (0.5 if the model has none). With more classes, the most probable
one is chosen. The command lists files that are no usable images, links that lead out of the folder, and links to a
folder around them; the exit code is then 1.

Settings:
  model=MODEL       champion or another alias of a registered model, models:/NAME@ALIAS, models:/NAME/VERSION,
                    runs:/ID/NAME, or the folder of an MLflow model
  explain=FOLDER    also draw which places of each image speak for its class (Grad-CAM): one PNG file for each image,
                    numbered like the rows of the table, in a new or empty folder
  tracking.uri=URI  where the model is recorded; default: MLFLOW_TRACKING_URI, or mlflow.db in the working folder

Flags:
  --csv FILE   write the table to a file, with the probabilities of all classes, instead of showing it
  --json FILE  the same as a JSON list of objects
"""


def predict(arguments: Sequence[str]) -> None:
    """Predict the classes of the images that the command line names.

    Raises:
        UserError: if an argument is wrong, or a file is no usable image; the other files are predicted first.
    """
    command_line = CommandLine(_HELP, required=["model"], optional=["explain", "tracking.uri"])
    command_line.add_argument("--csv", type=Path)
    command_line.add_argument("--json", type=Path)
    flags, names, settings = command_line.read(arguments)
    if not names:
        raise ConfigError("no image is given; give images, or folders of images")
    for flag, target in (("--csv", flags.csv), ("--json", flags.json)):
        if target is not None:
            check_target(target, flag, may_exist=True)
    folder = Path(os.path.expanduser(settings["explain"])) if "explain" in settings else None  # noqa: PTH111
    if folder is not None:
        check_folder(folder, "explain")
    if any(target is not None for target in (flags.csv, flags.json, folder)):
        outlive_display()
    files, links = find_images([Path(name) for name in names])
    place = find_place(settings["model"], settings.get("tracking.uri"))
    with slow_imports():
        from cnn_sweeps.use import kept_model, prediction

        kept = kept_model.load_kept_model(place)
    bad_files = BadFiles(links)
    if not files:
        bad_files.refuse(len(links))
    explain = None
    if folder is not None:
        from cnn_sweeps.use.explanation import pictures_in

        explain = pictures_in(folder, kept, len(files))
    predictions = prediction.predict_files(kept, files, bad_files, explain)
    counts = write_tables(predictions, files, kept.record.class_names, flags.csv, flags.json)
    print(summarize(counts, kept.record))
    bad_files.refuse(len(files) + len(links))


def main() -> None:
    """Run `predict` on this process's arguments."""
    run_command(predict)


if __name__ == "__main__":
    main()
