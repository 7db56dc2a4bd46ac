"""One way to run a bundle from Python: in this process, or as `python -m monai.bundle run` in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow

from rep3d.console.logs import end_log, filter_noise
from rep3d.console.status import read_status
from rep3d.console.typed import PATHS, as_text
from rep3d.training.cpu import SHARED_CORES

STOP_SECONDS = 20  # that a process has to end by itself
LOG_BYTES = 4000  # at the end of a log, where its last line stands


class RunFailed(RuntimeError):
    """A run ended with an error; the message names the run and its reason, in one line."""


@dataclass(frozen=True)
class BundleRun:
    """What to run.

    Args:
        bundle: the bundle's folder.
        run_id: such as "training" or "evaluating".
        configs: files in the bundle's `configs`, such as "train.json", and paths of others to lay over them.
        overrides: values by config id.
    """

    bundle: Path
    run_id: str
    configs: Sequence[str | Path]
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def config_files(self) -> list[str]:
        """The paths of all `configs`."""
        return [str(self.bundle / "configs" / name) for name in self.configs]

    @property
    def settings(self) -> dict[str, Any]:
        """The overrides, and the bundle's own folder."""
        return {"bundle_root": str(self.bundle), **self.overrides}

    @property
    def arguments(self) -> list[str]:
        """Those of `python -m monai.bundle`."""
        options = [text for name, value in self.settings.items() for text in (f"--{name}", str(value))]
        return ["run", self.run_id, "--config_file", str(self.config_files), *options]


def _as_texts(paths: Any) -> Any:
    """Paths, one or several, for a configuration."""
    if isinstance(paths, list):
        return [_as_texts(path) for path in paths]
    return as_text(os.fspath(paths)) if isinstance(paths, str | os.PathLike) else paths


def _entries(run: BundleRun) -> dict[str, Any]:
    """The run's settings, by config id."""
    return {name: _as_texts(value) if name in PATHS else value for name, value in run.settings.items()}


def parse(run: BundleRun) -> ConfigParser:
    """The run's configuration, of which nothing is made yet."""
    parser = ConfigParser()
    parser.read_config(run.config_files)
    parser.update(_entries(run))
    return parser


def initialize_here(run: BundleRun) -> ConfigWorkflow:
    """The run's workflow in this process, initialized."""
    filter_noise()
    workflow = ConfigWorkflow(
        config_file=run.config_files,
        logging_file=False,
        workflow_type="train" if "train.json" in run.configs else "infer",
        run_id=run.run_id,
        **_entries(run),
    )
    with _same_python():
        workflow.initialize()
    return workflow


def run_here(run: BundleRun) -> ConfigWorkflow:
    """Run a bundle in this process; its workflow, with all that it made."""
    workflow = initialize_here(run)
    with _same_python():
        workflow.run()
        workflow.finalize()
    return workflow


@contextmanager
def scratch_folder() -> Iterator[str]:
    """A folder for runs in this process of which nothing is kept; with it ends the log that they write there."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            yield folder
        finally:
            end_log()


@contextmanager
def _same_python() -> Iterator[None]:
    """Workflows change how errors are shown, and where modules are looked for."""
    hook, path = sys.excepthook, sys.path.copy()
    try:
        yield
    finally:
        sys.excepthook, sys.path[:] = hook, path


class BundleProcess:
    """A run in a process of its own, started with this object.

    Args:
        run: what to run.
        log: takes all that it prints, after what stands there. None: it prints where this process does, without the
            warnings of libraries.
        status: the file in which the run tells its status, see `rep3d.console.status`. That of an earlier run goes.
        threads: that it computes with, beside other processes. None: as many as it likes.
    """

    def __init__(
        self, run: BundleRun, *, log: Path | None = None, status: Path | None = None, threads: int | None = None
    ) -> None:
        self.run, self.log, self.status_file = run, log, status
        if status is not None:
            status.unlink(missing_ok=True)
        environment = dict(os.environ)
        if threads is not None:
            environment = {**SHARED_CORES, **environment, "OMP_NUM_THREADS": str(threads)}
        if log is None:
            self._process = subprocess.Popen([sys.executable, "-W", "ignore", *self._module], env=environment)
        else:
            environment["PYTHONUNBUFFERED"] = "1"
            command = [sys.executable, *self._module]
            with log.open("ab") as output:
                self._process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)

    @property
    def _module(self) -> list[str]:
        return ["-m", "monai.bundle", *self.run.arguments]

    @property
    def pid(self) -> int:
        """The process' number."""
        return self._process.pid

    def running(self) -> bool:
        """Whether it goes on."""
        return self._process.poll() is None

    def stop(self) -> None:
        """Let it end by itself, by force where it takes longer than STOP_SECONDS."""
        if self.running():
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def finish(self) -> None:
        """Wait for its end.

        Raises:
            RunFailed: it failed.
        """
        if self._process.wait() != 0:
            raise RunFailed(f"{self.run.run_id} failed{self._reason()}")

    def _reason(self) -> str:
        """As the run told it, or else, where it had no time to, the last line that it printed."""
        status = read_status(self.status_file) if self.status_file else None
        if status is not None and status.state == "failed":
            return f": {status.reason}"
        return f": {last_line(self.log)}" if self.log else ", see above"


def run_process(run: BundleRun) -> None:
    """Run a bundle in a process of its own to its end; it prints where this process does.

    Raises:
        RunFailed: it failed.
    """
    process = BundleProcess(run)
    try:
        process.finish()
    finally:
        process.stop()


def last_line(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_BYTES))
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"
