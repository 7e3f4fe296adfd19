"""Names in pictures: in letters that a font of this machine has, and no longer than there is room for."""

import logging
import unicodedata
from functools import cache

from matplotlib import font_manager, rcParams
from matplotlib.ft2font import FT2Font

from cnn_sweeps.text.names import for_picture, for_terminal, num_columns

_MOST_COLUMNS = 24  # of a name
_DEFAULT = "DejaVu Sans"  # which comes with matplotlib
_NORMAL = 400  # weight
_PLACEHOLDERS = "Last Resort"  # a font of boxes, which comes with it, too
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it tells which of a family's weights it takes


def label(name: object) -> str:
    """Give a name as a text of a picture that is begun after this call: the end of a long one, which tells files apart.

    Letters that matplotlib's own font lacks are drawn in one of the machine's; what no font has is shown as Python
    writes it, such as `\\u732b`.
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
    """Give font families that have some of the letters, each some that those before have not; upright, normal first."""
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
    """Give what a font has; nothing if it is none of letters, or none that can be drawn in every size."""
    try:
        font = FT2Font(font_manager.findfont(family, fallback_to_default=False))
    except (ValueError, RuntimeError, OSError):  # only condensed, or the like; in a format that is not known; gone
        return frozenset()
    is_usable = font.scalable and not family.startswith(_PLACEHOLDERS)
    return frozenset(map(chr, font.get_charmap())) if is_usable else frozenset()
