"""A folder of images with one subfolder a class."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from cnn_sweeps.data.bad_files import MOST_NAMES, BadFilesError, describe_bad_files
from cnn_sweeps.data.cache import load_decoded
from cnn_sweeps.data.dataset import ImageDataset
from cnn_sweeps.data.layout import ALLOW_LINKS, ImageFile, class_of, list_folder
from cnn_sweeps.errors import ConfigError
from cnn_sweeps.text.names import cut_list, for_terminal, in_unicode


def load_folder(
    root: str,
    image_size: int | Sequence[int],
    channels: Literal[1, 3],
    on_bad_image: Literal["error", "skip"],
    cache_dir: str,
    follow_links: bool = False,
    positive_class: str | None = None,
) -> ImageDataset:
    """Load `root/CLASS/...` or `root/{train,val,test}/CLASS/...`; files are taken at any depth, whatever their ending.

    Folders of splits may have other names with such a word in them, e.g. `seg_train` and `seg_test`, if they share
    names of subfolders; the data set's notes tell which is taken for what. A class's name is its folder's in Unicode's
    composed form (NFC), so that two forms of one name are one class.

    A link that is not to be followed, and a folder that cannot be read, count as files that are no images.
    `conf/data/folder.yaml` describes the settings.

    Raises:
        DataError: if the folder or a class is missing, empty, unreadable or a link out of the folder, if folders of
            splits are mixed with others, or, a BadFilesError, if files are no images (with "skip": all of a class).
        ConfigError: if `positive_class` is none of two classes.
    """
    (found, notes), folder = list_folder(root, follow_links), Path(root).expanduser()
    class_names = _in_order({file.class_name for file in found}, positive_class)
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    files = [file for file in found if not file.reason]
    decoded = load_decoded([file.path for file in files], Path(cache_dir).expanduser(), height, width, channels)
    good = [files[position] for position in decoded.positions]
    reasons = {file.path: file.reason for file in found if file.reason}
    hint = ALLOW_LINKS if reasons and not follow_links else ""
    reasons |= {files[i].path: reason for i, reason in decoded.bad_files.items()}
    bad_files = {for_terminal(path.relative_to(folder)): reason for path, reason in reasons.items()}
    lost = sorted(set(class_names) - {file.class_name for file in good})
    if bad_files and (lost or on_bad_image == "error"):
        told = f"{len(bad_files):,} of {len(found):,} files cannot be used: {describe_bad_files(bad_files)}"
        raise BadFilesError(f"data.root={root}: {told}; {_advice(lost)}{hint}", bad_files)
    return ImageDataset(
        images=decoded.images,
        labels=np.array([class_names.index(file.class_name) for file in good], np.int64),
        class_names=class_names,
        name=in_unicode(folder.resolve().name),
        source=in_unicode(folder.resolve()),
        splits=np.array([file.split for file in good], dtype=np.str_),
        file_names=[in_unicode(file.path.relative_to(folder)) for file in good],
        skipped_files=bad_files,
        image_digests=decoded.digests,
        content_ids=decoded.content_ids,
        notes=[*_notes_of_splits(good, folder), *notes, *([decoded.note] if decoded.note else [])],
    )


def _notes_of_splits(files: Sequence[ImageFile], folder: Path) -> list[str]:
    """Say which folders are taken for splits, where their names do not say it."""
    split_of = {file.path.relative_to(folder).parts[0]: file.split for file in files if file.split}
    told = [f"{name} is {split}" for name, split in split_of.items() if name.lower() != split]
    return [f"taken for splits by their names: {', '.join(told)}"] if told else []


def check_positive_class(class_names: Collection[str], positive_class: str | None) -> None:
    """Raise a ConfigError if a positive class is wanted that is none of two."""
    wanted = f"data.positive_class={positive_class}"
    if positive_class is None:
        return
    if len(class_names) > 2:
        raise ConfigError(f"{wanted}: needs two classes, and there are {len(class_names)}; remove it")
    if class_of(str(positive_class)) not in class_names:
        raise ConfigError(f"{wanted}: there is no such class; allowed: {', '.join(sorted(class_names))}")


def _in_order(class_names: Collection[str], positive_class: str | None) -> list[str]:
    """Sort classes by name, but for the positive one, which is the last."""
    check_positive_class(class_names, positive_class)
    last = None if positive_class is None else class_of(str(positive_class))
    return sorted(class_names, key=lambda name: (name == last, name))


def _advice(lost: Sequence[str]) -> str:
    """Say what to do about bad files; leaving them out is no way where classes would have no image."""
    if not lost:
        return "repair or remove them, or set data.on_bad_image=skip"
    return f"repair or replace them: there is no other image of class {cut_list(lost, ', ', MOST_NAMES)}"
