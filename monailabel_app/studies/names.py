"""Names that clients give are those of files: checked before anything uses them."""

from __future__ import annotations

import re

from monailabel_app.errors import RequestError

_NAME = re.compile(r"[^\W_][\w .()+=,-]{0,199}")  # one file name: no separators, no leading dot, no control characters
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{i}" for port in ("COM", "LPT") for i in range(10))}  # of Windows


def check_name(value: str, what: str) -> str:
    """A name that stays inside the folder it is joined to.

    Raises:
        RequestError: separators, a leading dot, control characters, an empty or an overlong name.
    """
    if not _NAME.fullmatch(value) or ".." in value or value[-1] in ". " or value.split(".")[0].upper() in _RESERVED:
        raise RequestError(400, f"{what} is {value[:100]!r}, expected a plain name of letters, digits, blanks and .-_")
    return value
