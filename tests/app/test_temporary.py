"""What killed servers leave among the temporary files goes with the next start, and nothing else."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from monailabel_app.temporary import PREFIX, remove_leftovers

PROGRAM = """
import pathlib, sys, tempfile
from monailabel_app.temporary import own_temporary_files
own_temporary_files()
own_temporary_files()
with tempfile.NamedTemporaryFile(delete=False) as file:
    file.write(b"an upload")
print(file.name, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start(tmp_path):
    """Start a process that has written a temporary file; returns it and the file."""
    started = []

    def run() -> tuple[subprocess.Popen, Path]:
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, text=True, **pipes)
        started.append(process)
        return process, Path(process.stdout.readline().strip())

    yield run
    for process in started:
        process.kill()
        process.communicate()


def test_only_what_killed_servers_left_is_removed(start, tmp_path):
    killed, upload = start()
    running, other = start()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    foreign = tmp_path / f"{PREFIX}of somebody"
    foreign.mkdir()
    (foreign / "upload.nii.gz").touch()
    (tmp_path / "rep3d_result.nii.gz").touch()
    (tmp_path / f"{PREFIX}link").symlink_to(other.parent)
    assert upload.parent.parent == tmp_path and upload.is_file()
    remove_leftovers(tmp_path)
    assert not upload.parent.exists() and other.is_file() and running.poll() is None
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {foreign.name, "rep3d_result.nii.gz", f"{PREFIX}link", other.parent.name}
    assert (foreign / "upload.nii.gz").is_file()


def test_a_start_removes_them_and_an_end_its_own(start, tmp_path):
    killed, upload = start()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    process, own = start()
    assert not upload.exists() and own.is_file()
    process.communicate("")
    assert process.returncode == 0 and not list(tmp_path.iterdir())
