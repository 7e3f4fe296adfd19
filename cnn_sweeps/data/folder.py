"""A folder of images with one subfolder a class."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from cnn_sweeps.data.cache import DecodedImages, load_decoded
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
    """A file of a class, in a split that the folders name; empty: in none."""

    path: Path
    class_name: str
    split: str


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

    Args:
        root: the folder.
        image_size: pixels, one number or (height, width); every image is resized to it.
        channels: 3 for colour, 1 for grey.
        on_bad_image: "error" refuses files that are no images, "skip" leaves them out.
        cache_dir: where decoded images are kept; `~` is the home folder.
        follow_links: whether links may lead out of the folder; if not, such a link counts as a file that is no image.
            A link to a folder that it lies in, or that was read for the same class before, always counts as such.

    Raises:
        DataError: if the folder or a class is missing, empty or a link out of the folder, if folders of splits are
            mixed with others, or (with "error") if files are no images, naming all.
    """
    found = list_folder(root, follow_links)
    folder, cache_folder = Path(root).expanduser(), Path(cache_dir).expanduser()
    links = links_left_out(folder, [file.path for file in found], follow_links=follow_links)
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    files = [file for file in found if file.path not in links]
    decoded = load_decoded([file.path for file in files], cache_folder, height, width, channels)
    reasons = links | {files[i].path: reason for i, reason in decoded.bad_files.items()}
    bad_files = [f"{for_terminal(path.relative_to(folder))} {reason}" for path, reason in reasons.items()]
    if bad_files and on_bad_image == "error":
        raise DataError(
            f"data.root={root}: {len(bad_files)} of {len(found)} files cannot be used: {'; '.join(bad_files)}; "
            f"repair or remove them, or set data.on_bad_image=skip{_ALLOW_LINKS if links and not follow_links else ''}"
        )
    good = [files[position] for position in decoded.positions]
    return _assemble(folder, sorted({file.class_name for file in found}), good, decoded, bad_files)


def list_folder(root: str, follow_links: bool) -> list[ImageFile]:
    """Give the files of a folder of class folders, without opening one.

    Raises:
        DataError: if the folder or a class is missing, empty or a link out of the folder.
    """
    try:
        return _list_files(Path(root).expanduser(), follow_links)
    except (OSError, RuntimeError) as error:  # no permission, a name too long, no such user
        raise DataError(f"data.root={root}: cannot be read ({error}); name a folder of class folders") from error


def _assemble(
    folder: Path, class_names: list[str], good: list[ImageFile], decoded: DecodedImages, bad_files: list[str]
) -> ImageDataset:
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
        notes=_tell_splits(folder, good),
    )


def _tell_splits(root: Path, files: Sequence[ImageFile]) -> list[str]:
    """Say which folder is taken for which split, where its name is not the split's."""
    split_of = {file.path.relative_to(root).parts[0]: file.split for file in files if file.split}
    told = [f"{name} is {split}" for name, split in split_of.items() if name.lower() != split]
    return [f"taken for splits by their names: {', '.join(told)}"] if told else []


def _list_files(root: Path, follow_links: bool) -> list[ImageFile]:
    if not root.is_dir():
        raise DataError(
            f"data.root={root}: {'no folder' if root.exists() else 'does not exist'}; name a folder of class folders"
        )
    tops = _subfolders(root)
    if split_of := _find_splits(root, tops):
        split_of_class = {each: split_of[folder] for folder in tops for each in _subfolders(folder)}
    else:
        split_of_class = dict.fromkeys(tops, "")
    files = [
        ImageFile(path, class_folder.name, split)
        for class_folder, split in split_of_class.items()
        for path in list_image_files(class_folder, root, follow_links=follow_links)
    ]
    if not follow_links and (links := _links_out_of(root, [*tops, *split_of_class])):
        told = "; ".join(f"{path.relative_to(root)} {reason}" for path, reason in links.items())
        raise DataError(f"data.root={root}: {told}; put the images into the folder{_ALLOW_LINKS}")
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
    split_of = _splits_by_name(tops)
    subfolders = {folder: {each.name.lower() for each in _subfolders(folder)} for folder in split_of}
    if not _hold_splits(split_of, subfolders, is_all=len(split_of) == len(tops)):
        return {}
    names = ", ".join(folder.name for folder in split_of)
    rename = "rename what is a class"
    if stray := [folder.name for folder in tops if folder not in split_of]:
        raise DataError(
            f"data.root={root}: beside {names} there is {', '.join(stray)}; only train, val and test may be there, "
            f"with one subfolder a class in each, or {rename}"
        )
    if "train" not in split_of.values():
        raise DataError(f"data.root={root}: holds {names} but no train; add train, or {rename}")
    if not any(subfolders.values()):
        raise DataError(
            f"data.root={root}: {names} look like splits and hold no class folders; "
            f"name them train, val and test, with one subfolder a class in each, or {rename}"
        )
    return split_of


def _splits_by_name(folders: Sequence[Path]) -> dict[Path, str]:
    """Give the split of each folder whose name has a word for one."""
    found = {folder: split for folder in folders if (split := _split_word(folder.name)) is not None}
    eval_is = "val" if "test" in found.values() else "test"
    return {folder: eval_is if split == "eval" else split for folder, split in found.items()}


def _split_word(name: str) -> str | None:
    words = [word.lower() for word in _WORDS.findall(_CAMEL_CASE.sub("_", name))]
    words += [first + second for first, second in pairwise(words)]  # hold_out
    splits = (_SPLIT_OF_WORD.get(each) for word in words for each in (word, _ENDINGS.sub("", word)))
    return next((split for split in splits if split is not None), None)


def _is_plain(folder: Path) -> bool:
    return folder.name.lower() in _SPLIT_OF_WORD


def _hold_splits(split_of: Mapping[Path, str], subfolders: Mapping[Path, set[str]], *, is_all: bool) -> bool:
    """Tell whether folders with a word for a split in their names are splits, not classes.

    Args:
        split_of: the folders, each with the split that its name tells of.
        subfolders: of each, by lower-case name.
        is_all: whether there are no other folders beside them.
    """
    shares = any(first & second for first, second in combinations(subfolders.values(), 2))
    tells_of_several = "train" in split_of.values() and len(set(split_of.values())) > 1
    is_all_plain = is_all and bool(split_of) and all(map(_is_plain, split_of))
    if shares or tells_of_several or is_all_plain:
        return True
    is_alone = is_all and len(split_of) == 1
    return any(
        split == "train" and subfolders[folder] and (is_alone or _is_plain(folder))
        for folder, split in split_of.items()
    )


def find_images(paths: Sequence[Path]) -> tuple[list[Path], dict[Path, str]]:
    """Give the files among the paths, and those at any depth of the folders among them, each once.

    Links that are not followed are given apart, each with the reason why.

    Raises:
        DataError: if a path is not there, or cannot be read, or a folder holds no file.
    """
    found: dict[Path, None] = {}
    links: dict[Path, str] = {}
    for path in paths:
        try:
            if not path.exists():
                raise DataError(f"{path}: there is no such file or folder; name images, or folders of them")
            files = list_image_files(path) if path.is_dir() else [path]
        except OSError as error:
            place = error.filename or path
            raise DataError(f"{place}: cannot be read ({error.strerror}); name images, or folders of them") from error
        if not files:
            raise DataError(f"{path}: there is no image in this folder; name one that holds images at any depth")
        found |= dict.fromkeys(files)
        links |= links_left_out(path, files, follow_links=False) if path.is_dir() else {}
    return [file for file in found if file not in links], links


def links_left_out(folder: Path, paths: Sequence[Path], *, follow_links: bool) -> dict[Path, str]:
    """Give those of what `list_image_files` found in a folder that are links not to be followed, each with the reason.

    Args:
        folder: which links may not lead out of.
        paths: what was found.
        follow_links: whether they may nevertheless.
    """
    links = [path for path in paths if path.is_symlink()]
    out = {} if follow_links else _links_out_of(folder, links)
    return out | dict.fromkeys((link for link in links if link not in out and link.is_dir()), _IS_READ_ALREADY)


def _links_out_of(folder: Path, paths: Sequence[Path]) -> dict[Path, str]:
    inside = folder.resolve()
    targets = {path: path.resolve() for path in paths if path.is_symlink()}
    return {
        path: f"is a link out of the folder, to {target}"
        for path, target in targets.items()
        if not target.is_relative_to(inside)
    }


def list_image_files(folder: Path, root: Path | None = None, *, follow_links: bool = False) -> list[Path]:
    """Give the files at any depth of a folder, sorted, but for hidden ones and what file managers leave.

    Links to folders are entered, or given as if they were files: those that lead out of `root`, unless these are to be
    followed, those to a folder that they lie in, and those to one that another link led to before.

    Args:
        folder: the folder.
        root: around it; None: itself.
        follow_links: whether links may lead out of the root.

    Raises:
        OSError: if the folder cannot be read.
    """
    files: list[Path] = []
    inside, entered = (root or folder).resolve(), {folder.resolve()}

    def is_entered(link: Path) -> bool:
        target = link.resolve()
        is_known = target in entered or link.parent.resolve().is_relative_to(target)
        if is_known or not (follow_links or target.is_relative_to(inside)):
            return False
        entered.add(target)
        return True

    left = [folder]  # not by recursion: folders may be nested as deep as the disk allows
    while left:
        with os.scandir(left.pop()) as entries:
            for entry in sorted(entries, key=lambda each: each.name):
                path = Path(entry.path)
                if entry.name.startswith(".") or entry.name.lower() in _NO_IMAGES:
                    continue
                if entry.is_dir(follow_symlinks=False) or (entry.is_dir() and is_entered(path)):
                    left.append(path)
                elif path.is_file() or path.is_dir():
                    files.append(path)
    return sorted(files)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
