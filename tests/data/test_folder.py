"""Folders of images, as people keep them, become data sets or errors that name what is wrong and where."""

import numpy as np
import pytest
from folders import brightness_by_name, load, refusal_of, write_classes, write_image

from cnn_sweeps.data import load_folder
from cnn_sweeps.errors import DataError


def test_subfolders_are_the_classes(tmp_path):
    write_classes(tmp_path / "pets")
    dataset = load(tmp_path / "pets")
    assert dataset.class_names == ["cat", "dog"]
    assert dataset.labels.tolist() == [0, 0, 1, 1]
    assert brightness_by_name(dataset) == {"cat/0.png": 0, "cat/1.png": 1, "dog/0.png": 2, "dog/1.png": 3}
    assert set(dataset.splits.tolist()) == {""}
    assert dataset.name == "pets"
    assert dataset.source == str((tmp_path / "pets").resolve())


@pytest.mark.parametrize(("image_size", "channels", "shape"), [(5, 3, (5, 5, 3)), ([4, 6], 1, (4, 6, 1))])
def test_images_have_the_size_and_channels_asked_for(tmp_path, image_size, channels, shape):
    write_classes(tmp_path / "pets")
    assert load(tmp_path / "pets", image_size=image_size, channels=channels).image_shape == shape


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "Validation", "Testing")])
def test_split_folders_are_the_splits(tmp_path, names):
    for i, name in enumerate(names):
        write_classes(tmp_path / "pets" / name, first=10 * i)
    dataset = load(tmp_path / "pets")
    assert dataset.class_names == ["cat", "dog"]
    for i, (name, split) in enumerate(zip(names, ("train", "val", "test"), strict=True)):
        chosen = dataset.splits == split
        assert dataset.images[chosen][:, 0, 0, 0].tolist() == [10 * i, 10 * i + 1, 10 * i + 2, 10 * i + 3]
        assert dataset.labels[chosen].tolist() == [0, 0, 1, 1]
        assert all(dataset.file_names[j].startswith(f"{name}/") for j in np.flatnonzero(chosen))


def test_train_and_test_folders_alone_give_no_validation_images(tmp_path):
    write_classes(tmp_path / "pets" / "train")
    write_classes(tmp_path / "pets" / "test", first=10)
    assert sorted(load(tmp_path / "pets").splits.tolist()) == ["test"] * 4 + ["train"] * 4


def test_classes_of_all_split_folders_are_joined(tmp_path):
    write_classes(tmp_path / "pets" / "train", classes=("cat", "dog"))
    write_classes(tmp_path / "pets" / "test", classes=("cat", "eel"), first=10)
    assert load(tmp_path / "pets").class_names == ["cat", "dog", "eel"]


def test_spaces_and_unicode_in_names_are_kept(tmp_path):
    root = tmp_path / "mes données"
    write_image(root / "Bär groß" / "ein Bild.png", 1)
    write_image(root / "猫 🐈" / "写真 1.png", 2)
    dataset = load(root)
    assert dataset.class_names == ["Bär groß", "猫 🐈"]
    assert brightness_by_name(dataset) == {"Bär groß/ein Bild.png": 1, "猫 🐈/写真 1.png": 2}


@pytest.mark.parametrize("junk", [".DS_Store", "Thumbs.db", "THUMBS.DB", "desktop.ini", "._0.png"])
def test_litter_of_file_managers_is_no_image(tmp_path, junk):
    write_classes(tmp_path / "pets")
    (tmp_path / "pets" / "cat" / junk).write_bytes(b"litter")
    (tmp_path / "pets" / junk).write_bytes(b"litter")
    dataset = load(tmp_path / "pets")
    assert len(dataset.labels) == 4
    assert dataset.skipped_files == {}
    assert len(dataset.notes) == (not junk.startswith("."))


def test_hidden_folder_is_no_class(tmp_path):
    write_classes(tmp_path / "pets")
    write_image(tmp_path / "pets" / ".thumbnails" / "0.png", 9)
    assert load(tmp_path / "pets").class_names == ["cat", "dog"]


def test_hidden_folder_inside_a_class_is_left_out(tmp_path):
    write_classes(tmp_path / "pets")
    write_image(tmp_path / "pets" / "cat" / ".ipynb_checkpoints" / "0-checkpoint.png", 9)
    assert len(load(tmp_path / "pets").labels) == 4


def test_hidden_parent_of_the_root_hides_nothing(tmp_path):
    write_classes(tmp_path / ".cache" / "pets")
    assert len(load(tmp_path / ".cache" / "pets").labels) == 4


@pytest.mark.parametrize("name", ["photo.JPEG", "photo", "photo.tar.gz", "photo.jpg_large"])
def test_images_are_taken_whatever_their_ending(tmp_path, name):
    write_classes(tmp_path / "pets")
    write_image(tmp_path / "pets" / "cat" / name, 9)
    assert brightness_by_name(load(tmp_path / "pets"))[f"cat/{name}"] == 9


def test_images_are_taken_at_any_depth(tmp_path):
    write_classes(tmp_path / "pets")
    write_image(tmp_path / "pets" / "cat" / "2024" / "may" / "train" / "0.png", 9)
    dataset = load(tmp_path / "pets")
    assert brightness_by_name(dataset)["cat/2024/may/train/0.png"] == 9
    assert dataset.class_names == ["cat", "dog"]


def test_every_bad_file_is_named_with_its_reason_in_one_line(tmp_path):
    write_classes(tmp_path / "pets")
    (tmp_path / "pets" / "cat" / "empty.png").write_bytes(b"")
    (tmp_path / "pets" / "cat" / "notes.txt").write_text("whiskers")
    (tmp_path / "pets" / "dog" / "pointer.jpg").write_text("version https://git-lfs.github.com/spec/v1\n")
    message = refusal_of(tmp_path / "pets")
    assert "3 of 7 files" in message
    assert "cat/empty.png is empty" in message
    assert "cat/notes.txt is no image of a known format" in message
    assert "dog/pointer.jpg is a Git LFS pointer" in message
    assert "data.on_bad_image=skip" in message


def test_bad_files_are_named_again_on_the_next_run(tmp_path):
    write_classes(tmp_path / "pets")
    (tmp_path / "pets" / "cat" / "notes.txt").write_text("whiskers")
    assert refusal_of(tmp_path / "pets") == refusal_of(tmp_path / "pets")


def test_skip_leaves_bad_files_out_and_lists_them(tmp_path):
    write_classes(tmp_path / "pets")
    (tmp_path / "pets" / "cat" / "0.png").write_bytes(b"")
    (tmp_path / "pets" / "dog" / "notes.txt").write_text("woof")
    dataset = load(tmp_path / "pets", on_bad_image="skip")
    assert brightness_by_name(dataset) == {"cat/1.png": 1, "dog/0.png": 2, "dog/1.png": 3}
    assert dataset.labels.tolist() == [0, 1, 1]
    assert dataset.skipped_files == {"cat/0.png": "is empty", "dog/notes.txt": "is no image of a known format"}


def test_class_left_without_a_good_image_is_refused_by_name(tmp_path):
    write_classes(tmp_path / "pets", classes=("cat", "dog", "eel"))
    for file in (tmp_path / "pets" / "eel").iterdir():
        file.write_bytes(b"")
    message = refusal_of(tmp_path / "pets", on_bad_image="skip")
    assert "eel" in message
    assert str(tmp_path / "pets") in message


def test_empty_class_folder_is_refused_by_name(tmp_path):
    write_classes(tmp_path / "pets")
    (tmp_path / "pets" / "eel").mkdir()
    message = refusal_of(tmp_path / "pets")
    assert "eel" in message
    assert str(tmp_path / "pets") in message


def test_missing_root_is_refused(tmp_path):
    message = refusal_of(tmp_path / "nowhere")
    assert f"data.root={tmp_path / 'nowhere'}" in message
    assert "does not exist" in message


def test_missing_root_of_a_project_that_was_moved_is_told_as_it_is_now(tmp_path, monkeypatch):
    write_classes(tmp_path / "now" / "pets" / "young")
    monkeypatch.chdir(tmp_path / "now")
    told = "does not exist; if you moved the project, set data.root=pets/young"
    assert refusal_of(tmp_path / "before" / "pets" / "young") == f"data.root={tmp_path}/before/pets/young: {told}"


def test_root_that_is_a_file_is_refused(tmp_path):
    write_image(tmp_path / "photo.png", 0)
    message = refusal_of(tmp_path / "photo.png")
    assert f"data.root={tmp_path / 'photo.png'}" in message
    assert "no folder" in message


@pytest.mark.parametrize("subfolders", [[], ["cat", "dog"], ["train", "test"], ["train/cat", "test/dog"]])
def test_root_without_images_is_refused(tmp_path, subfolders):
    root = tmp_path / "pets"
    root.mkdir()
    for subfolder in subfolders:
        (root / subfolder).mkdir(parents=True)
    message = refusal_of(root)
    assert f"data.root={root}" in message
    assert "no class" in message


def test_images_beside_rather_than_in_class_folders_are_refused(tmp_path):
    for i in range(3):
        write_image(tmp_path / "pets" / f"{i}.png", i)
    assert f"data.root={tmp_path / 'pets'}" in refusal_of(tmp_path / "pets")


@pytest.mark.parametrize("parent", ["", "train"])
def test_single_class_is_refused_by_name(tmp_path, parent):
    write_classes(tmp_path / "pets" / parent, classes=("cat",))
    message = refusal_of(tmp_path / "pets")
    assert f"data.root={tmp_path / 'pets'}" in message
    assert "only one class, cat" in message


def test_stray_folder_beside_train_is_named(tmp_path):
    for name in ("train/a", "train/b", "test/a", "test/b", "labels/x"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(DataError, match="beside test, train there is labels"):
        load_folder(str(tmp_path), 8, 3, "error", str(tmp_path / "cache"))


# Links.


@pytest.fixture
def pets(tmp_path):
    """A folder of four images, with one outside it."""
    write_classes(tmp_path / "pets")
    write_image(tmp_path / "private.png", 200)
    return tmp_path / "pets"


def test_link_within_the_folder_is_the_image_it_leads_to(pets):
    (pets / "cat" / "link.png").symlink_to("../dog/0.png")
    assert brightness_by_name(load(pets))["cat/link.png"] == 2


def test_folder_that_is_named_by_a_link_is_read(pets, tmp_path):
    (tmp_path / "named").symlink_to("pets")
    assert len(load(tmp_path / "named").labels) == 4


@pytest.mark.parametrize("target", ["../../private.png", "{folder}/private.png"])
def test_link_out_of_the_folder_is_refused_by_name_as_a_bad_file_is(pets, tmp_path, target):
    (pets / "cat" / "link.png").symlink_to(target.format(folder=tmp_path))
    reason = f"is a link out of the folder, to {tmp_path}/private.png"
    message = refusal_of(pets)
    assert f"1 of 5 files cannot be used: cat/link.png {reason}; " in message
    assert message.endswith("or set data.follow_links=true if the links are meant")
    skipped = load(pets, on_bad_image="skip")
    assert (skipped.skipped_files, len(skipped.labels)) == ({"cat/link.png": reason}, 4)
    assert brightness_by_name(load(pets, follow_links=True))["cat/link.png"] == 200


def test_link_to_a_link_that_leads_out_is_refused(pets):
    (pets / "cat" / "link.png").symlink_to("../dog/link.png")
    (pets / "dog" / "link.png").symlink_to("../../private.png")
    assert "2 of 6 files cannot be used" in refusal_of(pets)


@pytest.mark.parametrize("on_bad_image", ["error", "skip"])
def test_class_that_is_a_link_out_of_the_folder_is_refused_by_name(pets, tmp_path, on_bad_image):
    write_image(tmp_path / "zoo" / "0.png", 9)
    (pets / "eel").symlink_to("../zoo")
    message = refusal_of(pets, on_bad_image=on_bad_image)
    assert f"data.root={pets}: eel is a link out of the folder, to {tmp_path}/zoo; " in message
    assert load(pets, follow_links=True).class_names == ["cat", "dog", "eel"]


def test_link_to_a_folder_is_entered_as_the_folder_it_leads_to(pets):
    write_image(pets / "dog" / "more" / "0.png", 7)
    (pets / "cat" / "link").symlink_to("../dog/more")
    assert brightness_by_name(load(pets))["cat/link/0.png"] == 7


def test_link_to_a_folder_outside_is_entered_if_asked_for_and_else_named(pets, tmp_path):
    write_image(tmp_path / "zoo" / "old" / "0.png", 9)
    (pets / "cat" / "link").symlink_to("../../zoo")
    assert f"1 of 5 files cannot be used: cat/link is a link out of the folder, to {tmp_path}/zoo; " in refusal_of(pets)
    assert len(load(pets, on_bad_image="skip").skipped_files) == 1
    assert brightness_by_name(load(pets, follow_links=True))["cat/link/old/0.png"] == 9


@pytest.mark.parametrize("target", [".", "..", "../..", "../dog/back"])
def test_link_to_a_folder_around_it_ends_and_is_named(pets, target):
    (pets / "dog" / "back").symlink_to("../cat")
    (pets / "cat" / "link").symlink_to(target)
    told = "is a link to a folder around it, or to one that is read already"
    message = refusal_of(pets, follow_links=True)
    assert f"cat/link, dog/back/link: each {told}" in message
    assert message.endswith("data.on_bad_image=skip")
    names = load(pets, follow_links=True, on_bad_image="skip").file_names
    assert sorted(names) == [f"{place}/{i}.png" for place in ("cat", "dog", "dog/back") for i in (0, 1)]


# Splits by other names.


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("training_set", "test_set"), ("train", "test")),
        (("seg_train", "seg_test"), ("train", "test")),
        (("x-train", "x-validation"), ("train", "val")),
        (("TRAIN", "VAL", "TEST"), ("train", "val", "test")),
        (("Training_Data", "Testing_Data"), ("train", "test")),
        (("TrainImages", "TestImages"), ("train", "test")),
        (("train2017", "val2017"), ("train", "val")),
        (("trainset", "valset", "testset"), ("train", "val", "test")),
        (("1. train", "2. valid"), ("train", "val")),
        (("train", "dev", "test"), ("train", "val", "test")),
        (("train", "eval"), ("train", "test")),
        (("train", "eval", "test"), ("train", "val", "test")),
        (("train", "hold-out"), ("train", "test")),
        (("train_1", "train_2", "test"), ("train", "train", "test")),
    ],
)
def test_folders_that_share_classes_and_have_a_word_for_a_split_are_splits(tmp_path, names, splits):
    for i, name in enumerate(names):
        write_classes(tmp_path / "pets" / name, first=10 * i)
    dataset = load(tmp_path / "pets")
    assert dataset.class_names == ["cat", "dog"]
    split_of = {name.split("/")[0]: split for name, split in zip(dataset.file_names, dataset.splits, strict=True)}
    assert split_of == dict(zip(names, splits, strict=True))


def test_which_folder_is_taken_for_which_split_is_told_unless_its_name_says_it(tmp_path):
    for i, name in enumerate(("seg_train", "Test")):
        write_classes(tmp_path / "pets" / name, first=10 * i)
    assert load(tmp_path / "pets").notes == ["taken for splits by their names: seg_train is train"]


def test_single_folder_of_training_images_around_the_classes_is_no_class(tmp_path):
    write_classes(tmp_path / "pets" / "training_set")
    assert load(tmp_path / "pets").class_names == ["cat", "dog"]


@pytest.mark.parametrize(
    "files",
    [
        ("trains/old/0.png", "cars/old/0.png"),  # words within words
        ("latest/a/0.png", "contest/a/0.png"),
        ("invalid/a/0.png", "valid/a/0.png"),
        ("train_station/day/0.png", "bus_stop/day/0.png", "harbour/day/0.png"),  # one of several
        ("test_positive/0.png", "test_negative/0.png"),  # of one split alone, without a class in it
        ("train/0.png", "car/0.png", "bus/0.png"),  # the vehicle
    ],
)
def test_folders_that_are_no_splits_stay_classes(tmp_path, files):
    for i, file in enumerate(files):
        write_image(tmp_path / "things" / file, i)
    assert load(tmp_path / "things").class_names == sorted(file.split("/")[0] for file in files)


@pytest.mark.parametrize(
    ("folders", "told"),
    [
        (
            ("seg_train/a", "seg_test/a", "seg_train/b", "seg_test/b", "seg_pred"),
            "beside seg_test, seg_train there is ",
        ),
        (("x-val/a", "x-val/b", "x-test/a", "x-test/b"), "holds x-test, x-val but no train; add train"),
        (
            ("train_cats", "train_dogs", "test_cats"),
            "train_cats, train_dogs look like splits and hold no class folders",
        ),
        (("training_images", "test_images", "labels"), "beside test_images, training_images there is labels"),
    ],
)
def test_folders_that_look_like_splits_and_cannot_be_are_refused_with_the_names_to_give(tmp_path, folders, told):
    for folder in folders:
        write_image(tmp_path / "pets" / folder / "0.png", 0)
    message = refusal_of(tmp_path / "pets")
    assert told in message
    assert "train" in message
    assert "rename what is a class" in message
