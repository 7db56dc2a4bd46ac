"""nnU-Net's environment; and programs that run with a log, timed, and end with all that they have started.

Linux and macOS.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rep3d.files import read_json, write_json
from rep3d.study.run import RunFailed, last_line

NNUNET = "nnunetv2==2.8.1"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # would leave cores to those programs alone that start processes
PROGRAM = Path(__file__).with_name("program.py")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # on which ours computes
VERSIONS = (
    "from importlib.metadata import version; import torch; "
    "print(version('nnunetv2'), version('torch'), 'cuda' if torch.cuda.is_available() else 'cpu')"
)


def run_logged(words: Sequence[object], log: Path, environment: Mapping[str, str] | None = None) -> float:
    """Run a program to its end; the seconds that it took.

    Args:
        words: the program and its arguments.
        log: takes all that it prints, after what stands there.
        environment: variables beside those of this process, of which THREADS are left out.

    Raises:
        RunFailed: it failed; the message has the last line that it printed.
    """
    command = [str(word) for word in words]
    began = time.monotonic()
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={name: value for name, value in os.environ.items() if name not in THREADS} | dict(environment or {}),
            start_new_session=True,  # a group, with the processes that it starts in turn
        )
    # Ends the group once this process closes its input, which the system does where this process is killed.
    guard = subprocess.Popen(
        ["sh", "-c", f"read _; kill -s TERM -- -{process.pid}"],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # nobody is left
        start_new_session=True,
    )
    try:
        status = process.wait()
    finally:
        guard.communicate()
        process.wait()
    if status != 0:
        raise RunFailed(f"{' '.join(command)} failed: {last_line(log)} (all of it stands in {log})")
    return time.monotonic() - began


@dataclass(frozen=True)
class NnUNet:
    """nnU-Net in an environment of its own.

    Args:
        python: of that environment.
        version: of nnU-Net.
        torch: version there.
        device: on which it computes, cuda or cpu.
    """

    python: Path
    version: str
    torch: str
    device: str

    def run(self, words: Sequence[object], log: Path, folder: Path, results: Path, workers: int | None = None) -> float:
        """Run its Python.

        Args:
            words: the arguments.
            log: as of `run_logged`.
            folder: holds its raw and its preprocessed data.
            results: its trainings.
            workers: processes that augment; None: as many as nnU-Net likes.
        """
        places = {
            "nnUNet_raw": folder / "nnUNet_raw",
            "nnUNet_preprocessed": folder / "nnUNet_preprocessed",
            "nnUNet_results": results,
        }
        environment = {name: str(path.resolve()) for name, path in places.items()}
        if workers is not None:
            environment["nnUNet_n_proc_DA"] = str(workers)
        return run_logged([self.python, *words], log, environment)

    def call(
        self, command: str, settings: Mapping[str, Any], cell: Path, folder: Path, workers: int | None = None
    ) -> tuple[dict[str, Any], float]:
        """Run a command of `program.py`; what it found, and the seconds of the process.

        Args:
            command: the name of one of its functions.
            settings: its arguments.
            cell: receives settings, result and log, and the trainings of this command.
            folder: as of `run`.
            workers: likewise.
        """
        told, found = cell / f"{command}_settings.json", cell / f"{command}.json"
        found.unlink(missing_ok=True)
        write_json(told, settings)
        results = cell / "nnUNet_results" / command  # apart: the end of any training removes what another resumes from
        seconds = self.run([PROGRAM, command, told, found], cell / "log.txt", folder, results, workers)
        return read_json(found), seconds


def find_nnunet(python: Path) -> NnUNet:
    """nnU-Net by the Python of its environment.

    Raises:
        ValueError: it cannot be run, has no nnU-Net, or computes on another device than ours.
    """
    try:
        told = subprocess.run([python, "-c", VERSIONS], check=True, capture_output=True, text=True).stdout
        found = NnUNet(python, *told.split())
    except (OSError, subprocess.CalledProcessError, TypeError):
        raise ValueError(f"nnunet_python is {str(python)!r}, expected a Python that has {NNUNET}") from None
    if found.device != DEVICE:
        raise ValueError(
            f"nnunet_python is {str(python)!r}, whose PyTorch computes on {found.device}, and ours on {DEVICE}: "
            "expected one device for both"
        )
    return found


def install_nnunet(folder: Path) -> NnUNet:
    """nnU-Net in a virtual environment, which is made where it is missing, with the version of torch that runs here."""
    python = folder / "bin/python"
    with suppress(ValueError):
        return find_nnunet(python)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "install.txt"
    run_logged([sys.executable, "-m", "venv", folder], log)
    # At once: its other requirements must fit that torch.
    run_logged([python, "-m", "pip", "install", NNUNET, f"torch=={torch.__version__.partition('+')[0]}"], log)
    return find_nnunet(python)
