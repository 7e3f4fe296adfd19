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
    """Describe a run.

    Args:
        command: makes the run again, or the whole that it is a part of.
        run_id: of what the command makes.
        dataset: the images.
        counts: of the images of each class in each split.
        part: which part the run is, in words of our own; empty: the whole.
    """
    threads = [f"{key}={value}" for key, value in current_thread_settings().items()]
    numbers = ", ".join(f"{sum(of_class.values()):,} {split}" for split, of_class in counts.items())
    return "\n".join(
        [
            f"This run is a part, {part}, of what this command makes again:" if part else "To make this run again:",
            *_block(" ".join([*threads, command])),
            "To do so and compare, metric by metric:",
            *_block(f"python -m cnn_sweeps.reproduce {run_id}"),
            f"- **data**: {for_markdown(dataset.name)}, from {for_markdown(hide_passwords(dataset.source))}",
            f"- **fingerprint**: {dataset.fingerprint}",
            f"- **images**: {numbers}, of {len(dataset.class_names)} classes",
        ]
    )


def describe_sweep(objective: str, num_trials: int, about: Mapping[str, str]) -> str:
    """Describe a sweep.

    Args:
        objective: what is optimised.
        num_trials: of the whole study.
        about: what is searched and how, and the `command` that makes the sweep again.
    """
    return "\n".join(
        [
            f"Sweep for {objective}, {num_trials} trials. To make it again, as a study of another name:",
            *_block(about["command"]),
            *(f"- **{key}**: {for_markdown(text)}" for key, text in about.items() if key != "command"),
            "",
            WINNER_NOTE,
        ]
    )


def _block(command: str) -> list[str]:
    return ["", block_for_markdown(command), ""]
