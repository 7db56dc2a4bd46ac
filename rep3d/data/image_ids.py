"""Ids of images in the label app's studies: the names of their files, made plain where they are not."""

from __future__ import annotations

import hashlib
import re
import unicodedata

MAX_BYTES = 200  # of a name in UTF-8: with a suffix, and what marks it as half written, file systems take it
_NAME = re.compile(r"[^\W_][\w .()+=,-]*")  # one file name: no separators, no leading dot, no control characters
_READABLE_BYTES = 160
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{i}" for port in ("COM", "LPT") for i in range(10))}  # of Windows


def id_of(name: str, what: str) -> str:
    """The id of what somebody named: the name where it is plain, otherwise a plain one like it, always the same.

    Names get the same id only where Unicode has two ways to write them. An id is its own id. A path below the studies
    is a name, too: `ward/scan` becomes `ward_scan-` and eight digits that tell it from `ward_scan`.

    Args:
        what: begins the message.

    Raises:
        ValueError: an empty name, one with control characters or a leading dot, a path that leads out.
    """
    name = unicodedata.normalize("NFC", name)
    if is_plain(name):
        return name
    if not name or name[0] in "./\\" or ".." in re.split(r"[/\\]", name) or any(map(_is_control, name)):
        raise ValueError(f"{what} is {name[:100]!r}, expected a name without control characters or leading dot")
    return f"{readable(name) or 'unnamed'}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def is_plain(name: str) -> bool:
    """Whether a name is its own id."""
    return follows_rules(name) and len(name.encode()) <= MAX_BYTES


def follows_rules(name: str) -> bool:
    """Whether a name is plain, but for its length."""
    if not _NAME.fullmatch(name) or ".." in name or name[-1] in ". ":
        return False
    return name.split(".")[0].upper() not in _RESERVED


def readable(name: str) -> str:
    """The part of an id by which people know the name: it begins as that of a folder that the name lies in."""
    plain = re.sub(r"[^\w ()+=,-]", "_", name).lstrip("_ ()+=,-")
    return plain.encode()[:_READABLE_BYTES].decode(errors="ignore").rstrip("_ -")


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs")  # also what is no UTF-8 on the disk
