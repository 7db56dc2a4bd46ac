"""Names that people and clients give become those of files: checked, or made plain, before anything uses them."""

from __future__ import annotations

import unicodedata

from monailabel_app.errors import RequestError
from rep3d.data import image_ids

_EARLIER_LENGTH = 200  # characters, of ids when the names of files were ids


def id_of(name: str, what: str) -> str:
    """The id of what somebody named, see `rep3d.data.image_ids.id_of`.

    Raises:
        RequestError: an empty name, one with control characters or a leading dot, a path that leads out.
    """
    try:
        return image_ids.id_of(name, what)
    except ValueError as error:
        raise RequestError(400, str(error)) from None


def was_id(name: str) -> bool:
    """Whether a name was an id once and is none now: one of too many bytes, or of letters in another form than NFC."""
    return image_ids.follows_rules(name) and len(name) <= _EARLIER_LENGTH and name != id_of(name, "name")


def may_lie_in(image_id: str, folder: str) -> bool:
    """Whether an id may be that of a folder, by its path below the studies, or of something in it."""
    folder = unicodedata.normalize("NFC", folder)
    return image_id == folder or image_id.startswith(image_ids.readable(folder))
