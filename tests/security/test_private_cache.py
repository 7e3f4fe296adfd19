"""The cache of decoded images: closed to other users, never believed blindly, and the only thing that it removes."""

import os
import time
from types import SimpleNamespace

import hydra
import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from cnn_sweeps.data import cache
from cnn_sweeps.data.cache import load_decoded
from cnn_sweeps.experiment.reproduction import _restore_config
from cnn_sweeps.settings.command_line import CONF_DIR, VERSION_BASE

KEY, WORD = "0" * 32, "a" * 32
LEFT = f"{KEY}-{WORD}.unfinished"


@pytest.fixture
def files(tmp_path):
    """Three pictures, for nobody else's eyes."""
    folder = tmp_path / "images"
    folder.mkdir(0o700)
    for i in range(3):
        Image.new("RGB", (4, 4), (i, i, i)).save(folder / f"{i}.png")
        (folder / f"{i}.png").chmod(0o600)
    return sorted(folder.iterdir())


def load(files, cache_dir):
    return load_decoded(files, cache_dir, 4, 4, 3)


def mode(path):
    return path.stat().st_mode & 0o777


def test_only_this_user_can_look_into_a_cache(files, tmp_path):
    before = os.umask(0)
    try:
        load(files, tmp_path / "parent" / "cache")
    finally:
        os.umask(before)
    (entry,) = (tmp_path / "parent/cache").iterdir()
    assert mode(tmp_path / "parent/cache") == mode(entry) == 0o700


def test_caches_that_earlier_versions_left_open_are_closed_and_other_folders_left_as_they_are(files, tmp_path):
    load(files, tmp_path / "cache")
    load(files[:2], tmp_path / "cache")
    caches = list((tmp_path / "cache").iterdir())
    theirs = [tmp_path / "cache" / name for name in ("thesis", KEY)]
    for folder in [*caches, *theirs]:
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
    (tmp_path / "cache").chmod(0o755)
    load(files, tmp_path / "cache")
    assert {mode(folder) for folder in caches} == {0o700}
    assert {mode(folder) for folder in [*theirs, tmp_path / "cache"]} == {0o755}


def test_cache_that_another_user_has_closed_is_made_beside_it(files, tmp_path, monkeypatch):
    load(files, tmp_path / "cache")
    (theirs,) = (tmp_path / "cache").iterdir()
    monkeypatch.setattr(cache.os, "access", lambda path, *_: path != theirs)
    assert len(load(files, tmp_path / "cache").positions) == 3
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {theirs.name, f"{theirs.name}-{os.getuid()}"}


@pytest.mark.parametrize("at", [0, 60, 143])
def test_changed_pixels_are_noticed_and_decoded_again(at, files, tmp_path):
    expected = load(files, tmp_path / "cache").images.copy()
    (entry,) = (tmp_path / "cache").iterdir()
    pixels = bytearray((entry / "images.u8").read_bytes())
    pixels[at] ^= 1
    (entry / "images.u8").write_bytes(pixels)
    np.testing.assert_array_equal(load(files, tmp_path / "cache").images, expected)


# What is removed.


def leave(cache_dir, name=LEFT, *, mark=cache._MARK_TEXT, age_s=2 * 24 * 3600):
    folder = cache_dir / name
    folder.mkdir(parents=True)
    (folder / "images.u8").write_bytes(b"pixels")
    if mark is not None:
        (folder / cache._MARK).write_text(mark)
    for path in (*folder.iterdir(), folder):
        os.utime(path, (time.time() - age_s,) * 2)
    return folder


def test_what_a_killed_process_left_is_removed_after_a_day(files, tmp_path):
    left, young = leave(tmp_path / "cache"), leave(tmp_path / "cache", f"{WORD}-{WORD}.unfinished", age_s=3600)
    load(files, tmp_path / "cache")
    assert not left.exists()
    assert young.exists()


def test_what_a_living_process_still_writes_into_is_not_removed_however_long_ago_it_began(files, tmp_path):
    left = leave(tmp_path / "cache")
    os.utime(left / "images.u8")
    load(files, tmp_path / "cache")
    assert left.exists()


@pytest.mark.parametrize(
    ("name", "mark"),
    [
        (LEFT, None),
        (LEFT, "mine\n"),
        ("thesis.unfinished", cache._MARK_TEXT),
        (f"{KEY}.unfinished", cache._MARK_TEXT),
        (f"x{LEFT}", cache._MARK_TEXT),
        (f"{LEFT}.old", cache._MARK_TEXT),
        (LEFT.upper(), cache._MARK_TEXT),
        (KEY, cache._MARK_TEXT),
    ],
)
def test_folder_without_our_exact_name_and_mark_is_never_removed(name, mark, files, tmp_path):
    theirs = leave(tmp_path / "cache", name, mark=mark)
    load(files, tmp_path / "cache")
    assert (theirs / "images.u8").read_bytes() == b"pixels"


def test_files_of_others_in_such_a_folder_stay(files, tmp_path):
    left = leave(tmp_path / "cache")
    (left / "chapter.txt").write_text("thesis")
    for path in (left / "chapter.txt", left):
        os.utime(path, (0, 0))
    load(files, tmp_path / "cache")
    assert [file.name for file in left.iterdir()] == ["chapter.txt"]


def test_link_with_such_a_name_is_not_followed(files, tmp_path):
    theirs = leave(tmp_path / "elsewhere")
    (tmp_path / "cache").mkdir()
    for name in (LEFT, KEY):
        (tmp_path / "cache" / name).symlink_to(theirs)
    (theirs / "about.json").touch()
    theirs.chmod(0o755)
    os.utime(theirs, (0, 0))
    for path in theirs.iterdir():
        os.utime(path, (0, 0))
    load(files, tmp_path / "cache")
    assert (theirs / "images.u8").exists()
    assert mode(theirs) == 0o755


@pytest.mark.parametrize("given", [[], ["++data.cache_dir=mine"]])
def test_cache_folder_that_a_recorded_run_names_is_not_used(given, tmp_path):
    """What a stored configuration names is neither filled nor cleaned: the default, or what the command names, is."""
    with hydra.initialize_config_dir(CONF_DIR, **VERSION_BASE):
        stored = hydra.compose("config", ["data=folder", "data.root=images", f"data.cache_dir={tmp_path}"])
        default = hydra.compose("config", ["data=folder", "data.root=images"]).data.cache_dir
        composed = hydra.compose("config", given)
    record = SimpleNamespace(run_id="1", config=OmegaConf.to_yaml(stored), experiment_name="e", name="run")
    assert _restore_config(record, composed, []).data["cache_dir"] == ("mine" if given else default)
