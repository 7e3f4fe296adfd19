"""Hides passwords in texts that are recorded or shown.

All functions take time in proportion to the text, since a traceback may have megabytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote

_NAMED = r"\$\{[^{}]*\}"  # an interpolation such as ${oc.env:DB_PASSWORD}, which shows no secret
_USER = re.compile(rf"://(?:{_NAMED}|\$(?!\{{)|[^/@\s:'\"$])*:")
_PORT = re.compile(r"\d{1,5}(?=[:.](?:\s|$)|[/?#\s,;)\]}]|$)")
_TOKEN = re.compile(r"(?<=https://)[^/@\s:'\"]+(?=@)|(?<=http://)[^/@\s:'\"]+(?=@)")
_ARGUMENT = re.compile(r"(?<=[?&;#])([\w.%-]+)=([^&;#\s'\"]+)")
_ARGUMENT_OF_VALUE = re.compile(r"(?<=[?&;#])([\w.%-]+)=([^&;#]+)")
_SECRET_NAME = re.compile(
    "passw|pwd|passphrase|secret|token|credential|api_?key|access_?key|signature|^(?:options|sig|key|auth)$",
    re.IGNORECASE,
)
_QUOTED_WORD = re.compile(r"([\w./@+~-]+=)(['\"])(.*)\2", re.DOTALL)
_PLAIN_WORD = re.compile(r"([\w./@+~-]+=)([^'\"\[{(].*)", re.DOTALL)
Replacement = Callable[[str], str]


def _stars(_secret: str) -> str:
    return "***"


def hide_passwords(text: str, replacement: Replacement = _stars) -> str:
    """Replace the secrets in every address of a text by ***, or by what `replacement` returns for them.

    Secrets are the password of postgresql://me:secret@host/studies, the token of https://token@host, and arguments such
    as ?password=secret, &sig=secret or #access_token=secret; also PostgreSQL's ?options=, which may hold a password.
    Interpolations, as in postgresql://me:${oc.env:DB_PASSWORD}@host/studies, stay.
    """
    if not any(each in text for each in ("://", "?", "&", ";", "#")):
        return text
    text = "\n".join(_replace_in_line(line, replacement) for line in text.split("\n"))
    return _replace_in_address(text, replacement, _ARGUMENT)


def hide_passwords_of_value(value: str, replacement: Replacement = _stars) -> str:
    """Apply `hide_passwords` to a text that is a single address, or none."""
    user = _USER.search(value)
    if user is not None and (end := value.rfind("@")) > user.end():
        value = value[: user.end()] + _replace(value[user.end() : end], replacement) + value[end:]
    return _replace_in_address(value, replacement, _ARGUMENT_OF_VALUE)


def hide_passwords_of_word(word: str, replacement: Replacement = _stars) -> str:
    """Apply `hide_passwords` to one word of a command line, KEY=VALUE, where VALUE is a single address, or none.

    So the password may contain spaces and quotes.
    """
    if quoted := _QUOTED_WORD.fullmatch(word):
        key, quote, value = quoted.groups()
        return f"{key}{quote}{hide_passwords_of_value(value, replacement)}{quote}"
    if plain := _PLAIN_WORD.fullmatch(word):
        return plain[1] + hide_passwords_of_value(plain[2], replacement)
    return hide_passwords(word, replacement)  # several values, or none


def split_names(secret: str) -> list[str]:
    """Split a secret into plain text and, at every second place, the interpolations in it."""
    return re.split(f"({_NAMED})", secret)


def _replace(secret: str, replacement: Replacement) -> str:
    return secret if re.fullmatch(_NAMED, secret) else replacement(secret)


def _replace_in_address(text: str, replacement: Replacement, arguments: re.Pattern[str]) -> str:
    def replace_argument(found: re.Match[str]) -> str:
        name, value = found.groups()
        return f"{name}={_replace(value, replacement)}" if _SECRET_NAME.search(unquote(name)) else found[0]

    text = _TOKEN.sub(lambda found: _replace(found[0], replacement), text)
    return arguments.sub(replace_argument, text)


def _replace_in_line(line: str, replacement: Replacement) -> str:
    """Replace what stands between `://USER:` and the last @ of the same address.

    It looks at the text before each @ by itself, so that the time stays in proportion to the text.
    """
    if "@" not in line or "://" not in line:
        return line
    secrets: list[tuple[int, int]] = []
    at = -1
    for part in line.split("@")[:-1]:
        begin, before, at = at + 1, at, at + 1 + len(part)
        if secrets and secrets[-1][1] == before and _begin_of_address(part) == 0:
            secrets[-1] = (secrets[-1][0], at)  # the password holds an @
        elif (found := _begin_of_password(part)) is not None:
            secrets.append((begin + found, at))
    done, end = [], 0
    for begin, at in secrets:
        done += [line[end:begin], _replace(line[begin:at], replacement)]
        end = at
    return "".join([*done, line[end:]])


def _begin_of_password(part: str) -> int | None:
    """Find where the password at the end of a text begins, after `://USER:`."""
    begin = _begin_of_address(part)
    if found := _USER.search(part, begin):
        return found.end() if found.end() < len(part) else None
    # a password with spaces, unless it is an address without a user, followed by other text
    for found in _USER.finditer(part, max(part.rfind("'"), part.rfind('"')) + 1):
        if found.end() < len(part) and not part[found.end()].isspace() and not _PORT.match(part, found.end()):
            return found.end()
    return None


def _begin_of_address(part: str) -> int:
    """Find where the address at the end of a text may begin: after the last space, and the last quote outside it.

    A quote belongs to a password if no separator such as a comma follows it.
    """
    words = part.split()
    begin = len(part) - len(words[-1]) if words and not part[-1:].isspace() else len(part)
    word = part[begin:]
    separator = max(map(word.rfind, ",=/:{}[]"))
    return begin + max(word.rfind("'", 0, separator), word.rfind('"', 0, separator)) + 1 if separator >= 0 else begin
