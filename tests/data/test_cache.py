"""Decoded images are kept once, mapped ever after, and a damaged cache is never used."""

import errno
import json
import multiprocessing
import os
import shutil
import threading
import warnings
from unittest.mock import Mock, call

import numpy as np
import pytest
from PIL import Image
from waiting import LONGEST_S, run_at_once

from cnn_sweeps.data import batches, cache
from cnn_sweeps.data.cache import load_decoded
from cnn_sweeps.errors import DataError

SIDE = 4


def write_images(folder, count=3, seed=0):
    """Write lossless pictures of the size that the tests ask for; return their files and pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
    folder.mkdir(parents=True)
    files = [folder / f"{i}.png" for i in range(count)]
    for file, image in zip(files, pixels, strict=True):
        Image.fromarray(image).save(file)
    return files, pixels


def load(files, cache_dir, height=SIDE, width=SIDE, channels=3):
    return load_decoded(files, cache_dir, height, width, channels)


def only_cache(cache_dir):
    (folder,) = cache_dir.iterdir()
    return folder


def forbid_decoding(monkeypatch):
    def decode_image(path, *_):
        raise AssertionError(f"{path} was decoded again")

    monkeypatch.setattr(batches, "decode_image", decode_image)


def test_first_load_gives_the_pixels_in_the_order_of_the_files(tmp_path):
    files, pixels = write_images(tmp_path / "images")
    decoded = load(files, tmp_path / "cache")
    np.testing.assert_array_equal(decoded.images, pixels)
    np.testing.assert_array_equal(decoded.positions, [0, 1, 2])
    assert decoded.bad_files == {}


def test_second_load_is_mapped_and_decodes_nothing(tmp_path, monkeypatch):
    files, pixels = write_images(tmp_path / "images")
    first = load(files, tmp_path / "cache")
    inode = (only_cache(tmp_path / "cache") / "images.u8").stat().st_ino
    forbid_decoding(monkeypatch)
    second = load(files, tmp_path / "cache")
    assert isinstance(second.images, np.memmap)
    assert not second.images.flags.writeable
    np.testing.assert_array_equal(second.images, pixels)
    np.testing.assert_array_equal(second.digests, first.digests)
    assert (only_cache(tmp_path / "cache") / "images.u8").stat().st_ino == inode


def test_mapped_file_holds_the_pixels_and_nothing_else(tmp_path):
    files, pixels = write_images(tmp_path / "images")
    decoded = load(files, tmp_path / "cache")
    assert (only_cache(tmp_path / "cache") / "images.u8").read_bytes() == pixels.tobytes()
    assert str(decoded.images.filename) == str(only_cache(tmp_path / "cache") / "images.u8")


def test_changed_content_is_decoded_again_even_with_the_old_size_and_time(tmp_path):
    files, pixels = write_images(tmp_path / "images")
    load(files, tmp_path / "cache")
    times = files[1].stat()
    Image.fromarray(255 - pixels[1]).save(files[1])
    os.utime(files[1], ns=(times.st_atime_ns, times.st_mtime_ns))
    decoded = load(files, tmp_path / "cache")
    np.testing.assert_array_equal(decoded.images[1], 255 - pixels[1])
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_copy_of_the_images_elsewhere_uses_the_same_cache(tmp_path, monkeypatch):
    files, pixels = write_images(tmp_path / "images")
    load(files, tmp_path / "cache")
    copies = [tmp_path / "copy" / f"renamed {file.name}" for file in files]
    copies[0].parent.mkdir()
    for file, copy in zip(files, copies, strict=True):
        shutil.copyfile(file, copy)
    forbid_decoding(monkeypatch)
    np.testing.assert_array_equal(load(copies, tmp_path / "cache").images, pixels)


def test_other_order_of_the_files_gives_the_images_in_that_order(tmp_path):
    files, pixels = write_images(tmp_path / "images")
    load(files, tmp_path / "cache")
    np.testing.assert_array_equal(load(files[::-1], tmp_path / "cache").images, pixels[::-1])


@pytest.mark.parametrize("shape", [(2, SIDE, 3), (SIDE, 2, 3), (SIDE, SIDE, 1)])
def test_other_size_or_channels_are_decoded_anew(tmp_path, shape):
    files, _ = write_images(tmp_path / "images")
    load(files, tmp_path / "cache")
    assert load(files, tmp_path / "cache", *shape).images.shape == (3, *shape)


def test_digests_are_equal_for_equal_images_only(tmp_path):
    files, _ = write_images(tmp_path / "images")
    Image.open(files[0]).save(tmp_path / "same.bmp")
    digests = load([*files, tmp_path / "same.bmp"], tmp_path / "cache").digests
    assert digests[0] == digests[3]
    assert len(set(digests.tolist())) == 3


def test_bad_files_are_told_with_their_positions_and_reasons_every_time(tmp_path):
    files, pixels = write_images(tmp_path / "images")
    files[1].write_bytes(b"")
    for _ in ("built", "from the cache"):
        decoded = load(files, tmp_path / "cache")
        np.testing.assert_array_equal(decoded.images, pixels[[0, 2]])
        np.testing.assert_array_equal(decoded.positions, [0, 2])
        assert decoded.bad_files == {1: "is empty"}


def test_folder_of_bad_files_alone_gives_no_images(tmp_path):
    (tmp_path / "bad").write_text("no image")
    for _ in ("built", "from the cache"):
        decoded = load([tmp_path / "bad"], tmp_path / "cache")
        assert decoded.images.shape == (0, SIDE, SIDE, 3)
        assert list(decoded.bad_files) == [0]


def test_repaired_file_is_no_longer_bad(tmp_path):
    files, pixels = write_images(tmp_path / "images")
    good = files[1].read_bytes()
    files[1].write_bytes(b"")
    load(files, tmp_path / "cache")
    files[1].write_bytes(good)
    np.testing.assert_array_equal(load(files, tmp_path / "cache").images, pixels)


@pytest.mark.parametrize("size", [0, 1, 3 * SIDE * SIDE * 3 - 1])
def test_truncated_pixels_are_rebuilt(tmp_path, size):
    files, pixels = write_images(tmp_path / "images")
    load(files, tmp_path / "cache")
    os.truncate(only_cache(tmp_path / "cache") / "images.u8", size)
    np.testing.assert_array_equal(load(files, tmp_path / "cache").images, pixels)
    assert (only_cache(tmp_path / "cache") / "images.u8").stat().st_size == pixels.size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "\0" * 100,
        "null",
        "[]",
        "{}",
        '{"shape": [], "digests": [], "positions": [], "bad_files": {}}',
        json.dumps({"shape": [3, SIDE, SIDE, 3]}),
        json.dumps({"shape": [3, SIDE, SIDE, 3], "digests": ["0"], "positions": [0], "bad_files": {}}),
    ],
)
def test_damaged_description_is_rebuilt(tmp_path, text):
    files, pixels = write_images(tmp_path / "images")
    digests = load(files, tmp_path / "cache").digests
    (only_cache(tmp_path / "cache") / "about.json").write_text(text)
    decoded = load(files, tmp_path / "cache")
    np.testing.assert_array_equal(decoded.images, pixels)
    np.testing.assert_array_equal(decoded.digests, digests)
    assert json.loads((only_cache(tmp_path / "cache") / "about.json").read_text())["shape"] == [3, SIDE, SIDE, 3]


@pytest.mark.parametrize("name", ["images.u8", "about.json"])
def test_cache_with_a_file_missing_is_rebuilt(tmp_path, name):
    files, pixels = write_images(tmp_path / "images")
    load(files, tmp_path / "cache")
    (only_cache(tmp_path / "cache") / name).unlink()
    np.testing.assert_array_equal(load(files, tmp_path / "cache").images, pixels)
    assert (only_cache(tmp_path / "cache") / name).exists()


def load_when_both_decode(barrier, files, cache_dir, result):
    decode_image = batches.decode_image

    def wait_and_decode(path, *shape):
        if path == files[0]:
            barrier.wait(timeout=LONGEST_S)  # the other process is building, too
        return decode_image(path, *shape)

    batches.decode_image = wait_and_decode
    np.save(result, load(files, cache_dir).images)


def test_two_processes_that_build_at_once_leave_one_whole_cache(tmp_path, monkeypatch):
    files, pixels = write_images(tmp_path / "images", count=40)
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    results = [tmp_path / "0.npy", tmp_path / "1.npy"]
    processes = [
        context.Process(target=load_when_both_decode, args=(barrier, files, tmp_path / "cache", result))
        for result in results
    ]
    run_at_once(processes)
    for result in results:
        np.testing.assert_array_equal(np.load(result), pixels)
    assert not only_cache(tmp_path / "cache").name.endswith(".unfinished")
    forbid_decoding(monkeypatch)
    np.testing.assert_array_equal(load(files, tmp_path / "cache").images, pixels)


def test_cache_that_another_process_completes_after_this_one_has_looked_stays(tmp_path, monkeypatch):
    files, pixels = write_images(tmp_path / "images")
    load(files, tmp_path / "other")
    other, look = only_cache(tmp_path / "other"), cache._open
    completed = tmp_path / "cache" / other.name

    def look_and_be_late(folder):
        found = look(folder)
        if found is None and any((tmp_path / "cache").glob("*.unfinished")):
            other.rename(completed)
        return found

    monkeypatch.setattr(cache, "_open", look_and_be_late)
    monkeypatch.setattr(cache, "_remove", removed := Mock(wraps=cache._remove))
    np.testing.assert_array_equal(load(files, tmp_path / "cache").images, pixels)
    assert call(completed) not in removed.mock_calls


@pytest.mark.parametrize("cache_dir", ["file", "file/below"])
def test_cache_dir_that_is_a_file_is_refused_by_its_setting(tmp_path, cache_dir):
    files, _ = write_images(tmp_path / "images")
    (tmp_path / "file").write_text("kept")
    with pytest.raises(DataError, match=r"data\.cache_dir=.*file"):
        load(files, tmp_path / cache_dir)
    assert (tmp_path / "file").read_text() == "kept"


def test_folder_that_cannot_be_written_gives_way_to_a_private_one_and_that_is_told(tmp_path, closed):
    files, pixels = write_images(tmp_path / "images")
    loaded, other = load(files, closed / "cache"), tmp_path / f"cnn_sweeps-{os.getuid()}"
    np.testing.assert_array_equal(loaded.images, pixels)
    assert loaded.note.startswith(f"data.cache_dir={closed}/cache: {closed} cannot be written; ")
    assert f"is kept in {other}, " in loaded.note
    assert (list(closed.iterdir()), other.stat().st_mode & 0o777) == ([], 0o700)
    assert load(files, closed / "cache").note  # read from there, and told again


def test_cache_in_a_folder_that_cannot_be_written_is_read(tmp_path, closed, monkeypatch):
    files, pixels = write_images(tmp_path / "images")
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: True)
        load(files, closed)
    loaded = load(files, closed)
    np.testing.assert_array_equal(loaded.images, pixels)
    assert not loaded.note
    assert not (tmp_path / f"cnn_sweeps-{os.getuid()}").exists()


@pytest.mark.parametrize("kind", ["link", "open"])
def test_folder_of_temporary_files_that_others_could_have_made_is_refused(tmp_path, closed, kind):
    files, _ = write_images(tmp_path / "images")
    other = tmp_path / f"cnn_sweeps-{os.getuid()}"
    if kind == "link":
        other.symlink_to(tmp_path / "images")
    else:
        other.mkdir()
        other.chmod(0o777)
    with pytest.raises(DataError, match=f"{closed} cannot be written, and {other} is not a folder of yours alone; "):
        load(files, closed)


def test_full_disk_is_told_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    files, pixels = write_images(tmp_path / "images")

    def fsync(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(DataError, match=r"data\.cache_dir=.*No space left on device"):
            load(files, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    np.testing.assert_array_equal(load(files, tmp_path / "cache").images, pixels)


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt])
def test_interrupted_build_leaves_nothing_half_written(tmp_path, monkeypatch, interruption):
    files, _ = write_images(tmp_path / "images")
    decode_image = batches.decode_image

    def decode_or_stop(path, *shape):
        if path == files[2]:
            raise interruption
        return decode_image(path, *shape)

    monkeypatch.setattr(batches, "decode_image", decode_or_stop)
    with pytest.raises(interruption):
        load(files, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_failed_rebuild_does_not_harm_another_cache(tmp_path, monkeypatch):
    files, pixels = write_images(tmp_path / "images")
    others, _ = write_images(tmp_path / "others", seed=1)
    load(files, tmp_path / "cache")

    def decode_image(*_):
        raise RuntimeError

    monkeypatch.setattr(batches, "decode_image", decode_image)
    with pytest.raises(RuntimeError):
        load(others, tmp_path / "cache")
    np.testing.assert_array_equal(load(files, tmp_path / "cache").images, pixels)


def test_pictures_that_pillow_warns_about_are_used_when_warnings_are_errors(tmp_path, monkeypatch):
    photo = tmp_path / "photo.jpg"  # of which a fraction is decoded
    Image.new("RGB", (64, 64), "red").save(photo)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 - 1)  # a warning; twice as many are refused
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load([photo], tmp_path / "cache")
    assert (loaded.bad_files, len(loaded.images)) == ({}, 1)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="decodes in a single thread")
def test_decoding_in_threads_leaves_the_warning_filters_as_they_were(tmp_path, monkeypatch):
    narrow, wide = tmp_path / "narrow.png", tmp_path / "wide.png"
    Image.new("RGB", (3, 8)).save(narrow)
    Image.new("RGB", (5, 8)).save(wide)
    narrow_is_inside, wide_is_inside, narrow_is_done = (threading.Event() for _ in range(3))
    resize, decode_image = Image.Image.resize, batches.decode_image

    def resize_overlapping(image, *args, **kwargs):
        if image.width == 3:
            narrow_is_inside.set()
            wide_is_inside.wait(timeout=LONGEST_S)
        else:
            wide_is_inside.set()
            narrow_is_done.wait(timeout=LONGEST_S)
        return resize(image, *args, **kwargs)

    def decode_in_turn(path, *shape):
        if path == wide:
            narrow_is_inside.wait(timeout=LONGEST_S)
        pixels = decode_image(path, *shape)
        if path == narrow:
            narrow_is_done.set()
        return pixels

    monkeypatch.setattr(Image.Image, "resize", resize_overlapping)
    monkeypatch.setattr(batches, "decode_image", decode_in_turn)
    with warnings.catch_warnings():
        before = list(warnings.filters)
        load([narrow, wide], tmp_path / "cache")
        assert warnings.filters == before
