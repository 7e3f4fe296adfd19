"""How a folder of images is laid out: which of its subfolders are splits, which classes, and what lies beside them."""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path

from cnn_sweeps.data.listing import is_hidden, is_litter, leads_out, list_image_files, subfolders
from cnn_sweeps.errors import DataError
from cnn_sweeps.system.files import moved_here
from cnn_sweeps.text.names import cut_list, in_unicode
from cnn_sweeps.text.numbers import counted

ALLOW_LINKS = ", or set data.follow_links=true if the links are meant"
_SPLIT_OF_WORD = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "development"), "val"),
    **dict.fromkeys(("test", "testing", "holdout", "heldout"), "test"),
    **dict.fromkeys(("eval", "evaluation"), "eval"),  # the test images, unless another folder holds these
}
_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")
_WORDS = re.compile(r"[^\W\d_]+")
_ENDINGS = re.compile(r"(sets?|data|images)$")  # of `trainset`
_MOST_LEVELS = 5  # below a folder, that the data set is looked for
_MOST_NAMES = 10


@dataclass(frozen=True)
class ImageFile:
    """A file of a class, in a split that the folders name; empty: in none.

    What is not to be opened has the reason, which is empty for all others.
    """

    path: Path
    class_name: str
    split: str
    reason: str


def check_folder(root: str) -> None:
    """Raise a DataError if a folder of class folders is missing or cannot be read."""
    with _naming(root):
        _find_folder(root)


def list_folder(root: str, follow_links: bool) -> tuple[list[ImageFile], list[str]]:
    """Return the files of a folder of class folders, without opening one, and what to say of those beside them.

    Raises:
        DataError: if the folder or a class is missing, empty, unreadable or a link out of the folder.
    """
    with _naming(root):
        return _list_classes(_find_folder(root), follow_links)


@contextmanager
def _naming(root: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # no permission, a name too long, no such user
        raise DataError(f"data.root={root}: cannot be read ({error}); name a folder of class folders") from error


def _find_folder(root: str) -> Path:
    folder = Path(root).expanduser()
    if not folder.is_dir():
        moved = moved_here(str(folder))
        fix = "name a folder of class folders" if moved is None else f"if you moved the project, set data.root={moved}"
        raise DataError(f"data.root={folder}: {'no folder' if folder.exists() else 'does not exist'}; {fix}")
    return folder


def class_of(name: str) -> str:
    """Return the class that a folder of this name holds: in Unicode, and in its composed form, NFC."""
    return unicodedata.normalize("NFC", in_unicode(name))


def _list_classes(root: Path, follow_links: bool) -> tuple[list[ImageFile], list[str]]:
    tops, inside = subfolders(root), root.resolve()
    if split_of := _find_splits(root, tops):
        split_of_class = {each: split_of[folder] for folder in tops for each in subfolders(folder)}
    else:
        split_of_class = dict.fromkeys(tops, "")
    folders = sorted({*tops, *split_of_class})
    links = [f"{each.relative_to(root)} {reason}" for each in folders if (reason := leads_out(each, inside))]
    if links and not follow_links:
        raise DataError(f"data.root={root}: {'; '.join(links)}; put the images into the folder{ALLOW_LINKS}")
    beside = [path for place in (root, *split_of) for path in sorted(place.iterdir()) if not is_hidden(path.name)]
    passed_over = [path for path in beside if is_litter(path.name)]
    strays = [path for path in beside if not (is_litter(path.name) or path.is_dir())]
    files, passed_over_inside = _files_of(root, split_of_class, follow_links=follow_links)
    wanted, found = {class_of(folder.name) for folder in split_of_class}, {file.class_name for file in files}
    _check_classes(root, tops, wanted, found, num_strays=len(strays))
    notes = {
        "left out, since they are in no class folder": strays,
        "left out, since their names are not those of images": passed_over + passed_over_inside,
    }
    return files, [f"{what}: {_named(paths, root)}" for what, paths in notes.items() if paths]


def _files_of(
    root: Path, split_of_class: Mapping[Path, str], *, follow_links: bool
) -> tuple[list[ImageFile], list[Path]]:
    """Return the files of the class folders, and what of them is passed over."""
    files: list[ImageFile] = []
    passed_over: list[Path] = []
    unreadable: list[str] = []
    inside = root.resolve()
    for folder, split in split_of_class.items():
        try:
            listing = list_image_files(folder, inside, follow_links=follow_links)
        except OSError as error:
            unreadable.append(f"{folder.relative_to(root)} ({error.strerror})")
            continue
        files += [ImageFile(path, class_of(folder.name), split, reason) for path, reason in listing.files.items()]
        passed_over += listing.passed_over
    if unreadable:
        told = cut_list(unreadable, ", ", _MOST_NAMES)
        raise DataError(f"data.root={root}: class folders cannot be read: {told}; make them readable, or remove them")
    return files, passed_over


def _named(paths: Sequence[Path], root: Path) -> str:
    return cut_list([str(path.relative_to(root)) for path in paths], ", ", _MOST_NAMES)


def _check_classes(root: Path, tops: Sequence[Path], wanted: set[str], found: set[str], *, num_strays: int) -> None:
    """Refuse fewer than two classes, and empty ones."""
    if len(found) < 2:
        told = f"only one class, {', '.join(found)}" if found else "no class with a file in it"
        fix = "at least two subfolders with images are needed, one a class"
        if (deeper := _deeper(tops)) is not None:
            names = _named(subfolders(deeper), deeper)
            fix = f"in {deeper.name} there are {names}: if these are the data set, set data.root={deeper}"
        elif num_strays:
            fix = f"{fix}; {counted(num_strays, 'file lies', 'files lie')} in no class folder"
        raise DataError(f"data.root={root}: {told}; {fix}")
    if empty := sorted(wanted - found):
        told = cut_list(empty, ", ", _MOST_NAMES)
        raise DataError(f"data.root={root}: no file of class {told}; add images or remove the folder")


def _deeper(tops: Sequence[Path]) -> Path | None:
    """Return the first folder below that holds several, if until there each holds a single one."""
    below = tops
    for _ in range(_MOST_LEVELS):
        if len(below) != 1:
            return None
        folder, below = below[0], subfolders(below[0])
        if len(below) > 1:
            return folder
    return None


def _find_splits(root: Path, tops: Sequence[Path]) -> dict[Path, str]:
    """Return the split of each top folder; none if these are the classes.

    Raises:
        DataError: if their names tell of splits, and what is in them cannot be.
    """
    split_of = {folder: split for folder in tops if (split := _split_word(folder.name))}
    eval_is = "val" if "test" in split_of.values() else "test"
    split_of = {folder: eval_is if split == "eval" else split for folder, split in split_of.items()}
    inner = {folder: {each.name.lower() for each in subfolders(folder)} for folder in split_of}
    if len(split_of) == len(tops) == 1 and len({_split_word(name) for name in inner[tops[0]]} - {None}) > 1:
        return {}  # the data set's own folder, around its splits
    plain = {folder for folder in split_of if folder.name.lower() in _SPLIT_OF_WORD}
    splits = set(split_of.values())
    hold_splits = (
        any(first & second for first, second in combinations(inner.values(), 2))
        or ("train" in splits and len(splits) > 1)
        or plain == set(tops)
        or any(
            split == "train" and inner[folder] and (folder in plain or len(tops) == 1)
            for folder, split in split_of.items()
        )
    )
    if not (split_of and hold_splits):
        return {}
    names, rename = ", ".join(folder.name for folder in split_of), "rename what is a class"
    if stray := [folder.name for folder in tops if folder not in split_of]:
        raise DataError(
            f"data.root={root}: beside {names} there is {', '.join(stray)}; have only train, val and test there, "
            f"each with one subfolder a class, or {rename}"
        )
    if "train" not in splits:
        raise DataError(f"data.root={root}: holds {names} but no train; add train, or {rename}")
    if not any(inner.values()):
        raise DataError(
            f"data.root={root}: {names} look like splits and hold no class folders; put the images into one subfolder "
            f"a class in each, such as {next(each.name for each in split_of if split_of[each] == 'train')}/CLASS, "
            f"or {rename}"
        )
    return split_of


def _split_word(name: str) -> str | None:
    words = [word.lower() for word in _WORDS.findall(_CAMEL_CASE.sub("_", name))]
    words += [first + second for first, second in pairwise(words)]  # hold_out
    splits = (_SPLIT_OF_WORD.get(each) for word in words for each in (word, _ENDINGS.sub("", word)))
    return next((split for split in splits if split is not None), None)
