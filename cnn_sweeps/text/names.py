"""How a text that comes from elsewhere is shown: the name of a file, of a class, of a run in a store.

One function for each place. What the place would act on, and not only show, is taken out of it or marked as text.
"""

from __future__ import annotations

import html
import logging
import re
import unicodedata
from collections.abc import Sequence

_FORMULAS = ("=", "+", "-", "@")  # what a spreadsheet computes begins with one: OWASP, "CSV Injection"
_NO_UTF8 = re.compile("[\udc80-\udcff]")  # in whose place Python has a byte of a file's name
_MOST_CHARACTERS = 200  # of an item of a list


def in_unicode(name: object) -> str:
    """Give a name as a text that every file, page and database takes: bytes that are no UTF-8 as `\\xf6`."""
    return _NO_UTF8.sub(lambda byte: f"\\x{ord(byte[0]) - 0xDC00:02x}", str(name))


def cut_list(items: Sequence[str], separator: str, most: int) -> str:
    """List the first items, each cut to what can be read, and say how many more there are."""
    shown = [item if len(item) <= _MOST_CHARACTERS else f"{item[:_MOST_CHARACTERS]}..." for item in items[:most]]
    more = len(items) - len(shown)
    return separator.join([*shown, *([f"and {more:,} more"] if more else [])])


def for_terminal(name: object) -> str:
    """Give a name as a part of one line, for a terminal, a log or a text file.

    Line breaks, escape sequences, marks that turn the direction of writing and whatever else does not print are shown
    as Python writes them, such as `\\n` and `\\x1b`.
    """
    text = in_unicode(name)
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def lines_for_terminal(text: str) -> str:
    """Do what `for_terminal` does to each line of a text of several, and keep tabs."""
    return re.sub(r"[^\n\t]+", lambda line: for_terminal(line[0]), text)


def for_csv(name: object) -> str:
    """Give a name as a cell of a table, after a quotation mark where a spreadsheet would compute with it."""
    text = for_terminal(name)
    return f"'{text}" if text.startswith(_FORMULAS) else text


def for_picture(name: object) -> str:
    """Give a name as a text of a picture.

    There matplotlib would read formulas between dollar signs, and leave what begins with `_` out of a legend.
    """
    text = for_terminal(name).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def for_chart(name: object) -> str:
    """Give a name as a text of a chart by plotly.js, which would read tags in it, and decodes entities."""
    return html.escape(for_terminal(name))


def num_columns(text: str) -> int:
    """Count how many columns a text takes: a Chinese, Japanese or Korean letter is as wide as two others."""
    wide = sum(unicodedata.east_asian_width(each) in "WF" for each in text)
    return len(text) + wide - sum(map(bool, map(unicodedata.combining, text)))


def for_file_name(name: object) -> str:
    """Give a name as a part of a file's name: 40 characters at most, `_` for all but letters, digits, `.`, `-`."""
    return re.sub(r"[^\w.-]", "_", str(name)[:40])


def for_markdown(name: object) -> str:
    """Give a name as code in a line of Markdown, in which neither Markdown nor HTML means anything."""
    text = for_terminal(name)
    fence = _fence(text, 1)
    padding = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{padding}{text}{padding}{fence}"


def block_for_markdown(command: str) -> str:
    """Give a command as a block of Markdown, to be copied from it as it is."""
    fence = _fence(command, 3)
    return f"{fence}bash\n{lines_for_terminal(command)}\n{fence}"


class OnlyPrintable(logging.Formatter):
    """A log's formatter whose lines hold nothing that a terminal would act on, whoever wrote the message."""

    def format(self, record: logging.LogRecord) -> str:
        """Give the text of a message, with its traceback if it has one."""
        return lines_for_terminal(super().format(record))


def _fence(text: str, least: int) -> str:
    """Give more backticks than follow each other in a text."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    return "`" * max(least, longest + 1)
