"""Makes names of files, classes and runs safe to show: anybody may have chosen them.

There is one function for each place. It escapes what that place would act on instead of showing it.
"""

from __future__ import annotations

import html
import logging
import re
import unicodedata
from collections.abc import Sequence

_FORMULAS = ("=", "+", "-", "@")  # a spreadsheet computes what begins with one of these: OWASP, "CSV Injection"
_NO_UTF8 = re.compile("[\udc80-\udcff]")  # what Python puts for bytes of a file's name that are not UTF-8
_MOST_CHARACTERS = 200  # of an item of a list


def in_unicode(name: object) -> str:
    """Return a name that can be encoded as UTF-8: bytes that are not UTF-8 become `\\xf6` and the like."""
    return _NO_UTF8.sub(lambda byte: f"\\x{ord(byte[0]) - 0xDC00:02x}", str(name))


def cut_list(items: Sequence[str], separator: str, most: int) -> str:
    """List the first `most` items, each cut to 200 characters, and say how many more there are."""
    shown = [item if len(item) <= _MOST_CHARACTERS else f"{item[:_MOST_CHARACTERS]}..." for item in items[:most]]
    more = len(items) - len(shown)
    return separator.join([*shown, *([f"and {more:,} more"] if more else [])])


def for_terminal(name: object) -> str:
    """Make a name safe for one line of a terminal, a log or a text file.

    Characters that do not print, such as line breaks, escape sequences and marks of writing direction, are shown as
    Python writes them: `\\n`, `\\x1b`.
    """
    text = in_unicode(name)
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def lines_for_terminal(text: str) -> str:
    """Apply `for_terminal` to each line of a text; tabs stay."""
    return re.sub(r"[^\n\t]+", lambda line: for_terminal(line[0]), text)


def for_csv(name: object) -> str:
    """Make a name safe for a cell of a table: a quotation mark goes before what a spreadsheet would compute."""
    text = for_terminal(name)
    return f"'{text}" if text.startswith(_FORMULAS) else text


def for_picture(name: object) -> str:
    """Make a name safe for matplotlib.

    It would read formulas between dollar signs, and leave names that begin with `_` out of a legend.
    """
    text = for_terminal(name).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def for_chart(name: object) -> str:
    """Make a name safe for plotly.js, which interprets HTML tags and entities."""
    return html.escape(for_terminal(name))


def num_columns(text: str) -> int:
    """Count the terminal columns of a text: a Chinese, Japanese or Korean letter takes two."""
    wide = sum(unicodedata.east_asian_width(each) in "WF" for each in text)
    return len(text) + wide - sum(map(bool, map(unicodedata.combining, text)))


def for_file_name(name: object) -> str:
    """Make a name safe as part of a file's name: at most 40 characters, `_` for all but letters, digits, `.`, `-`."""
    return re.sub(r"[^\w.-]", "_", str(name)[:40])


def for_markdown(name: object) -> str:
    """Write a name as inline code in Markdown, so that neither Markdown nor HTML in it has an effect."""
    text = for_terminal(name)
    fence = _fence(text, 1)
    padding = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{padding}{text}{padding}{fence}"


def block_for_markdown(command: str) -> str:
    """Write a command as a code block in Markdown, to copy as it is."""
    fence = _fence(command, 3)
    return f"{fence}bash\n{lines_for_terminal(command)}\n{fence}"


class OnlyPrintable(logging.Formatter):
    """A log formatter that escapes what a terminal would act on, whoever wrote the message."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a message, with its traceback if it has one."""
        return lines_for_terminal(super().format(record))


def _fence(text: str, least: int) -> str:
    """Return at least `least` backticks, and more than the text has in a row."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    return "`" * max(least, longest + 1)
