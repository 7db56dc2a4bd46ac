"""Commands are functions, run with fire; what they do not know is refused before they do anything."""

from __future__ import annotations

import functools
import inspect
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import fire
import fire.decorators

from rep3d.console.errors import show_errors_briefly
from rep3d.console.nearest import nearest

SHOWN, HIDDEN = fire.decorators.FIRE_METADATA, "_fire_metadata"  # fire's help takes what has no _ for a command


def run_command(
    command: Callable[..., object], words: Sequence[str] | None = None, *, program: str | None = None
) -> None:
    """Run a function with the options that were typed; its errors end in one line.

    fire by itself complains of an unknown option, and of a word too many, after it has called the function.

    Args:
        command: a function. One that takes any option, as `**options`, checks them by itself.
        words: that were typed; None: those of this process.
        program: of which it is one command, by its name; None: it is this program.

    Raises:
        SystemExit: an option that is no argument of the function; names the nearest. Or a word too many.
    """
    show_errors_briefly()
    parameters = inspect.signature(command).parameters
    words = _written_out(parameters, sys.argv[1:] if words is None else words)
    _check_options(parameters, words)
    calls: list[Callable[[], object]] = []

    @functools.wraps(command)
    def parsed(*arguments: Any, **options: Any) -> None:
        calls.append(functools.partial(command, *arguments, **options))

    if SHOWN in vars(parsed):
        vars(parsed)[HIDDEN] = vars(parsed).pop(SHOWN)
    fire.decorators.FIRE_METADATA = HIDDEN
    try:
        if program is None:
            fire.Fire(parsed, words)
        else:
            fire.Fire({command.__name__: parsed}, [command.__name__, *words], program)
    finally:
        fire.decorators.FIRE_METADATA = SHOWN
    for call in calls:
        call()


def switch(name: str, typed: str | bool) -> bool:
    """The value of an option that is on or off.

    Raises:
        ValueError: another word stands behind it.
    """
    if str(typed).lower() not in ("true", "false"):
        raise ValueError(f"{name} is {typed!r}, expected nothing behind it, or true or false")
    return str(typed).lower() == "true"


def _written_out(parameters: Mapping[str, inspect.Parameter], words: Sequence[str]) -> list[str]:
    """The words with `-f`, as the help has it, as `--folds`: fire leaves it where a function takes any option."""
    if not _takes_any(parameters):
        return list(words)
    names = [name for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY]
    letters = Counter(name[0] for name in names)
    short = {f"-{name[0]}": f"--{name}" for name in names if letters[name[0]] == 1}
    parted = [word.partition("=") for word in words]
    return [short.get(word, word) + sign + value for word, sign, value in parted]


def _takes_any(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())


def _check_options(parameters: Mapping[str, inspect.Parameter], words: Sequence[str]) -> None:
    if _takes_any(parameters):
        return
    known = [*parameters, "help"]
    for word in words:
        if word == "--":
            break
        name = word[2:].partition("=")[0].replace("-", "_")
        if word.startswith("--") and name.removeprefix("no") not in known and name not in known:
            raise SystemExit(f"unknown option {word.partition('=')[0]!r}{nearest(name, known)}")
