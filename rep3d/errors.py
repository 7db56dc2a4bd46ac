"""Say what went wrong where people look: at the end."""

from __future__ import annotations

import sys
from types import TracebackType


def root_cause(error: BaseException) -> BaseException:
    """The innermost exception: MONAI wraps those of transforms and config expressions."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def show_root_cause_last() -> None:
    """From now on, an uncaught exception prints its traceback as ever, and then its root cause in one message.

    `monai.bundle` ends a traceback with the config expression that failed; the reason stands dozens of lines above.
    """
    sys.excepthook = _print_with_root_cause


def _print_with_root_cause(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.__excepthook__(kind, error, trace)
    cause = root_cause(error)
    print(f"\n{type(cause).__name__}: {cause}", file=sys.stderr)
