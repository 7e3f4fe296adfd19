"""What is kept of each image: the same images are the same in every run, and a study keeps few of them."""

import json

import numpy as np
import pytest

from cnn_sweeps.evaluation.per_image import MOST_IN_STUDY, average, in_study, parse_csv, per_image

RANDOM = np.random.default_rng(0)


def measured(ids, losses, labels=None, is_right=None):
    labels = np.zeros(len(ids), np.int64) if labels is None else labels
    is_right = np.asarray(losses) < 0.7 if is_right is None else is_right
    return per_image(np.array(ids), labels, np.array(losses, np.float64), is_right)


def test_the_same_images_come_in_the_same_order_whatever_theirs_and_equal_ones_are_told_apart():
    ids, labels = ["b", "a", "b", "b"], np.array([0, 0, 0, 1])
    one = measured(ids, [1.0, 2.0, 3.0, 4.0], labels)
    other = measured(ids[::-1], [4.0, 3.0, 2.0, 1.0], labels[::-1])
    assert one.images.tolist() == other.images.tolist() == sorted(set(one.images.tolist()))
    of_image = dict(zip(one.images, one.log_losses, strict=True))
    again = dict(zip(other.images, other.log_losses, strict=True))
    (only,) = (image for image, loss in of_image.items() if loss == 2.0)
    assert again[only] == 2.0
    assert not {"a", "b"} & {*of_image}  # which may be names of files


def test_table_of_images_comes_back_to_four_digits_and_what_is_none_is_refused():
    one = measured(["a", "b", "c"], [0.123456, 12.3456, 0.0])
    again = parse_csv(one.as_csv())
    assert again.images.tolist() == one.images.tolist()
    assert again.log_losses == pytest.approx(one.log_losses, rel=1e-3)
    assert again.is_right.tolist() == one.is_right.tolist()
    for wrong in ("", "image\n", "image,log_loss,is_right\n", "image,log_loss,is_right\na,x,1\n"):
        with pytest.raises(ValueError, match=r".*"):
            parse_csv(wrong)


def test_seeds_are_averaged_image_by_image_and_folds_are_put_together():
    folds = [measured(["a", "b"], [1.0, 2.0]), measured(["c"], [3.0])]
    of_other_seed = [measured(["a", "b"], [3.0, 2.0]), measured(["c"], [5.0])]
    mean = average([*folds, *of_other_seed])
    expected = measured(["a", "b", "c"], [2.0, 2.0, 4.0])
    assert mean.images.tolist() == expected.images.tolist()
    assert mean.log_losses.tolist() == expected.log_losses.tolist()


def test_study_keeps_three_digits_of_the_same_two_thousand_images_in_a_few_kilobytes():
    ids = [f"image {i}" for i in range(3000)]
    losses = RANDOM.exponential(0.3, 3000)
    one, other = measured(ids, losses), measured(ids[::-1], losses[::-1] + 1)
    noted, of_other = (json.loads(json.dumps(each.for_study({"val_log_loss"}))) for each in (one, other))
    assert len(json.dumps(noted)) < 6000
    kept, kept_of_other = in_study(noted, "val_log_loss"), in_study(of_other, "val_log_loss")
    assert kept.images == kept_of_other.images
    assert (len(kept.values), kept.num_images) == (MOST_IN_STUDY, 3000)
    assert kept.values == pytest.approx(one.log_losses[:MOST_IN_STUDY], rel=1e-3, abs=1e-7)
    assert kept_of_other.values - kept.values == pytest.approx(np.ones(MOST_IN_STUDY), abs=2e-3)
    assert in_study(noted, "val_accuracy") is None


@pytest.mark.parametrize(
    "changed",
    [{"val_log_loss": "x"}, {"val_log_loss": "AAAA"}, {"val_log_loss": "AHw="}, {"images": 1}, {"num_images": 0}],
)
def test_what_makes_no_sense_in_a_study_is_as_if_it_were_not_there(changed):
    noted = measured(["a", "b"], [1.0, 2.0]).for_study({"val_log_loss"})
    assert in_study(noted, "val_log_loss") is not None
    assert in_study(noted | changed, "val_log_loss") is None
    assert in_study(None, "val_log_loss") is None
