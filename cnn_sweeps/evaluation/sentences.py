"""What a training came to, in plain sentences, each with its uncertainty."""

from collections.abc import Mapping


def tell_expected(metrics: Mapping[str, float], num_images: int | None = None) -> list[str]:
    """Say what to expect of a network on new images, from the metrics of a run with their intervals.

    Of the test images if they were measured. The number of images tells what it means that none is a mistake.
    """
    prefix, images = ("test", "test images, which chose nothing")
    if "test_accuracy" not in metrics:
        prefix, images = ("final_val", "validation images, which chose its epoch, so that it is too good for new ones")
    accuracy, commonest = metrics[f"{prefix}_accuracy"], metrics.get(f"{prefix}_accuracy_of_commonest_class")
    number = "the" if num_images is None else f"{num_images:,}"
    low, high = (metrics.get(f"interval/{prefix}_accuracy_{bound}") for bound in ("low", "high"))
    interval = f" (95 % interval {low:.1%} to {high:.1%})" if low is not None and high is not None else ""
    against = f"; always naming the commonest class would be right in {commonest:.1%}" if commonest is not None else ""
    told = [f"On {number} {images}, it is right in {accuracy:.1%}{interval}{against}."]
    if commonest is not None and accuracy <= commonest:
        told.append("So it is no better than naming the commonest class: it has learned nothing that helps here.")
    if accuracy == 1 and num_images:
        unseen = 1 - 0.05 ** (1 / num_images)
        told.append(
            f"It made no mistake there, of which no interval can be made: {num_images:,} images would often show "
            f"none if up to {unseen:.1%} of all were mistakes."
        )
    return told
