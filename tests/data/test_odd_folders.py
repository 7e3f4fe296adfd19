"""What people's folders hold beside images in class folders is named, with what to do about it."""

import os
import unicodedata

import pytest
from folders import brightness_by_name, load, refusal_of, write_classes, write_image

from cnn_sweeps.data.images import describe_images
from cnn_sweeps.data.listing import find_images
from cnn_sweeps.data.split import split_dataset

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"


@pytest.fixture
def pets(tmp_path):
    """A folder of four images, two a class."""
    write_classes(tmp_path / "pets")
    return tmp_path / "pets"


# What cannot be read.


@pytest.fixture
def closed(monkeypatch):
    """Close folders, also to root."""
    folders, scandir = set(), os.scandir

    def scan(folder):
        if folder in folders:
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", scan)
    return folders


def test_folder_in_a_class_that_cannot_be_read_is_named_as_a_bad_file_is(pets, closed):
    write_image(pets / "cat" / "old" / "0.png", 9)
    closed.add(pets / "cat" / "old")
    told = "is a folder that cannot be read (Permission denied)"
    assert f"1 of 5 files cannot be used: cat/old {told}; repair or remove them" in refusal_of(pets)
    assert load(pets, on_bad_image="skip").skipped_files == {"cat/old": told}
    assert find_images([pets])[1] == {pets / "cat" / "old": told}


@pytest.mark.parametrize("on_bad_image", ["error", "skip"])
def test_class_folder_that_cannot_be_read_is_not_told_as_an_empty_one(pets, closed, on_bad_image):
    closed.add(pets / "cat")
    told = f"data.root={pets}: class folders cannot be read: cat (Permission denied); "
    assert told in refusal_of(pets, on_bad_image=on_bad_image)


@pytest.mark.skipif(os.getuid() == 0, reason="root reads every folder")
@pytest.mark.parametrize(("place", "told"), [("cat", "class folders cannot be read: cat"), ("cat/old", "cat/old is a")])
def test_folder_without_permission_is_named(pets, place, told):
    write_image(pets / "cat" / "old" / "0.png", 9)
    (pets / place).chmod(0)
    message = refusal_of(pets)
    (pets / place).chmod(0o700)
    assert told in message
    assert "(Permission denied)" in message


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("link.png", "cannot be read (Too many levels of symbolic links)"),
        ("gone.png", "cannot be read (No such file or directory)"),
    ],
)
def test_link_that_leads_nowhere_is_named(pets, target, told):
    (pets / "cat" / "link.png").symlink_to(target)
    assert f"1 of 5 files cannot be used: cat/link.png {told}; " in refusal_of(pets)


def test_named_pipe_among_the_images_is_named(pets):
    os.mkfifo(pets / "cat" / "pipe.png")
    assert "1 of 5 files cannot be used: cat/pipe.png is a named pipe, not a file; " in refusal_of(pets)


# Many bad files.


def test_reason_of_many_bad_files_is_said_once_with_ten_names(pets):
    for i in range(1000):
        (pets / "cat" / f"lost{i:03}.jpg").write_text(LFS)
    message = refusal_of(pets)
    assert message.count("Git LFS") == 1
    assert message.count("cat/lost") == 10
    assert "1,000 of 1,004 files" in message
    assert "cat/lost009.jpg, and 990 more: each is a Git LFS pointer, not the image; run `git lfs pull`; " in message
    assert message.endswith("or set data.on_bad_image=skip")


def test_files_that_are_damaged_each_in_its_way_are_of_one_reason(pets):
    write_image(pets / "cat" / "whole.png", 3)
    whole = (pets / "cat" / "whole.png").read_bytes()
    for i in range(8):
        (pets / "dog" / f"short{i}.png").write_bytes(whole[: 45 + i])
    (pets / "dog" / "notes.txt").write_text("woof")
    message = refusal_of(pets)
    assert "dog/short4.png, and 3 more: each cannot be decoded (" in message
    assert "dog/notes.txt is no image of a known format; " in message


@pytest.mark.parametrize("on_bad_image", ["error", "skip"])
def test_skipping_is_not_offered_where_a_class_would_have_no_image(pets, on_bad_image):
    for file in (pets / "dog").iterdir():
        file.write_text(LFS)
    message = refusal_of(pets, on_bad_image=on_bad_image)
    assert "dog/0.png, dog/1.png: each is a Git LFS pointer, not the image; run `git lfs pull`; " in message
    assert message.endswith("repair or replace them: there is no other image of class dog")


def test_skipped_files_are_told_by_their_reason(tmp_path):
    write_classes(tmp_path / "pets", count=5)
    for i in range(30):
        (tmp_path / "pets" / "cat" / f"lost{i:02}.jpg").write_text(LFS)
    dataset = load(tmp_path / "pets", on_bad_image="skip")
    told = describe_images(dataset, split_dataset(dataset, 0.2, 0.2, 0))[-1]
    assert told.startswith("30 files are no usable images and were skipped: cat/lost00.jpg, ")
    assert told.endswith("and 20 more: each is a Git LFS pointer, not the image; run `git lfs pull`")


# Layouts.


@pytest.mark.parametrize("names", [("train",), ("train", "test1")])
def test_images_of_a_split_without_class_folders_are_told_where_to_go(tmp_path, names):
    for name in names:
        write_image(tmp_path / "pets" / name / "cat.0.png", 0)
    message = refusal_of(tmp_path / "pets")
    assert "look like splits and hold no class folders; put the images into one subfolder a class in each" in message
    assert ", such as train/CLASS, or rename what is a class" in message


def test_images_without_any_folder_are_counted(tmp_path):
    for i in range(3):
        write_image(tmp_path / "pets" / f"{i}.png", i)
    assert "no class with a file in it; " in refusal_of(tmp_path / "pets")
    assert refusal_of(tmp_path / "pets").endswith("3 files lie in no class folder")


@pytest.mark.parametrize("above", ["photos", "photos/v2", "training_data"])
@pytest.mark.parametrize("inside", [(), ("train", "val")])
def test_folder_around_the_data_set_names_the_one_to_give(tmp_path, above, inside):
    for split in inside or [""]:
        write_classes(tmp_path / "zip" / above / split)
    (tmp_path / "zip" / "__MACOSX").mkdir()
    if above == "training_data" and not inside:
        assert load(tmp_path / "zip").class_names == ["cat", "dog"]
        return
    names = ", ".join(inside or ("cat", "dog"))
    message = refusal_of(tmp_path / "zip")
    assert f"there are {names}: if these are the data set, set data.root={tmp_path / 'zip' / above}" in message


def test_what_programs_leave_is_passed_over_and_named(pets):
    for name in ("__MACOSX/cat/._0.png", "@eaDir/0.png", "cat/@eaDir/0.png", "cat/Thumbs.db", "dog/all.idx"):
        (pets / name).parent.mkdir(parents=True, exist_ok=True)
        (pets / name).write_bytes(b"litter")
    dataset = load(pets)
    assert (dataset.class_names, len(dataset.labels), dataset.skipped_files) == (["cat", "dog"], 4, {})
    names = "@eaDir, __MACOSX, cat/@eaDir, cat/Thumbs.db, dog/all.idx"
    assert dataset.notes == [f"left out, since their names are not those of images: {names}"]


def test_files_in_no_class_folder_are_left_out_and_named(tmp_path):
    write_classes(tmp_path / "pets" / "train")
    (tmp_path / "pets" / "labels.csv").write_text("")
    write_image(tmp_path / "pets" / "test" / "0.png", 9)
    assert load(tmp_path / "pets").notes == ["left out, since they are in no class folder: labels.csv, test/0.png"]


# Names.


def test_names_that_are_no_utf8_are_shown_with_their_bytes(tmp_path):
    write_classes(tmp_path / "pets")
    (tmp_path / "pets" / "cat" / "0.png").rename(tmp_path / "pets" / "cat" / os.fsdecode(b"caf\xe9.png"))
    (tmp_path / "pets" / "dog").rename(tmp_path / "pets" / os.fsdecode(b"d\xf6g"))
    dataset = load(tmp_path / "pets")
    assert dataset.class_names == ["cat", r"d\xf6g"]
    assert brightness_by_name(dataset)[r"cat/caf\xe9.png"] == 0
    assert len(dataset.fingerprint) == 32  # for which names are encoded


def test_one_name_in_two_forms_is_one_class(tmp_path):
    forms = [unicodedata.normalize(form, "für") for form in ("NFC", "NFD")]
    for i, (split, form) in enumerate(zip(("train", "val"), forms, strict=True)):
        write_classes(tmp_path / "pets" / split, classes=(form, "b"), first=10 * i)
    dataset = load(tmp_path / "pets")
    assert dataset.class_names == ["b", forms[0]]
    assert sorted(dataset.splits[dataset.labels == 1]) == ["train", "train", "val", "val"]


# The positive class.


@pytest.mark.parametrize(
    ("positive", "names"), [(None, ["cat", "dog"]), ("dog", ["cat", "dog"]), ("cat", ["dog", "cat"])]
)
def test_positive_class_is_the_second(pets, positive, names):
    dataset = load(pets, positive_class=positive)
    assert dataset.class_names == names
    assert {dataset.class_names[label] for label in dataset.labels[:2]} == {"cat"}


def test_positive_class_that_is_none_is_refused_with_those_there_are(pets):
    message = refusal_of(pets, positive_class="cats")
    assert message == "data.positive_class=cats: there is no such class; allowed: cat, dog"


def test_of_more_than_two_classes_none_is_positive(pets):
    write_image(pets / "eel" / "0.png", 9)
    assert "needs two classes, and there are 3; " in refusal_of(pets, positive_class="eel")
