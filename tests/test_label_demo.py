"""What `make label-demo` serves, and that its server ends with it."""

import multiprocessing
import os
import signal
import sys
import time

import label_demo
import pytest
from bundle_helpers import ROOT, small_bundle

from rep3d.locks import FolderLocks

MODEL = "msd_hippocampus"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A bundle that ships with weights, and where the demo leaves its own; the label demo works in `out`."""
    bundle = small_bundle(tmp_path / "bundles", MODEL, weights=False)
    (bundle / "models").mkdir()
    (bundle / "models/model.pt").write_bytes(b"shipped")
    monkeypatch.setattr(label_demo, "BUNDLE", bundle)
    monkeypatch.setattr(label_demo, "DEMO_WEIGHTS", tmp_path / "demo.pt")
    return tmp_path


def put(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def served(place) -> tuple[bytes, str]:
    """What a label demo serves where nothing was retrained, and what it says."""
    copy = place / "out/bundles" / MODEL
    said = label_demo.install(label_demo.BUNDLE, copy)
    return (copy / "models/model.pt").read_bytes(), said


def test_without_any_training_what_ships_serves(place):
    assert served(place) == (b"shipped", place / "bundles" / MODEL / "models/model.pt")


def test_a_newer_choice_replaces_the_older_copy(place):
    served(place)
    demo = put(place / "demo.pt", b"demo")
    assert served(place) == (b"demo", demo)
    put(demo, b"second demo")
    assert served(place) == (b"second demo", demo)
    trained = put(place / "bundles" / MODEL / "models/trained/model.pt", b"trained")
    assert served(place) == (b"trained", trained)
    trained.unlink()
    demo.unlink()
    assert served(place)[0] == b"shipped"
    assert (place / "bundles" / MODEL / "models/model.pt").read_bytes() == b"shipped"


def test_what_was_retrained_in_the_demo_goes_on(place):
    served(place)
    retrained = put(place / "out/bundles" / MODEL / "models/trained/model.pt", b"retrained")
    put(place / "demo.pt", b"demo")
    assert served(place)[1] == retrained
    assert retrained.read_bytes() == b"retrained"


def test_changed_configs_reach_the_copy(place):
    served(place)
    config = place / "bundles" / MODEL / "configs/inference.json"
    config.write_text("{}", encoding="utf-8")
    served(place)
    assert (place / "out/bundles" / MODEL / "configs/inference.json").read_text(encoding="utf-8") == "{}"


def test_a_running_server_keeps_its_weights(place, capfd):
    served(place)
    locks = FolderLocks([place / "out/bundles" / MODEL / "models"], "server")
    put(place / "demo.pt", b"demo")
    child = multiprocessing.get_context("fork").Process(target=served, args=(place,))
    child.start()
    child.join()
    locks.release()
    assert child.exitcode == 1 and "another server works on" in capfd.readouterr().err
    assert (place / "out/bundles" / MODEL / "models/model.pt").read_bytes() == b"shipped"


def test_no_weights_at_all(place):
    (place / "bundles" / MODEL / "models/model.pt").unlink()
    with pytest.raises(SystemExit, match="there are no weights: .*models/model.pt is missing"):
        served(place)


def test_it_says_what_it_serves(place, monkeypatch, capsys):
    commands = []
    monkeypatch.setattr(label_demo, "serve", lambda command: commands.append(command) or 0)
    with pytest.raises(SystemExit) as end:
        label_demo.main(output=str(place / "out"), port=8123)
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert f"serving {place / 'bundles' / MODEL / 'models/model.pt'}\n" in printed and "127.0.0.1:8123" in printed
    clicks = ROOT / "bundles/interactive/models/model.pt"
    assert f"serving {clicks}\n" in printed
    assert (place / "out/bundles/interactive/models/model.pt").read_bytes() == clicks.read_bytes()
    ((_, *words),) = commands
    assert words[:5] == ["-m", "monailabel_app", "start_server", "--studies", str(place / "out/studies")]
    scans = {path.name for path in (place / "out/studies").iterdir()}
    assert "hippocampus_148.nii.gz" in scans and len(scans) == 1 + label_demo.PHANTOMS
    notice = (ROOT / "tests/fixtures/hippocampus/NOTICE").read_text(encoding="utf-8")
    assert "CC BY-SA 4.0" in notice and "hippocampus_148.nii.gz" in notice


SERVER = """
import os, sys, time
with open(sys.argv[1] + ".new", "w") as file:
    file.write(str(os.getpid()))
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(60)
"""


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, 1)], ids=["SIGTERM", "SIGINT"]
)
@pytest.mark.slow
def test_the_server_ends_with_it(number, status, tmp_path):
    """Where only this process is told, as by `kill` or a service manager."""
    file = tmp_path / "pid"
    command = [sys.executable, "-c", SERVER, str(file)]

    def serve():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job ignores
        label_demo.serve(command)

    demo = multiprocessing.get_context("fork").Process(target=serve)
    demo.start()
    deadline = time.monotonic() + 20
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    server = int(file.read_text())
    os.kill(demo.pid, number)
    demo.join(20)
    assert demo.exitcode == status
    while runs(server) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not runs(server)


def test_the_server_s_status_is_passed_on():
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert label_demo.serve([sys.executable, "-c", "raise SystemExit(3)"]) == 3
    finally:
        signal.signal(signal.SIGTERM, before)
