"""Temporary files have a folder of their own, which is there as long as its server, and no longer."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from monailabel_app.temporary import LOCK, MARKED, OLD, PREFIX, remove_leftovers

# Writes a temporary file for each line that it reads, and tells its name.
PROGRAM = """
import os, sys, tempfile
from monailabel_app.temporary import own_temporary_files
own_temporary_files()
own_temporary_files()
for line in sys.stdin:
    if line == "fork\\n" and os.fork() == 0:
        os.kill(os.getpid(), 15)
    with tempfile.NamedTemporaryFile(delete=False) as file:
        file.write(b"an upload")
    print(file.name, flush=True)
"""
SERVER = """
import tempfile, uvicorn
from monailabel_app.temporary import own_temporary_files

async def app(scope, receive, send):
    if (await receive())["type"] == "lifespan.startup":
        print(tempfile.mkstemp()[1], flush=True)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

own_temporary_files()
uvicorn.run(app, port=0, log_level="error")
"""


@pytest.fixture
def start(tmp_path):
    """Start a process that has written a temporary file; returns it and the file."""
    started = []

    def run(program: str = PROGRAM) -> tuple[subprocess.Popen, Path]:
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen([sys.executable, "-c", program], env=environment, text=True, **pipes)
        started.append(process)
        return process, upload(process)

    yield run
    for process in started:
        process.kill()
        process.communicate()


def upload(process: subprocess.Popen, line: str = "go") -> Path:
    """What the process writes next."""
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
    return Path(process.stdout.readline().strip())


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_only_what_killed_servers_left_is_removed(start, tmp_path):
    killed, left_behind = start()
    running, other = start()
    kill(killed)
    foreign = tmp_path / f"{PREFIX}of somebody"
    foreign.mkdir()
    (foreign / "upload.nii.gz").touch()
    (tmp_path / "rep3d_result.nii.gz").touch()
    (tmp_path / f"{PREFIX}link").symlink_to(other.parent)
    assert left_behind.parent.parent == tmp_path and left_behind.is_file()
    remove_leftovers(tmp_path)
    assert not left_behind.parent.exists() and other.is_file() and running.poll() is None
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {foreign.name, "rep3d_result.nii.gz", f"{PREFIX}link", other.parent.name}
    assert (foreign / "upload.nii.gz").is_file()


def test_a_start_removes_them_and_an_end_its_own(start, tmp_path):
    killed, left_behind = start()
    kill(killed)
    process, own = start()
    assert not left_behind.exists() and own.is_file()
    process.communicate("")
    assert process.returncode == 0 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("program", [PROGRAM, SERVER], ids=["before uvicorn", "under uvicorn"])
def test_an_end_by_sigterm(program, start, tmp_path):
    process, own = start(program)
    assert own.is_file()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == -signal.SIGTERM and not list(tmp_path.iterdir())


def test_the_end_of_a_fork(start):
    """A worker of the server ends: the folder is not its own."""
    process, own = start()
    assert upload(process, "fork").is_file()
    time.sleep(0.2)
    assert own.is_file()


# --- cleaners of the system


def take_all(folder):
    shutil.rmtree(folder)


def take_the_lock(folder):
    (folder / LOCK).unlink()


def take_the_place(folder):
    """Somebody else's folder of the same name would get the uploads."""
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / LOCK).touch()


def take_the_place_by_a_link(folder):
    folder.rename(folder.with_name("moved"))
    take_the_place(folder.with_name("moved"))
    folder.symlink_to("moved")


@pytest.mark.parametrize("take", [take_all, take_the_lock, take_the_place, take_the_place_by_a_link])
def test_a_folder_that_is_taken_away(take, start, tmp_path):
    process, first = start()
    take(first.parent)
    second, third = upload(process), upload(process)
    assert second.is_file() and second.parent == third.parent != first.parent
    assert second.parent.parent == tmp_path and second.parent.stat().st_mode & 0o777 == 0o700
    remove_leftovers(tmp_path)
    assert third.is_file()  # it has a lock, too
    process.communicate("")
    assert not second.parent.exists()


def test_a_lock_that_cleaners_leave(start):
    """systemd-tmpfiles leaves a file that has the sticky bit, and a folder with such a file."""
    _, file = start()
    assert (file.parent / LOCK).stat().st_mode & MARKED


@pytest.mark.parametrize(
    ("mode", "age", "content_age", "removed"),
    [
        (0o1700, OLD + 60, OLD + 60, True),
        (0o1700, OLD - 60, OLD + 60, False),
        (0o1700, OLD + 60, 0, False),
        (0o700, OLD + 60, OLD + 60, False),  # somebody's own `rep3d_training`
    ],
)
def test_a_leftover_without_a_lock(mode, age, content_age, removed, tmp_path):
    folder = tmp_path / f"{PREFIX}training"
    (folder / "rep3d_upload").mkdir(parents=True)
    folder.chmod(mode)
    for path, seconds in ((folder / "rep3d_upload", content_age), (folder, age)):
        os.utime(path, (time.time() - seconds,) * 2)
    remove_leftovers(tmp_path)
    assert folder.exists() is not removed


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives folders away")
def test_what_is_somebody_elses(tmp_path):
    for name, lock in (("a", True), ("b", False)):
        folder = tmp_path / f"{PREFIX}{name}"
        folder.mkdir(mode=0o700)
        folder.chmod(0o1700)
        if lock:
            (folder / LOCK).touch()
        os.utime(folder, (0, 0))
        os.chown(folder, 65534, 65534)
    remove_leftovers(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
