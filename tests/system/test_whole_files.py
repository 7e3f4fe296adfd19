"""Files and folders are there whole or not at all."""

import errno
import os

import pytest

from cnn_sweeps.errors import ConfigError
from cnn_sweeps.system.files import check_target, written_whole


def test_what_ends_well_gets_its_name(tmp_path):
    with written_whole(tmp_path / "file") as file, written_whole(tmp_path / "folder") as folder:
        file.write_text("whole")
        folder.mkdir()
        (folder / "part").write_text("whole")
        assert not (tmp_path / "file").exists()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "part"]


def test_what_ends_badly_leaves_what_was_there(tmp_path):
    (tmp_path / "file").write_text("older")
    with (
        pytest.raises(ZeroDivisionError),
        written_whole(tmp_path / "file") as file,
        written_whole(tmp_path / "folder") as folder,
    ):
        file.write_text("half")
        folder.mkdir()
        1 / 0  # noqa: B018
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "older"


def test_full_disk_is_told_in_one_line(tmp_path):
    target = tmp_path / "file"
    with pytest.raises(ConfigError) as error, written_whole(target) as file:
        file.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert str(error.value) == f"{target}: cannot be written (No space left on device); give another path"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "may_exist", "message"),
    [
        ("file", False, "output=.*file: already exists"),
        ("folder", True, "output=.*folder: already exists"),
        ("no/where", True, "output=.*no/where: the folder .*no does not exist"),
    ],
)
def test_place_that_cannot_be_written_to_is_refused(name, may_exist, message, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    check_target(tmp_path / "file", "output", may_exist=True)
    check_target(tmp_path / "new", "output", may_exist=False)
    with pytest.raises(ConfigError, match=message):
        check_target(tmp_path / name, "output", may_exist=may_exist)
