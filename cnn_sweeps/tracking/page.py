"""What a page in MLflow says first, in Markdown: which command makes this again, and of which images."""

from __future__ import annotations

from collections.abc import Mapping

from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.system.libraries import current_thread_settings
from cnn_sweeps.text.names import block_for_markdown, for_markdown
from cnn_sweeps.text.passwords import hide_passwords

WINNER_NOTE = (
    "The best trial, its epoch and, of two classes, its decision threshold were all chosen on the same validation "
    "images: its value there is too good for new images. The test images chose nothing; they tell what to expect."
)
"""Said once wherever a sweep's best value is shown."""


def describe_run(
    command: str, run_id: str, dataset: ImageDataset, counts: Mapping[str, Mapping[str, int]], *, part: str
) -> str:
    """Describe a run, or a `part` of that whose command and id are given; `counts` are of images by split and class."""
    threads = [f"{key}={value}" for key, value in current_thread_settings().items()]
    numbers = ", ".join(f"{sum(of_class.values()):,} {split}" for split, of_class in counts.items())
    names = dataset.class_names
    positive = f"; precision, recall and F1 are of {for_markdown(names[1])}" if len(names) == 2 else ""
    first = f"This run is a part, {part}, of what this command makes again:" if part else "To make this run again:"
    return f"""{first}

{block_for_markdown(" ".join([*threads, command]))}

To do so and compare, metric by metric:

{block_for_markdown(f"python -m cnn_sweeps.reproduce {run_id}")}

- **data**: {for_markdown(dataset.name)}, from {for_markdown(hide_passwords(dataset.source))}
- **fingerprint**: {dataset.fingerprint}
- **images**: {numbers}, of {len(names)} classes{positive}"""


def describe_sweep(objective: str, num_trials: int, about: Mapping[str, str]) -> str:
    """Describe a sweep of so many trials; `about` says what is searched and how, and its `command` makes it again."""
    lines = "\n".join(f"- **{key}**: {for_markdown(text)}" for key, text in about.items() if key != "command")
    return f"""Sweep for {objective}, {num_trials} trials. To make it again, as a study of another name:

{block_for_markdown(about["command"])}

{lines}

{WINNER_NOTE}"""
