"""Keeps passwords out of what is recorded."""

from __future__ import annotations

import re


def hide_passwords(text: str) -> str:
    """Replace user and password in every address of a text, as in postgresql://me:secret@host/studies."""
    return re.sub(r"://[^/@\s]*@", "://***@", text)
