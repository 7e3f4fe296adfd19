"""Keeps passwords out of what is recorded."""

from __future__ import annotations

import re
from collections.abc import Callable

_NAMED = r"\$\{[^{}]*\}"  # an interpolation such as ${oc.env:DB_PASSWORD}, which gives nothing away
_USER = rf"(?:{_NAMED}|\$(?!\{{)|[^/@\s:'\"$])*"
_QUOTE = r"['\"](?=[^\s,=/:{}\[\]]*@)"  # in a password, not at the end of a text
_ARGUMENTS = "passw|pwd|passphrase|secret|token|credential|api_?key|access_?key|signature"
_SECRETS = (  # what stands before a secret, and the secret
    re.compile(rf"(://{_USER}:)((?:[^\s'\"]|{_QUOTE})+)(?=@)"),  # a password may hold what an address must not
    re.compile(r"(https?://)([^/@\s:'\"]+)(?=@)"),
    re.compile(rf"([?&;][\w.-]*(?:{_ARGUMENTS})[\w.-]*=)([^&;\s'\"]+)", re.IGNORECASE),
)


def hide_passwords(text: str) -> str:
    """Replace what is secret in every address of a text by ***.

    That is the password of postgresql://me:secret@host/studies, the token of https://token@host, and arguments such as
    ?password=secret. What an interpolation names, as in postgresql://me:${oc.env:DB_PASSWORD}@host/studies, stays.
    """
    return replace_secrets(text, lambda _secret: "***")


def replace_secrets(text: str, replacement: Callable[[str], str]) -> str:
    """Replace the secrets that `hide_passwords` hides by what a function gives for each."""
    for pattern in _SECRETS:
        text = pattern.sub(
            lambda found: found[1] + (found[2] if re.fullmatch(_NAMED, found[2]) else replacement(found[2])), text
        )
    return text
