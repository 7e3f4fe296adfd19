"""What a network is worth, in plain sentences, with its uncertainty."""

from collections.abc import Mapping


def tell_expected(metrics: Mapping[str, float], num_images: int | None = None) -> list[str]:
    """Say what to expect of a network on new images, from the metrics of a run with their intervals.

    Of the test images if they were measured; their number is told if it is known.
    """
    prefix, images = "test", "test images, which chose nothing"
    if "test_accuracy" not in metrics:
        prefix, images = "final_val", "validation images, which chose its epoch, so that it is too good for new ones"
    accuracy, commonest = metrics[f"{prefix}_accuracy"], metrics.get(f"{prefix}_accuracy_of_commonest_class")
    number = "the" if num_images is None else f"{num_images:,}"
    low, high = (metrics.get(f"interval/{prefix}_accuracy_{bound}") for bound in ("low", "high"))
    interval = f" (95 % interval {low:.1%} to {high:.1%})" if low is not None and high is not None else ""
    interval = " (no mistake, so that no interval can be made)" if accuracy == 1 else interval
    against = f"; always naming the commonest class would be right in {commonest:.1%}" if commonest is not None else ""
    told = [f"On {number} {images}, it is right in {accuracy:.1%}{interval}{against}."]
    if commonest is not None and accuracy <= commonest:
        told.append("So it is no better than naming the commonest class: it has learned nothing that helps here.")
    return told


def tell_no_mistake(num_images: int) -> str:
    """Say what it is worth that none of some images is a mistake: the largest share that would hide so in 1 of 20."""
    unseen = 1 - 0.05 ** (1 / num_images)
    return (
        f"It takes none of these {num_images:,} images for another class. That is no certainty: if {unseen:.1%} of all "
        "images were mistakes, one such draw in twenty would show none."
    )
