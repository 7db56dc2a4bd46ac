"""Commands are functions, run with fire; what they do not know is refused before they do anything."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable

import fire
import fire.decorators

from rep3d.console.errors import show_errors_briefly
from rep3d.console.nearest import nearest

HIDDEN = "_fire_metadata"  # fire's help lists what has no underscore as something to call


def run_command(command: Callable[..., object]) -> None:
    """Run a function with the options that were typed; its errors end in one line.

    fire by itself complains of an unknown option after it has called the function.

    Raises:
        SystemExit: an option that is no argument of the function; names the nearest.
    """
    show_errors_briefly()
    known = [*inspect.signature(command).parameters, "help"]
    for word in sys.argv[1:]:
        if word == "--":
            break
        name = word[2:].partition("=")[0].replace("-", "_")
        if word.startswith("--") and name.removeprefix("no") not in known and name not in known:
            raise SystemExit(f"unknown option {word.partition('=')[0]!r}{nearest(name, known)}")
    decorated = vars(command)
    if fire.decorators.FIRE_METADATA in decorated:
        decorated[HIDDEN] = decorated.pop(fire.decorators.FIRE_METADATA)
        fire.decorators.FIRE_METADATA = HIDDEN
    fire.Fire(command)
