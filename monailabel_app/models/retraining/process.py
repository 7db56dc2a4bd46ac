"""A bundle's run in a process that a task of the server watches and can stop."""

from __future__ import annotations

import re
from pathlib import Path

import psutil
import torch

from monailabel_app.errors import RequestError
from monailabel_app.tasks import Task
from rep3d.console.status import Status, read_status
from rep3d.files import read_json, write_json
from rep3d.study.run import STOP_SECONDS, BundleProcess, BundleRun, RunFailed

PROCESS, LOG = "process.json", "training.log"
POLL_SECONDS = 0.5
LEAST_URGENT = 19  # of the system's priorities


def run_watched(task: Task, run: BundleRun, folder: Path, status_file: Path, spared: int = 1) -> bool:
    """Run a bundle to its end, or until the task is stopped.

    Args:
        task: is told the progress.
        run: what to run.
        folder: receives what it prints, and which process it is.
        status_file: in which the run tells its status.
        spared: cores that are left to this process.

    Returns:
        Whether it came to its end.

    Raises:
        RequestError: 500, it failed; with its reason.
    """
    end_orphan(folder)
    threads = max(1, torch.get_num_threads() - spared)
    process = BundleProcess(run, log=folder / LOG, status=status_file, threads=threads)
    started = psutil.Process(process.pid)
    started.nice(psutil.IDLE_PRIORITY_CLASS if psutil.WINDOWS else LEAST_URGENT)  # users' requests come first
    write_json(folder / PROCESS, {"pid": process.pid, "started": started.create_time()})
    try:
        while process.running() and not task.stopping.wait(POLL_SECONDS):
            _report_progress(task, read_status(status_file))
    finally:
        process.stop()
    status = read_status(status_file)
    _report_progress(task, status)
    if task.stopping.is_set():
        if status is not None and status.state == "stopped":
            task.report(status.reason)
        return False
    try:
        process.finish()
    except RunFailed as error:
        without_paths = re.sub(r"(?:[A-Za-z]:)?[/\\][^\s:'\"]*[/\\]", "", str(error))  # of the server
        raise RequestError(500, without_paths) from error
    return True


def end_orphan(folder: Path) -> None:
    """A server that was killed leaves its training running: end it before another writes to the same folder."""
    known = read_json(folder / PROCESS)
    try:
        process = psutil.Process(known["pid"])
        if process.create_time() == known["started"]:
            process.kill()
            process.wait(STOP_SECONDS)
    except (KeyError, psutil.NoSuchProcess):
        pass


def _report_progress(task: Task, status: Status | None) -> None:
    if status is None or status.step in (0, task.progress.get("step")):
        return
    loss = f"{float('nan') if status.loss is None else status.loss:.3f}"
    dice = "" if status.metric is None else f"{status.metric:.3f}"
    shown = f"epoch {status.epoch} of {status.epochs}, step {status.step} of {status.steps}, loss {loss}"
    task.report(
        f"{shown}, validation Dice {dice}" if dice else shown,
        step=status.step,
        steps=status.steps,
        epoch=status.epoch,
        epochs=status.epochs,
        loss=loss,
        val_dice=dice,
    )
