"""What a run says and where: a log file beside its results, and no noise of the libraries below."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rep3d.console.status import StatusFile

logger = logging.getLogger(__name__)
# For what a terminal has no room for, such as tracebacks: it goes to the run's log file and nowhere else.
file_only = logging.getLogger(f"{__name__}.file_only")
file_only.propagate = False
file_only.setLevel(logging.INFO)
file_only.addHandler(logging.NullHandler())  # where there is no file, errors would go to the screen

FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"
# They say at every run what nobody can do anything about: an optional decoder of NVIDIA that is not there, defaults
# and arguments of MONAI that MONAI itself uses, and a list of what was typed, which the log file's first line has.
NOISY_LOGGERS = ("monai.data.nvimgcodec_pydicom_plugin", "monai.bundle.scripts")
NOISY_RECORDS = {"monai.bundle.workflows": "Logging file is set to False"}  # by logger: as `rep3d.study.run` has it
NOISY_WARNINGS = (
    r"NvImgCodecPydicomReader: nvImageCodec decoder plugin did not register",
    r"monai\.transforms\.spatial\.dictionary Orientationd\.__init__:labels: Current default value",
    r"monai\.metrics\.utils get_mask_edges:always_return_as_numpy",
)


class RunLog(logging.FileHandler):
    """The log file of the run at hand, and beside it, once it has begun, the file of its status."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8")
        self.status: StatusFile | None = None
        self.status_path = path.with_suffix(".status.json")


def filter_noise() -> None:
    """From now on, leave out what NOISY_LOGGERS, NOISY_RECORDS and NOISY_WARNINGS name."""
    for text in NOISY_WARNINGS:
        warnings.filterwarnings("ignore", message=text)
    for noisy in NOISY_LOGGERS:
        logging.getLogger(noisy).setLevel(logging.ERROR)
    for noisy in NOISY_RECORDS:
        logging.getLogger(noisy).addFilter(_is_no_noise)


def _is_no_noise(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(NOISY_RECORDS[record.name])


def start_log(folder: str | os.PathLike, name: str, *, writes: bool = True, status: bool = True) -> None:
    """Append what this run says to a file, and tell its status in another, such as training.status.json.

    Ends the log of an earlier run in the same process. A file that cannot be written is only warned about.

    Args:
        folder: the run's folder; it is made.
        name: of the file in it.
        writes: whether this process writes: rank 0 only.
        status: whether the run begins right now. Otherwise it may still be refused, and leaves the status of the one
            before as it is; `start_status` begins it.
    """
    end_log()
    if not writes:
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        handler = RunLog(Path(folder) / name)
    except OSError as error:
        logger.warning("this run has no log file: %s", error)
        return
    handler.setFormatter(logging.Formatter(FORMAT))
    for taking in (logging.getLogger(), file_only):
        taking.addHandler(handler)
    logging.getLogger("rep3d").setLevel(logging.INFO)  # Python's default is WARNING
    file_only.info("started: %s", shlex.join(sys.argv))
    if status:
        start_status()


def start_status(settings: Mapping[str, Any] | None = None) -> StatusFile | None:
    """From now on the run at hand tells its status; None where it has no log file.

    Args:
        settings: see `rep3d.console.status.Status`.
    """
    log = _run_log()
    if log is not None:
        log.status = StatusFile(log.status_path, settings)
    return run_status()


def run_status() -> StatusFile | None:
    """Where the run at hand tells its status; None where it has no log file, or has not begun."""
    log = _run_log()
    return log.status if log is not None else None


def _run_log() -> RunLog | None:
    return next((handler for handler in file_only.handlers if isinstance(handler, RunLog)), None)


def end_log() -> None:
    """Close the log file of this process, if it has one."""
    for taking in (logging.getLogger(), file_only):
        for handler in [handler for handler in taking.handlers if isinstance(handler, RunLog)]:
            taking.removeHandler(handler)
            handler.close()
