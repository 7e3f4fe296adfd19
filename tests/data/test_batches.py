"""Files come as batches, in order, and only a few of them are in memory."""

import numpy as np
import pytest
from PIL import Image

from cnn_sweeps.data import batches
from cnn_sweeps.data.batches import decoded_batches
from cnn_sweeps.data.listing import find_images
from cnn_sweeps.errors import DataError


def write_image(path, grey):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), grey).save(path)
    return path


def test_bad_files_are_told_and_leave_no_gap(tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "_MOST_IMAGES_A_BATCH", 4)
    files = [write_image(tmp_path / f"{i}.png", 20 * i) for i in range(10)]
    for i in (1, 2, 9):
        files[i].write_bytes(b"")
    bad = {}
    found = list(decoded_batches(files, (8, 8, 1), lambda path, reason: bad.update({path: reason})))
    assert bad == {files[i]: "is empty" for i in (1, 2, 9)}
    assert [[int(path.stem) for path in paths] for paths, _ in found] == [[0, 3, 4, 5], [6, 7, 8]]
    assert [images[:, 0, 0, 0].tolist() for _, images in found] == [[0, 60, 80, 100], [120, 140, 160]]
    assert {(images.dtype, images.shape[1:]) for _, images in found} == {(np.dtype(np.uint8), (8, 8, 1))}


def test_number_of_images_in_memory_does_not_grow_with_that_of_files(tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "_MOST_IMAGES_A_BATCH", 4)
    decoded = []
    monkeypatch.setattr(batches, "decode_image", lambda path, *shape: decoded.append(path) or np.zeros(shape, np.uint8))
    taken = 0
    for paths, _ in decoded_batches([tmp_path / str(i) for i in range(100)], (8, 8, 1), pytest.fail):
        taken += len(paths)
        assert len(decoded) <= taken + 2 * 4 + 1
    assert taken == 100


def test_named_files_are_taken_as_they_are_and_folders_without_what_is_hidden(tmp_path):
    files = [write_image(tmp_path / name, 0) for name in ("b/c.png", "b/d/a.png", ".hidden.png", "b/.h/x.png")]
    (tmp_path / "b/thumbs.DB").touch()
    assert find_images([tmp_path / "b", files[0], files[2]]) == ([files[0], files[1], files[2]], {})


def test_path_that_is_not_there_and_folder_without_a_file_are_told(tmp_path):
    with pytest.raises(DataError, match="nowhere: there is no such file or folder"):
        find_images([tmp_path / "nowhere"])
    with pytest.raises(DataError, match="there is no image in this folder"):
        find_images([tmp_path])
