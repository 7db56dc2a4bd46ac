"""Python programs in processes of their own, without the seconds that each takes to import torch and MONAI.

They are forked from a process that has imported the libraries, the nursery, and then run, and end, as `python -m` does;
so do the bundles that they run in turn. What depends on how Python itself starts needs `subprocess`.
"""

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
# None of them reads a setting of ours while it is imported.
LIBRARIES = [
    "rep3d.training",
    "monai.bundle",
    "torch._dynamo",  # which optimizers import
    "torch.utils.tensorboard",
    "uvicorn",
    "fastapi",
    "jwt",
    "blosc2",
    "dicomweb_client",
    "highdicom",
    "SimpleITK",
]
SECONDS = 0.02  # from the end of a program to its notice
NUMBER = struct.Struct("q")
CLONE_NEWNET = 0x40000000

_address: str | None = None  # of the nursery


class Program:
    """`python -m module arguments` in the caller's network; with the methods of `subprocess.Popen`."""

    def __init__(
        self, words: Sequence[object], *, environment: Mapping[str, str], output: int, cwd: Path | None = None
    ) -> None:
        words = [str(word) for word in words]
        assert words[0] == sys.executable
        self.args = words[words.index("-m") + 1 :]
        self.returncode: int | None = None
        told = {
            "words": self.args,
            "environment": dict(environment),
            "cwd": str(cwd or Path.cwd()),
            "network": f"/proc/{os.getpid()}/ns/net",
        }
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(_nursery())
        socket.send_fds(self._connection, [b"."], [output])
        self._connection.sendall(f"{json.dumps(told)}\n".encode())
        self.pid = _read_number(self._connection)

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = _read_number(self._connection)
            self._connection.close()
        return self.returncode

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(self.pid, number)


def start(words: Sequence[object], *, cwd: Path, environment: Mapping[str, str], output: Path) -> Program:
    """A program; everything it prints goes to the end of one file."""
    with output.open("ab") as file:
        return Program(words, environment=environment, output=file.fileno(), cwd=cwd)


def execute(words: Sequence[object], *, cwd: Path, environment: Mapping[str, str], output: Path) -> str:
    """Run a program to its end, and return what it printed."""
    status = start(words, cwd=cwd, environment=environment, output=output).wait(600)
    printed = output.read_text(encoding="utf-8", errors="replace")
    assert status == 0, printed[-4000:]
    return printed


def _popen(
    words: Sequence[str], *, env: Mapping[str, str], stdout: IO | None = None, stderr: int | None = None
) -> Program | subprocess.Popen:
    if "-m" not in words:
        return subprocess.Popen(words, env=env, stdout=stdout, stderr=stderr)
    return Program(words, environment=env, output=stdout.fileno() if stdout else 1)


# Stands for `subprocess` in `rep3d.study.run`.
forking = SimpleNamespace(Popen=_popen, STDOUT=subprocess.STDOUT, TimeoutExpired=subprocess.TimeoutExpired)


def _read_number(connection: socket.socket) -> int:
    return NUMBER.unpack(connection.recv(NUMBER.size, socket.MSG_WAITALL))[0]


# --- the nursery


def _nursery() -> str:
    """The nursery's address. The first program starts it, and it ends with the process that this one is in."""
    global _address
    if _address is None:
        folder = tempfile.mkdtemp()
        _address = f"{folder}/nursery"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(_address)
            listener.listen()
            process = subprocess.Popen(
                [sys.executable, __file__, _address, str(listener.fileno())],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                pass_fds=[listener.fileno()],
            )
        atexit.register(shutil.rmtree, folder)
        atexit.register(process.communicate)  # closes its input, which ends it
    return _address


def _nurse(listener: socket.socket) -> tuple[dict, int]:
    """Fork a program for each that connects. Returns in the programs alone: what to run, and where it prints."""
    running: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([listener, 0], [], [], SECONDS if running else None)
        if 0 in ready:
            for pid in running:
                os.kill(pid, signal.SIGKILL)
            os._exit(0)
        if listener in ready:
            connection, _ = listener.accept()
            _, (output,), _, _ = socket.recv_fds(connection, 1, 1)
            told = json.loads(connection.makefile(encoding="utf-8").readline())
            pid = os.fork()
            if pid == 0:
                for one in (listener, connection, *running.values()):
                    one.close()
                return told, output
            os.close(output)
            connection.sendall(NUMBER.pack(pid))
            running[pid] = connection
        while running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            with contextlib.suppress(BrokenPipeError), running.pop(pid) as connection:  # who started it may have ended
                connection.sendall(NUMBER.pack(os.waitstatus_to_exitcode(status)))


def _run(told: dict, output: int) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout.reconfigure(line_buffering=True)
    _enter_network(Path(told["network"]))
    os.chdir(told["cwd"])
    os.environ.clear()
    os.environ.update(told["environment"])
    # The tests' own folders are not on the path of what they test.
    sys.path[:] = [
        told["cwd"],
        str(ROOT),
        *(path for path in sys.path if not Path(path).is_relative_to(ROOT / "tests")),
    ]
    module, *_ = sys.argv = told["words"]
    warnings.simplefilter("ignore")
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _enter_network(namespace: Path) -> None:
    if namespace.exists() and not namespace.samefile("/proc/self/ns/net"):
        with namespace.open() as file:
            assert ctypes.CDLL(None).setns(file.fileno(), CLONE_NEWNET) == 0


if __name__ == "__main__":
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()  # no program looks through the libraries' objects, or copies them
    _address = sys.argv[1]
    importlib.import_module("rep3d.study.run").subprocess = forking
    _run(*_nurse(socket.socket(fileno=int(sys.argv[2]))))
