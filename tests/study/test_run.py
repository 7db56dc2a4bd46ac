import json
import logging
import sys
import time
from pathlib import Path

import pytest

from rep3d.console.logs import RunLog, start_log
from rep3d.console.status import StatusFile
from rep3d.study import run as study
from rep3d.study.run import BundleProcess, BundleRun, RunFailed, run_here, run_process, scratch_folder
from rep3d.training.cpu import SHARED_CORES


@pytest.fixture
def bundle(tmp_path):
    """A bundle that adds two numbers."""
    configs = tmp_path / "bundle/configs"
    configs.mkdir(parents=True)
    (configs / "metadata.json").write_text("{}")
    config = {
        "a": 1,
        "b": 2,
        "initialize": ["$setattr(@seen, 'sum', @a + @b)"],
        "adding": ["$setattr(@seen, 'ran', 1)"],
    }
    (configs / "train.json").write_text(json.dumps({**config, "seen": {"_target_": "types.SimpleNamespace"}}))
    return tmp_path / "bundle"


@pytest.fixture
def python(monkeypatch):
    """What processes run instead of a bundle."""
    return lambda code: monkeypatch.setattr(BundleProcess, "_module", ["-c", code])


RUN = BundleRun("bundle", "training", ["train.json"])


def test_the_command_has_the_files_and_the_overrides(tmp_path):
    overlay = tmp_path / "other.json"
    run = BundleRun(tmp_path, "training", ["train.json", overlay], {"epochs": 2, "network_def#depths": [1, 2]})
    files = [str(tmp_path / "configs/train.json"), str(overlay)]
    bundle = ["--bundle_root", str(tmp_path), "--epochs", "2", "--network_def#depths", "[1, 2]"]
    assert run.arguments == ["run", "training", "--config_file", str(files), *bundle]


def test_a_run_in_this_process(bundle, tmp_path):
    overlay = tmp_path / "overlay.json"
    overlay.write_text('{"b": 5}')
    hook, path = sys.excepthook, sys.path.copy()
    workflow = run_here(BundleRun(bundle, "adding", ["train.json", overlay], {"a": 3}))
    seen = workflow.parser.get_parsed_content("seen")
    assert (seen.sum, seen.ran) == (8, 1)
    assert sys.excepthook is hook and sys.path == path


def test_the_log_of_a_run_ends_with_its_folder():
    with scratch_folder() as folder:
        start_log(folder, "training.log")
        assert any(isinstance(handler, RunLog) for handler in logging.getLogger().handlers)
    assert not Path(folder).exists()
    logging.getLogger().warning("said afterwards")
    assert not any(isinstance(handler, RunLog) for handler in logging.getLogger().handlers)


def test_what_a_process_prints_goes_to_its_log(python, tmp_path):
    log = tmp_path / "run.log"
    log.write_text("before\n")
    python(
        "import os, sys; print('x', file=sys.stderr)\n"
        "print(*map(os.environ.get, ['OMP_NUM_THREADS', 'GOMP_SPINCOUNT']))"
    )
    process = BundleProcess(RUN, log=log, threads=3)
    process.finish()
    assert log.read_text().split() == ["before", "x", "3", SHARED_CORES["GOMP_SPINCOUNT"]]
    assert not process.running()


def test_the_reason_of_a_failure(python, tmp_path):
    """As the run told it; where it was killed without a word, the last line that it printed."""
    log, status = tmp_path / "run.log", tmp_path / "status.json"
    StatusFile(status).end("failed", "of an earlier run")
    python("import os; print('step 7'); os.kill(os.getpid(), 9)")
    with pytest.raises(RunFailed, match="^training failed: step 7$"):
        BundleProcess(RUN, log=log, status=status).finish()
    StatusFile(status).end("failed", "ValueError: no data")
    python(f"import sys; open({str(status)!r}, 'w').write({status.read_text()!r}); sys.exit('something')")
    with pytest.raises(RunFailed, match="^training failed: ValueError: no data$"):
        BundleProcess(RUN, log=log, status=status).finish()


def test_a_process_that_says_nothing(python, tmp_path):
    python("raise SystemExit(3)")
    with pytest.raises(RunFailed, match="it printed nothing"):
        BundleProcess(RUN, log=tmp_path / "run.log").finish()
    with pytest.raises(RunFailed, match="^training failed, see above$"):
        run_process(RUN)


@pytest.mark.slow
@pytest.mark.parametrize("stubborn", [False, True])
def test_a_process_is_stopped(python, tmp_path, monkeypatch, stubborn):
    monkeypatch.setattr(study, "STOP_SECONDS", 1)
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)" if stubborn else ""
    python(f"import signal, time; {ignore}\nprint('here'); time.sleep(60)")
    log = tmp_path / "run.log"
    process = BundleProcess(RUN, log=log)
    while "here" not in log.read_text():
        time.sleep(0.01)
    process.stop()
    assert not process.running()
    with pytest.raises(RunFailed):
        process.finish()
