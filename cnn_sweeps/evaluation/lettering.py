"""Prepares names for pictures: in letters that a font of this machine has, and short enough."""

import logging
import unicodedata
from functools import cache

from matplotlib import font_manager, rcParams
from matplotlib.ft2font import FT2Font

from cnn_sweeps.text.names import for_picture, for_terminal, num_columns

_MOST_COLUMNS = 24  # of a name
_DEFAULT = "DejaVu Sans"  # comes with matplotlib
_NORMAL = 400  # weight
_PLACEHOLDERS = "Last Resort"  # a font of boxes that comes with matplotlib
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it would log the weight of each font


def label(name: object) -> str:
    """Return a name as text for a picture; call it before you make the figure, since it may set fonts.

    Of a long name the end is shown, where file names mostly differ. Letters that matplotlib's own font lacks use
    another font of this machine. Letters that no font has are shown as Python writes them, such as `\\u732b`.
    """
    text = unicodedata.normalize("NFC", for_terminal(name))
    if missing := frozenset(text) - _letters_of(_DEFAULT):
        families = _families_with(missing)
        known = [family for family in rcParams["font.family"] if family != "sans-serif"]
        rcParams["font.family"] = [*dict.fromkeys([_DEFAULT, *known, *families])]
        missing = missing.difference(*map(_letters_of, families))
    parts = [ascii(each)[1:-1] if each in missing else each for each in text]
    if sum(map(num_columns, parts)) > _MOST_COLUMNS:
        while sum(map(num_columns, parts)) >= _MOST_COLUMNS:
            parts.pop(0)
        parts.insert(0, "…")
    return for_picture("".join(parts))


@cache
def _families_with(letters: frozenset[str]) -> list[str]:
    """Return upright font families that together have as many of the letters as possible; normal weight first."""
    fonts = [font for font in font_manager.fontManager.ttflist if font.style == "normal"]
    families = dict.fromkeys(font.name for font in sorted(fonts, key=lambda font: (font.weight != _NORMAL, font.name)))
    found, missing = [], letters
    for family in families:
        if missing & _letters_of(family):
            found.append(family)
            missing -= _letters_of(family)
    return found


@cache
def _letters_of(family: str) -> frozenset[str]:
    """Return the letters of a font; none if it is a font of placeholders, or cannot be scaled."""
    try:
        font = FT2Font(font_manager.findfont(family, fallback_to_default=False))
    except (ValueError, RuntimeError, OSError):  # no normal style, an unknown format, or the file is gone
        return frozenset()
    is_usable = font.scalable and not family.startswith(_PLACEHOLDERS)
    return frozenset(map(chr, font.get_charmap())) if is_usable else frozenset()
