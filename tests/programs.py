"""Python programs in processes of their own, without the seconds that each takes to import torch and MONAI.

They are forked from a process that has imported the libraries, and then run as `python -m` runs them. What depends on
how Python itself starts or ends needs `subprocess`.
"""

import multiprocessing
import os
import runpy
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# None of them reads a setting of ours while it is imported.
LIBRARIES = [
    "rep3d.training",
    "monai.bundle",
    "torch.utils.tensorboard",
    "uvicorn",
    "fastapi",
    "highdicom",
    "SimpleITK",
]


class Program:
    """`python -m module arguments`; everything it prints goes to one file."""

    def __init__(self, words: Sequence[object], *, cwd: Path, environment: Mapping[str, str], output: Path) -> None:
        python, option, module, *arguments = map(str, words)
        assert (python, option) == (sys.executable, "-m")
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        context = multiprocessing.get_context(method)
        context.set_forkserver_preload(LIBRARIES)
        told = (module, arguments, str(cwd), dict(environment), str(output))
        self._process = context.Process(target=_run, args=told, daemon=True)
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.poll() is None:
            raise TimeoutError(f"process {self.pid} goes on after {timeout} seconds")
        return self.poll()

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


def execute(words: Sequence[object], *, cwd: Path, environment: Mapping[str, str], output: Path) -> str:
    """Run a program to its end, and return what it printed."""
    program = Program(words, cwd=cwd, environment=environment, output=output)
    status = program.wait(600)
    printed = output.read_text(encoding="utf-8", errors="replace")
    assert status == 0, printed[-4000:]
    return printed


def _run(module: str, arguments: list[str], cwd: str, environment: dict[str, str], output: str) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    # The tests' own folders are not on the path of what they test.
    sys.path[:] = [cwd, str(ROOT), *(path for path in sys.path if not Path(path).is_relative_to(ROOT / "tests"))]
    sys.argv = [module, *arguments]
    warnings.simplefilter("ignore")
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except Exception:
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
