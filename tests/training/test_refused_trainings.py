"""What is refused leaves a word in the log, and what an earlier training left as it was."""

import subprocess
import sys

import pytest
from bundle_helpers import ROOT, SMALL, TRAIN, bundle_run, make_dataset, run, workflow

from rep3d.console.errors import root_cause

BUNDLE = ROOT / "bundles/msd_hippocampus"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"), BUNDLE, count=5)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".json", ".pt")}


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"resume": True}, "has finished epoch 1 of 1"), ({"init_from": "absent.pt"}, "no weights at 'absent.pt'")],
)
def test_what_an_earlier_training_left_stays(options, reason, dataset, tmp_path):
    run(BUNDLE, TRAIN, dataset, tmp_path, "training")
    before = contents(tmp_path / "models")
    assert before.keys() == {"as_trained.json", "last.pt", "model.pt", "training.status.json"}
    with pytest.raises(Exception) as raised:
        workflow(BUNDLE, TRAIN, dataset, tmp_path, "training", **options)
    assert reason in str(root_cause(raised.value))
    assert contents(tmp_path / "models") == before


@pytest.mark.slow
def test_a_log_is_all_that_is_left(dataset, tmp_path):
    """Of the folder's lock, too, once Python ends."""
    arguments = bundle_run(BUNDLE, TRAIN, dataset, tmp_path, "training", init_from="absent.pt", **SMALL).arguments
    ended = subprocess.run([sys.executable, "-m", "monai.bundle", *arguments], capture_output=True, text=True)
    assert ended.returncode == 1 and "no weights at 'absent.pt'" in ended.stderr.splitlines()[-1]
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["training.log"]
    assert "no weights at 'absent.pt'" in (tmp_path / "models/training.log").read_text(encoding="utf-8")
    assert not list(tmp_path.rglob("*.lock"))
