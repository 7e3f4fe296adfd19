"""Writes a page as one HTML file that needs no other file; names in it are escaped, and only its own scripts run."""

from __future__ import annotations

import base64
import re
import secrets
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

import cnn_sweeps
from cnn_sweeps.system.files import replace_whole
from cnn_sweeps.system.plain_files import NotPlainError, opened_folder, read_plain_file

if TYPE_CHECKING:
    import jinja2

REPORT_FILE = "report.html"
_MOST_BYTES = 2**24  # of a page
_IMAGES = re.compile("<!-- images begin -->.*?<!-- images end -->", re.DOTALL)


def write_html(target: Path, template: str, title: str, **content: Any) -> None:
    """Write a page, whole, from a template of the package.

    Args:
        target: the file.
        template: the template's path below the package.
        title: of the page.
        content: the template's variables. It also gets version, time, and a `nonce`, without which no script runs.

    Raises:
        OSError: if it cannot be written.
    """
    about = {"title": title, "version": cnn_sweeps.__version__, "time": time.strftime("%Y-%m-%d %H:%M")}
    text = _templates().get_template(template).render(content | about, nonce=secrets.token_urlsafe())
    replace_whole(target, text.encode(errors="backslashreplace"))


@cache
def _templates() -> jinja2.Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415  takes 0.1 s, needed at the end

    loader, undefined = FileSystemLoader(Path(__file__).parents[1]), StrictUndefined
    return Environment(loader=loader, autoescape=True, undefined=undefined, trim_blocks=True, lstrip_blocks=True)


def address_of_picture(file: Path) -> str:
    """Return a PNG file as a data: address."""
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"


def evaluation_in(file: Path, *, with_images: bool) -> Markup | None:
    """Return the part of a training's report about evaluation and data, for another page.

    Args:
        file: the report.
        with_images: whether to keep images of the data, if the report shows any.

    Returns:
        Safe HTML; None if there is no such report.
    """
    try:
        with opened_folder(file.parent) as folder:
            text = read_plain_file(folder, file.name, _MOST_BYTES).decode(errors="replace")
    except (OSError, NotPlainError):
        return None
    _, begins, rest = text.partition("<!-- evaluation begins -->")
    evaluation = rest.partition("<!-- evaluation ends -->")[0]
    return Markup(evaluation if with_images else _IMAGES.sub("", evaluation)) if begins else None
