import signal
import subprocess
import sys

import pytest
from bundle_helpers import EVALUATE, ROOT, TRAIN, make_dataset, workflow
from ignite.engine import Engine

from rep3d.console.errors import root_cause
from rep3d.locks import FolderLocks, lock_file, lock_folders

BUNDLE = ROOT / "bundles/msd_hippocampus"
HOLD = """
import sys
from filelock import FileLock
kept = FileLock(sys.argv[1])
kept.acquire()
print(1, flush=True)
input()
"""


@pytest.fixture
def other_process():
    """Another process that has a folder."""
    started = []

    def hold(folder, owner):
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-c", HOLD, str(lock_file(folder, owner))]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout.readline() == b"1\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "owner, remedy", [("training", "--ckpt_dir"), ("evaluation", "--output_dir"), ("server", "other studies")]
)
def test_second_process_is_refused(owner, remedy, other_process, tmp_path):
    other_process(tmp_path / "b", owner)
    with pytest.raises(ValueError, match=f"another {owner} works on {tmp_path / 'b'}: .*{remedy}"):
        lock_folders([tmp_path / "a", tmp_path / "b"], owner)
    assert lock_folders([tmp_path / "a"], owner)  # the first one was given back


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_folder_of_a_killed_process_is_free(how, other_process, tmp_path):
    process = other_process(tmp_path, "training")
    process.send_signal(how)
    process.wait()
    assert lock_file(tmp_path, "training").exists()
    assert lock_folders([tmp_path], "training")


def test_owners_of_different_kinds_share_a_folder(other_process, tmp_path):
    """Such as a training, and an evaluation of an earlier checkpoint, in the default output folder."""
    other_process(tmp_path, "training")
    assert lock_folders([tmp_path], "evaluation")


def test_dropped_locks_are_given_back(tmp_path):
    kept = lock_folders([tmp_path], "server")
    assert taken(tmp_path, "server")
    kept.clear()
    assert not taken(tmp_path, "server")


def test_a_run_holds_its_folders_until_its_end(tmp_path):
    locks = FolderLocks([tmp_path / "a", tmp_path / "b"], "training")
    engine = Engine(lambda engine, batch: seen.append([taken(tmp_path / name, "training") for name in "ab"]))
    seen = []
    locks.attach(engine)
    engine.run([0])
    assert seen == [[True, True]]
    assert [list((tmp_path / name).iterdir()) for name in "ab"] == [[], []]


def test_a_process_does_not_shut_itself_out(tmp_path):
    """A run that failed leaves its locks to the garbage collector, in a notebook for long."""
    failed = FolderLocks([tmp_path], "training")
    second = FolderLocks([tmp_path], "training")
    second.release()
    assert not taken(tmp_path, "training")
    assert failed.locks


def test_a_run_that_never_began_leaves_no_file(tmp_path):
    """Nor does its end take the folder from another run of this process."""
    for refused in (FolderLocks([tmp_path], "training"), FolderLocks([tmp_path / "b"], "training")):
        del refused
    assert not list(tmp_path.rglob("*.lock"))
    refused, running = FolderLocks([tmp_path], "training"), FolderLocks([tmp_path], "training")
    del refused
    assert taken(tmp_path, "training") and lock_file(tmp_path, "training").exists()
    running.release()
    assert not taken(tmp_path, "training")


def test_other_ranks_lock_nothing(other_process, tmp_path):
    other_process(tmp_path, "training")
    assert FolderLocks([tmp_path], "training", writes=False).locks == []


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "a").write_text("no folder")
    with pytest.raises(ValueError, match="a cannot be locked .File exists"):
        lock_folders([tmp_path / "a"], "training")


@pytest.mark.parametrize(
    "files, owner, place",
    [(TRAIN, "training", "models"), (TRAIN, "training", "eval/tensorboard"), (EVALUATE, "evaluation", "eval")],
)
def test_bundles_are_locked(files, owner, place, dataset, other_process, tmp_path):
    """A second training or evaluation ends before it writes anything."""
    other_process(tmp_path / place, owner)
    with pytest.raises(RuntimeError) as raised:
        workflow(BUNDLE, files, dataset, tmp_path)
    assert str(root_cause(raised.value)).startswith(f"another {owner} works on {tmp_path / place}: wait for its end")
    assert not list(tmp_path.rglob("*.pt")) and not list(tmp_path.rglob("*tfevents*"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"), BUNDLE)


def taken(folder, owner):
    """Whether another process would find the folder taken."""
    code = "import sys; from filelock import FileLock; FileLock(sys.argv[1], timeout=0).acquire()"
    command = [sys.executable, "-c", code, str(lock_file(folder, owner))]
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode != 0
