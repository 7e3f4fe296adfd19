"""Says in plain sentences how good a network is, and how certain that is."""

from collections.abc import Mapping


def tell_expected(metrics: Mapping[str, float], num_images: int | None = None) -> list[str]:
    """Say how good a network is on held-out images, from the metrics of a run with their intervals.

    Args:
        metrics: those of test images count, or else those of validation images.
        num_images: the number of these images, if it is known.
    """
    prefix, images = "test", "test images, which were used for no choice"
    if "test_accuracy" not in metrics:
        prefix, images = "final_val", "validation images, which chose the epoch and so make the result look too good"
    accuracy, commonest = metrics[f"{prefix}_accuracy"], metrics.get(f"{prefix}_accuracy_of_commonest_class")
    number = "the" if num_images is None else f"{num_images:,}"
    low, high = (metrics.get(f"interval/{prefix}_accuracy_{bound}") for bound in ("low", "high"))
    interval = f" (95 % interval {low:.1%} to {high:.1%})" if low is not None and high is not None else ""
    interval = " (no mistake, so there is no interval)" if accuracy == 1 else interval
    against = f"; always naming the commonest class would be right in {commonest:.1%}" if commonest is not None else ""
    sentences = [f"On {number} {images}, it is right in {accuracy:.1%}{interval}{against}."]
    if commonest is not None and accuracy <= commonest:
        sentences.append("So it is no better than naming the commonest class: it has learned nothing that helps here.")
    return sentences


def tell_no_mistake(num_images: int) -> str:
    """Say how certain a result without a mistake is, by the share of mistakes that 1 draw in 20 would not show."""
    unseen = 1 - 0.05 ** (1 / num_images)
    return (
        f"It is right on all {num_images:,} images. It may still make mistakes: if it were wrong on {unseen:.1%} of "
        "all images, one draw in twenty of this size would show no mistake."
    )
