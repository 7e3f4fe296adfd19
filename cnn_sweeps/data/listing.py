"""The files below a folder: which may be images, and which are not to be opened, with the reason."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from cnn_sweeps.errors import DataError

_IS_READ_ALREADY = "is a link to a folder around it, or to one that is read already"
_LITTER = {  # left by file managers, archives and disks, in lower case
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "picasa.ini", "icon\r"),
    *("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"),
}
_INDEX = ".idx"  # of what a folder holds, no image


class Listing(NamedTuple):
    """What is below a folder.

    `files` are sorted, each with the reason why it is not to be opened, which is empty for all others; a folder that
    cannot be read is among them. `passed_over` are left out by their names alone.
    """

    files: dict[Path, str]
    passed_over: list[Path]


def is_hidden(name: str) -> bool:
    """Return whether nobody who looks into a folder is shown a name."""
    return name.startswith(".")


def is_litter(name: str) -> bool:
    """Return whether a program left a file or folder of that name beside the images."""
    return name.lower() in _LITTER or name.lower().endswith(_INDEX)


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder that may hold images, sorted; raises OSError if it cannot be read."""
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not (is_hidden(path.name) or is_litter(path.name))
    )


def find_images(paths: Sequence[Path]) -> tuple[list[Path], dict[Path, str]]:
    """Return the files among the paths, and those at any depth of the folders among them, each once.

    What is not to be opened, and folders that cannot be read, are given apart, each with the reason why.

    Raises:
        DataError: if a path is not there, or cannot be read, or a folder holds no file.
    """
    found: dict[Path, str] = {}
    for path in paths:
        try:
            if not path.exists():
                raise DataError(f"{path}: there is no such file or folder; name images, or folders of them")
            files = list_image_files(path).files if path.is_dir() else {path: ""}
        except OSError as error:
            place = error.filename or path
            raise DataError(f"{place}: cannot be read ({error.strerror}); name images, or folders of them") from error
        if not files:
            raise DataError(f"{path}: there is no image in this folder; name one that holds images at any depth")
        found |= files
    refused = {path: reason for path, reason in found.items() if reason}
    return [path for path in found if path not in refused], refused


def list_image_files(folder: Path, inside: Path | None = None, *, follow_links: bool = False) -> Listing:
    """Return what is at any depth of a folder and no folder itself, but for hidden files and what programs leave.

    Links to folders are entered. Those that are not, and links to files that are not to be followed, are given with a
    reason: they lead out of `inside` (None: out of the folder) where `follow_links` does not allow it, or to a folder
    that they lie in, or to one that another link led to before. So are folders in it that cannot be read.

    Raises:
        OSError: if the folder itself cannot be read.
    """
    found: dict[Path, str] = {}
    passed_over: list[Path] = []
    inside, entered = inside or folder.resolve(), {folder.resolve()}
    left = [folder]  # not by recursion: folders may be nested as deep as the disk allows
    while left:
        current = left.pop()
        try:
            with os.scandir(current) as entries:
                inner = sorted((each for each in entries if not is_hidden(each.name)), key=lambda each: each.name)
        except OSError as error:
            if current == folder:
                raise
            found[current] = f"is a folder that cannot be read ({error.strerror})"
            continue
        passed_over += [Path(each.path) for each in inner if is_litter(each.name)]
        for entry in inner:
            if is_litter(entry.name):
                continue
            path, reason = Path(entry.path), ""
            if entry.is_symlink():
                reason = "" if follow_links else leads_out(path, inside)
                if not reason and _is_folder(entry):
                    target = path.resolve()
                    is_known = target in entered or path.parent.resolve().is_relative_to(target)
                    reason = _IS_READ_ALREADY if is_known else ""
                    entered.add(target)
            if not reason and _is_folder(entry):
                left.append(path)
            else:
                found[path] = reason
    return Listing(dict(sorted(found.items())), passed_over)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    with suppress(OSError):  # a link that leads in a circle, or where nobody may look: whoever opens it says so
        return entry.is_dir()
    return False


def leads_out(path: Path, inside: Path) -> str:
    """Say so of a link out of a folder; empty for all else."""
    target = Path(os.path.realpath(path)) if path.is_symlink() else inside
    return "" if target.is_relative_to(inside) else f"is a link out of the folder, to {target}"
