"""Give images their classes: `python -m cnn_sweeps.predict IMAGE_OR_FOLDER... model=champion`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from cnn_sweeps.errors import ConfigError
from cnn_sweeps.settings.arguments import CommandLine, run_command
from cnn_sweeps.system.files import check_target
from cnn_sweeps.system.output import outlive_display

_HELP = """\
Give images their classes with a model that a training or a sweep has kept, prepared as they were in training.

Examples:
  python -m cnn_sweeps.predict PHOTOS model=champion
  python -m cnn_sweeps.predict a.jpg b.png PHOTOS model=models:/NAME@champion --csv classes.csv

A folder is searched at any depth; hidden files are left out. Of two classes the second is chosen from the model's
decision threshold on, 0.5 if it has none; of more, the most probable. Files that are no usable images, links out of
the folder, and links to a folder that they lie in, are named, and the exit code is then 1.

Settings:
  model=MODEL       champion or another alias of a registered model, models:/NAME@ALIAS, models:/NAME/VERSION,
                    runs:/ID/model, or the folder of an MLflow model
  tracking.uri=URI  where the model is recorded; without it MLFLOW_TRACKING_URI, or mlflow.db in the working folder

Flags:
  --csv FILE   write the table there, with the probabilities of all classes, instead of showing it
  --json FILE  the same as a list of objects
"""


def predict(arguments: Sequence[str]) -> None:
    """Do what the command line says.

    Raises:
        UserError: if something in it cannot be used, or a file is no usable image; the others are predicted then.
    """
    command_line = CommandLine(_HELP, required=["model"], optional=["tracking.uri"])
    command_line.add_argument("--csv", type=Path)
    command_line.add_argument("--json", type=Path)
    flags, names, settings = command_line.read(arguments)
    if not names:
        raise ConfigError("no image is named; name images, or folders of them")
    for flag, target in (("--csv", flags.csv), ("--json", flags.json)):
        if target is not None:
            check_target(target, flag, may_exist=True)
    if flags.csv is not None or flags.json is not None:
        outlive_display()
    from cnn_sweeps.data.folder import find_images

    files, links = find_images([Path(name) for name in names])
    _predict_and_write(files, links, settings["model"], settings.get("tracking.uri"), flags.csv, flags.json)


def _predict_and_write(
    files: Sequence[Path],
    links: dict[Path, str],
    model: str,
    uri: str | None,
    csv_file: Path | None,
    json_file: Path | None,
) -> None:
    from cnn_sweeps.system.libraries import native_messages_off, prepare_libraries
    from cnn_sweeps.use.kept_model import load_kept_model

    prepare_libraries()
    with native_messages_off():
        kept = load_kept_model(model, uri)
        from cnn_sweeps.data.batches import BadFiles
        from cnn_sweeps.use import output
        from cnn_sweeps.use.prediction import predict_files

    counts: Counter[str] = Counter()
    bad_files, class_names = BadFiles(links), kept.record.class_names
    if not files:
        bad_files.refuse(len(links))
    with ExitStack() as stack:
        tables = [stack.enter_context(output.csv_table(csv_file, class_names))] if csv_file else []
        tables += [stack.enter_context(output.json_table(json_file))] if json_file else []
        tables = tables or [output.terminal_table(files, class_names)]
        for prediction in predict_files(kept, files, bad_files):
            for write in tables:
                write(prediction)
            counts[prediction.class_name] += 1
    print(output.summarize(counts, kept.record))
    bad_files.refuse(len(files) + len(links))


def main() -> None:
    """Run `predict` on this process's arguments."""
    run_command(predict)


if __name__ == "__main__":
    main()
