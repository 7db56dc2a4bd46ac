"""Say what went wrong where people look: at the end, in one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from opcode import opmap
from types import TracebackType
from typing import Any

from rep3d.console.logs import file_only, run_status

TRACE = "Traceback (most recent call last):"
OWN_PACKAGES = ("rep3d", "monailabel_app")
# What `pip install "rep3d[...]"` brings, by the module that is missed.
EXTRAS = {
    "skimage": "refine",
    "einops": "baselines",
    "dynamic_network_architectures": "baselines",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
    "monailabel": "label",
    "pydicom": "dicom",
    "dicomweb_client": "label",
    "highdicom": "dicom",
    "SimpleITK": "dicom",
    "jwt": "label",
    "numpymaxflow": "label",
    "PIL": "dicom",
}


class CaseError(ValueError):
    """A case cannot be used; the message names its file."""


def root_cause(error: BaseException) -> BaseException:
    """The exception to tell people of: the outermost that our own code raised, or else the innermost.

    MONAI wraps those of transforms and config expressions; our own code wraps those of libraries, with the file's name.
    """
    chain = list(_chain(error))
    return next((one for one in chain if _is_own(one)), chain[-1])


def describe(error: BaseException) -> str:
    """The root cause in words, without its type; with how to install what is missing."""
    cause = root_cause(error)
    message = str(cause) or type(cause).__name__
    if TRACE in message:  # of a DataLoader's worker, or of MONAI's SaveImage: the reason comes last
        message = message.rpartition(TRACE)[2].strip().splitlines()[-1].partition(": ")[2]
    extra = _missing_extra(cause)
    return f'{message.splitlines()[0]}: pip install "rep3d[{extra}]"' if extra else message


def first_line(error: BaseException) -> str:
    """`describe`, cut to its first line."""
    return describe(error).splitlines()[0]


def end_of_run(error: BaseException) -> None:
    """Tell in the status of the run at hand that this ended it."""
    status = run_status()
    if status is None:
        return
    if isinstance(error, KeyboardInterrupt):
        status.end("stopped", f"stopped in epoch {status.status.epoch}" if status.status.epoch else "stopped")
    else:
        status.end("failed", _with_type(error).splitlines()[0])


def show_errors_briefly(traceback: Any = False) -> None:
    """From now on, an uncaught exception ends the program with one message, its root cause.

    The traceback goes to the run's log file, where there is one (see `rep3d.console.logs`); to the screen only with
    `traceback`, and for errors that nobody foresaw.

    Args:
        traceback: whether to show every traceback.
    """

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        end_of_run(error)
        if isinstance(error, KeyboardInterrupt):
            print("\ninterrupted", file=sys.stderr)
            return
        file_only.error("the run failed", exc_info=error)
        if str(traceback).lower() == "true" or not _is_foreseen(root_cause(error)):
            sys.__excepthook__(kind, error, trace)
        print(f"\n{_with_type(error)}", file=sys.stderr)

    sys.excepthook = show


def _with_type(error: BaseException) -> str:
    return f"{type(root_cause(error)).__name__}: {describe(error)}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _is_foreseen(cause: BaseException) -> bool:
    """Whether the message tells enough: one of our own, of the file system, a missing extra, a misspelt argument."""
    misspelt = isinstance(cause, TypeError) and _raised_in(cause) == "monai.utils.module"  # which calls components
    return _is_own(cause) or isinstance(cause, OSError) or _missing_extra(cause) is not None or misspelt


def _is_own(error: BaseException) -> bool:
    """Whether a `raise` of our own code raised it, and nothing that we called."""
    if isinstance(error, CaseError):
        return True
    trace = _innermost(error)
    if trace is None or isinstance(error, AssertionError):
        return False
    raised = trace.tb_frame.f_code.co_code[trace.tb_lasti] == opmap["RAISE_VARARGS"]
    return raised and _raised_in(error).partition(".")[0] in OWN_PACKAGES


def _innermost(error: BaseException) -> TracebackType | None:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace


def _raised_in(error: BaseException) -> str:
    """The name of the module, empty for an error that was never raised."""
    trace = _innermost(error)
    return str(trace.tb_frame.f_globals.get("__name__")) if trace else ""


def _missing_extra(cause: BaseException) -> str | None:
    if not isinstance(cause, ImportError):
        return None
    words = str(cause).replace("'", " ").replace(".", " ").replace("`", " ").replace('"', " ").split()
    return next((extra for module, extra in EXTRAS.items() if module in words), None)
