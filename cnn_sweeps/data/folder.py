"""A folder of images with one subfolder a class."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from cnn_sweeps.data.cache import load_decoded
from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.errors import DataError
from cnn_sweeps.text.names import for_terminal

_SPLIT_OF_WORD = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "development"), "val"),
    **dict.fromkeys(("test", "testing", "holdout", "heldout"), "test"),
    **dict.fromkeys(("eval", "evaluation"), "eval"),  # the test images, unless another folder holds these
}
_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")
_WORDS = re.compile(r"[^\W\d_]+")
_ENDINGS = re.compile(r"(sets?|data|images)$")  # of `trainset`
_ALLOW_LINKS = ", or set data.follow_links=true if the links are meant"
_IS_READ_ALREADY = "is a link to a folder that it lies in, or that is read already"
_NO_IMAGES = {"thumbs.db", "desktop.ini"}  # left by file managers, as are names that start with a dot


@dataclass(frozen=True)
class ImageFile:
    """A file of a class, in a split that the folders name; empty: in none.

    A link that is not to be followed has the reason, which is empty for all others.
    """

    path: Path
    class_name: str
    split: str
    reason: str


def load_folder(
    root: str,
    image_size: int | Sequence[int],
    channels: Literal[1, 3],
    on_bad_image: Literal["error", "skip"],
    cache_dir: str,
    follow_links: bool = False,
) -> ImageDataset:
    """Load `root/CLASS/...` or `root/{train,val,test}/CLASS/...`; files are taken at any depth, whatever their ending.

    Folders of splits may have other names with such a word in them, e.g. `seg_train` and `seg_test`, if they share
    names of subfolders; the data set's notes tell which is taken for what.

    A link that is not to be followed counts as a file that is no image. `conf/data/folder.yaml` describes the settings.

    Raises:
        DataError: if the folder or a class is missing, empty or a link out of the folder, if folders of splits are
            mixed with others, or (with "error") if files are no images, naming all.
    """
    found, folder = list_folder(root, follow_links), Path(root).expanduser()
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    files = [file for file in found if not file.reason]
    decoded = load_decoded([file.path for file in files], Path(cache_dir).expanduser(), height, width, channels)
    reasons = {file.path: file.reason for file in found if file.reason}
    hint = _ALLOW_LINKS if reasons and not follow_links else ""
    reasons |= {files[i].path: reason for i, reason in decoded.bad_files.items()}
    bad_files = [f"{for_terminal(path.relative_to(folder))} {reason}" for path, reason in reasons.items()]
    if bad_files and on_bad_image == "error":
        raise DataError(
            f"data.root={root}: {len(bad_files)} of {len(found)} files cannot be used: {'; '.join(bad_files)}; "
            f"repair or remove them, or set data.on_bad_image=skip{hint}"
        )
    good = [files[position] for position in decoded.positions]
    class_names = sorted({file.class_name for file in found})
    split_of = {file.path.relative_to(folder).parts[0]: file.split for file in good if file.split}
    told = [f"{name} is {split}" for name, split in split_of.items() if name.lower() != split]
    return ImageDataset(
        images=decoded.images,
        labels=np.array([class_names.index(file.class_name) for file in good], np.int64),
        class_names=class_names,
        name=folder.resolve().name,
        source=str(folder.resolve()),
        splits=np.array([file.split for file in good], dtype=np.str_),
        file_names=[str(file.path.relative_to(folder)) for file in good],
        skipped_files=bad_files,
        image_digests=decoded.digests,
        content_ids=decoded.content_ids,
        notes=[f"taken for splits by their names: {', '.join(told)}"] if told else [],
    )


def list_folder(root: str, follow_links: bool) -> list[ImageFile]:
    """Give the files of a folder of class folders, without opening one.

    Raises:
        DataError: if the folder or a class is missing, empty or a link out of the folder.
    """
    try:
        return _list_classes(Path(root).expanduser(), follow_links)
    except (OSError, RuntimeError) as error:  # no permission, a name too long, no such user
        raise DataError(f"data.root={root}: cannot be read ({error}); name a folder of class folders") from error


def _list_classes(root: Path, follow_links: bool) -> list[ImageFile]:
    if not root.is_dir():
        raise DataError(
            f"data.root={root}: {'no folder' if root.exists() else 'does not exist'}; name a folder of class folders"
        )
    tops, inside = _subfolders(root), root.resolve()
    if split_of := _find_splits(root, tops):
        split_of_class = {each: split_of[folder] for folder in tops for each in _subfolders(folder)}
    else:
        split_of_class = dict.fromkeys(tops, "")
    folders = sorted({*tops, *split_of_class})
    links = [f"{each.relative_to(root)} {reason}" for each in folders if (reason := _leads_out(each, inside))]
    if links and not follow_links:
        raise DataError(f"data.root={root}: {'; '.join(links)}; put the images into the folder{_ALLOW_LINKS}")
    files = [
        ImageFile(path, class_folder.name, split, reason)
        for class_folder, split in split_of_class.items()
        for path, reason in list_image_files(class_folder, inside, follow_links=follow_links).items()
    ]
    class_names = sorted({file.class_name for file in files})
    if len(class_names) < 2:
        found = f"only one class, {class_names[0]}" if class_names else "no class with a file in it"
        raise DataError(f"data.root={root}: {found}; at least two subfolders with images are needed, one a class")
    if empty := sorted({folder.name for folder in split_of_class} - set(class_names)):
        raise DataError(f"data.root={root}: no file of class {', '.join(empty)}; add images or remove the folder")
    return files


def _find_splits(root: Path, tops: Sequence[Path]) -> dict[Path, str]:
    """Give the split of each top folder; none if these are the classes.

    Raises:
        DataError: if their names tell of splits, and what is in them cannot be.
    """
    split_of = {folder: split for folder in tops if (split := _split_word(folder.name))}
    eval_is = "val" if "test" in split_of.values() else "test"
    split_of = {folder: eval_is if split == "eval" else split for folder, split in split_of.items()}
    subfolders = {folder: {each.name.lower() for each in _subfolders(folder)} for folder in split_of}
    plain = {folder for folder in split_of if folder.name.lower() in _SPLIT_OF_WORD}
    splits = set(split_of.values())
    hold_splits = (
        any(first & second for first, second in combinations(subfolders.values(), 2))
        or ("train" in splits and len(splits) > 1)
        or plain == set(tops)
        or any(
            split == "train" and subfolders[folder] and (folder in plain or len(tops) == 1)
            for folder, split in split_of.items()
        )
    )
    if not (split_of and hold_splits):
        return {}
    names, rename = ", ".join(folder.name for folder in split_of), "rename what is a class"
    if stray := [folder.name for folder in tops if folder not in split_of]:
        raise DataError(
            f"data.root={root}: beside {names} there is {', '.join(stray)}; only train, val and test may be there, "
            f"with one subfolder a class in each, or {rename}"
        )
    if "train" not in splits:
        raise DataError(f"data.root={root}: holds {names} but no train; add train, or {rename}")
    if not any(subfolders.values()):
        raise DataError(
            f"data.root={root}: {names} look like splits and hold no class folders; "
            f"name them train, val and test, with one subfolder a class in each, or {rename}"
        )
    return split_of


def _split_word(name: str) -> str | None:
    words = [word.lower() for word in _WORDS.findall(_CAMEL_CASE.sub("_", name))]
    words += [first + second for first, second in pairwise(words)]  # hold_out
    splits = (_SPLIT_OF_WORD.get(each) for word in words for each in (word, _ENDINGS.sub("", word)))
    return next((split for split in splits if split is not None), None)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def find_images(paths: Sequence[Path]) -> tuple[list[Path], dict[Path, str]]:
    """Give the files among the paths, and those at any depth of the folders among them, each once.

    Links that are not followed are given apart, each with the reason why.

    Raises:
        DataError: if a path is not there, or cannot be read, or a folder holds no file.
    """
    found: dict[Path, str] = {}
    for path in paths:
        try:
            if not path.exists():
                raise DataError(f"{path}: there is no such file or folder; name images, or folders of them")
            files = list_image_files(path) if path.is_dir() else {path: ""}
        except OSError as error:
            place = error.filename or path
            raise DataError(f"{place}: cannot be read ({error.strerror}); name images, or folders of them") from error
        if not files:
            raise DataError(f"{path}: there is no image in this folder; name one that holds images at any depth")
        found |= files
    links = {path: reason for path, reason in found.items() if reason}
    return [path for path in found if path not in links], links


def list_image_files(folder: Path, inside: Path | None = None, *, follow_links: bool = False) -> dict[Path, str]:
    """Give the files at any depth of a folder, sorted, but for hidden ones and what file managers leave.

    Links to folders are entered. Those that are not, and links to files that are not to be followed, are given with the
    reason, which is empty for all others: they lead out of `inside` (None: out of the folder) where `follow_links` does
    not allow it, or to a folder that they lie in, or to one that another link led to before.

    Raises:
        OSError: if the folder cannot be read.
    """
    found: dict[Path, str] = {}
    inside, entered = inside or folder.resolve(), {folder.resolve()}
    left = [folder]  # not by recursion: folders may be nested as deep as the disk allows
    while left:
        with os.scandir(left.pop()) as entries:
            for entry in sorted(entries, key=lambda each: each.name):
                is_hidden = entry.name.startswith(".") or entry.name.lower() in _NO_IMAGES
                if is_hidden or not (entry.is_dir() or entry.is_file()):
                    continue
                path, reason = Path(entry.path), ""
                if entry.is_symlink():
                    reason = "" if follow_links else _leads_out(path, inside)
                    if entry.is_dir() and not reason:
                        target = path.resolve()
                        is_known = target in entered or path.parent.resolve().is_relative_to(target)
                        reason = _IS_READ_ALREADY if is_known else ""
                        entered.add(target)
                if entry.is_dir() and not reason:
                    left.append(path)
                else:
                    found[path] = reason
    return dict(sorted(found.items()))


def _leads_out(path: Path, inside: Path) -> str:
    """Say so of a link out of a folder; empty for all else."""
    target = path.resolve() if path.is_symlink() else inside
    return "" if target.is_relative_to(inside) else f"is a link out of the folder, to {target}"
