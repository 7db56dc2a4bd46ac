"""A choice, and why it was made."""

from __future__ import annotations

from typing import NamedTuple


class Decision(NamedTuple):
    """Why something was chosen, in a line for people."""

    what: str
    why: str
