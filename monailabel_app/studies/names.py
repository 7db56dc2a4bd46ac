"""Names that people and clients give become those of files: checked, or made plain, before anything uses them."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from monailabel_app.errors import RequestError

MAX_BYTES = 200  # of a name in UTF-8: with a suffix, and what marks it as half written, file systems take it
_NAME = re.compile(r"[^\W_][\w .()+=,-]*")  # one file name: no separators, no leading dot, no control characters
_READABLE_BYTES = 160
_EARLIER_LENGTH = 200  # characters, of ids when the names of files were ids
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{i}" for port in ("COM", "LPT") for i in range(10))}  # of Windows


def check_name(value: str, what: str) -> str:
    """A name that stays inside the folder it is joined to.

    Raises:
        RequestError: separators, a leading dot, control characters, an empty or an overlong name.
    """
    if not _is_plain(value):
        raise RequestError(400, f"{what} is {value[:100]!r}, expected a plain name of letters, digits, blanks and .-_")
    return value


def id_of(name: str, what: str) -> str:
    """The id of what somebody named: the name where it is plain, otherwise a plain one like it, always the same.

    Names get the same id only where Unicode has two ways to write them. An id is its own id. A path below the studies
    is a name, too: `ward/scan` becomes `ward_scan-` and eight digits that tell it from `ward_scan`.

    Raises:
        RequestError: an empty name, one with control characters or a leading dot, a path that leads out.
    """
    name = unicodedata.normalize("NFC", name)
    if _is_plain(name):
        return name
    if not name or name[0] in "./\\" or ".." in re.split(r"[/\\]", name) or any(map(_is_control, name)):
        raise RequestError(400, f"{what} is {name[:100]!r}, expected a name without control characters or leading dot")
    return f"{_readable(name) or 'unnamed'}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def was_id(name: str) -> bool:
    """Whether a name was an id once and is none now: one of too many bytes, or of letters in another form than NFC."""
    return _follows_rules(name) and len(name) <= _EARLIER_LENGTH and name != id_of(name, "name")


def may_lie_in(image_id: str, folder: str) -> bool:
    """Whether an id may be that of a folder, by its path below the studies, or of something in it."""
    folder = unicodedata.normalize("NFC", folder)
    return image_id == folder or image_id.startswith(_readable(folder))


def _is_plain(name: str) -> bool:
    return _follows_rules(name) and len(name.encode()) <= MAX_BYTES


def _follows_rules(name: str) -> bool:
    """Of a plain name, but for its length."""
    if not _NAME.fullmatch(name) or ".." in name or name[-1] in ". ":
        return False
    return name.split(".")[0].upper() not in _RESERVED


def _readable(name: str) -> str:
    """The part of an id by which people know the name: it begins as that of a folder that the name lies in."""
    plain = re.sub(r"[^\w ()+=,-]", "_", name).lstrip("_ ()+=,-")
    return plain.encode()[:_READABLE_BYTES].decode(errors="ignore").rstrip("_ -")


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs")  # also what is no UTF-8 on the disk
