"""Writes what a run's page in MLflow shows, in Markdown, and hides what it need not show."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.system.libraries import current_thread_settings
from cnn_sweeps.text.commands import Command, one_word_a_line
from cnn_sweeps.text.names import block_for_markdown, for_markdown
from cnn_sweeps.text.numbers import counted
from cnn_sweeps.text.passwords import hide_passwords
from cnn_sweeps.tracking.record.entry import Data
from cnn_sweeps.tracking.usage import STORE, in_store

if TYPE_CHECKING:
    from mlflow.entities import Run

WINNER_NOTE = (
    "Expect worse on new images than the best value: its trial, its epoch and any decision threshold were chosen on "
    "the same validation images. The test images were used for no choice."
)
"""Said once wherever a sweep's best value is shown."""
INTERVAL = "interval/"
"""Prefix of metrics that stay in the record: two bounds for each other metric would fill MLflow's lists."""
_HIDDEN = ("owner.", "command", "sweep.command")
_NOT_SHOWN = "mlflow."  # MLflow does not show tags with this prefix


def hidden(tags: Mapping[str, str]) -> dict[str, str]:
    """Rename tags that only this program needs, or that the page says elsewhere, so that MLflow does not show them."""
    return {f"{_NOT_SHOWN}{key}" if key.startswith(_HIDDEN) else key: text for key, text in tags.items()}


def tags_of(run: Run) -> dict[str, str]:
    """Return the tags of a run in MLflow with their own names; undoes `hidden`."""
    tags = {key.removeprefix(_NOT_SHOWN): text for key, text in run.data.tags.items() if key.startswith(_NOT_SHOWN)}
    return run.data.tags | {key: text for key, text in tags.items() if key.startswith(_HIDDEN)}


def describe_data(dataset: ImageDataset, counts: Mapping[str, Mapping[str, int]]) -> Data:
    """Describe the data set of a run; `counts` are numbers of images by split and class."""
    num_images = {name: sum(of_class.get(name, 0) for of_class in counts.values()) for name in dataset.class_names}
    return Data(
        name=dataset.name,
        digest=dataset.fingerprint,
        source=hide_passwords(dataset.source),
        image_shape=dataset.image_shape,
        num_images=num_images,
    )


def schema_and_profile(data: Data) -> tuple[str | None, str | None]:
    """Return the schema and the profile of a data set as MLflow's JSON; None for records of earlier versions."""
    if data.image_shape is None or data.num_images is None:
        return None, None
    pixels = f"uint8, {' x '.join(map(str, data.image_shape))}"
    columns = [{"name": "image", "type": pixels}, {"name": "class", "type": "string"}]  # as a table, which is shown
    profile = {"images": sum(data.num_images.values()), "images of each class": data.num_images}
    return json.dumps({"mlflow_colspec": columns}), json.dumps(profile)


def store_line(uri: str) -> str:
    """Return how a command of several lines ends that is about a store: a long line would make a page too wide."""
    return in_store(uri) and f" \\\n {in_store(uri)}"


def begin_note(outcome: Sequence[str], note: str = "", commands: Sequence[Command] = ()) -> str:
    """Have a note, whose first paragraph leads to other runs, begin with lines of what came out; add commands.

    Its link is the second line, since MLflow hides all below the fifth or so.
    """
    link, _, about = note.partition("\n\n")
    first, *more = outcome
    blocks = [f"{each.what}\n\n{block_for_markdown(one_word_a_line(each.command))}" for each in commands]
    return "\n\n".join(filter(None, ["  \n".join(filter(None, [first, link, *more])), *blocks, about]))


def describe_run(
    command: str, run_id: str, dataset: ImageDataset, counts: Mapping[str, Mapping[str, int]], *, part: str
) -> str:
    """Describe a run, or a `part` of a run, in Markdown; `command` and `run_id` are those of the whole run."""
    threads = [f"{key}={value}" for key, value in current_thread_settings().items()]
    numbers = ", ".join(f"{sum(of_class.values()):,} {split}" for split, of_class in counts.items())
    names = dataset.class_names
    positive = f"; precision, recall and F1 are of {for_markdown(names[1])}" if len(names) == 2 else ""
    first = f"This run is part {part!r} of the run that this command repeats:" if part else "To repeat this run:"
    return f"""{first}

{block_for_markdown(one_word_a_line(" ".join([*threads, command])))}

To repeat it and compare each metric:

{block_for_markdown(f"python -m cnn_sweeps.reproduce {run_id}{store_line(STORE)}")}

- **data**: {for_markdown(dataset.name)}, from {for_markdown(hide_passwords(dataset.source))}
- **fingerprint**: {dataset.fingerprint}
- **images**: {numbers}, of {len(names)} classes{positive}"""


def describe_sweep(objective: str, num_trials: int, about: Mapping[str, str]) -> str:
    """Describe a sweep in Markdown; `about` says what is searched and how, and its `command` repeats the sweep."""
    lines = "\n".join(f"- **{key}**: {for_markdown(text)}" for key, text in about.items() if key != "command")
    return f"""Sweep for {objective}, {counted(num_trials, "trial")}. To repeat it, under another study name:

{block_for_markdown(one_word_a_line(about["command"]))}

{lines}"""
