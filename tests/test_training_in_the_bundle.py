"""A bundle that ships with weights, in git: trainings in its folder leave the work tree clean, and count."""

import json
import logging
import re
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from bundle_helpers import INFERENCE, ROOT, SHORT, TRAIN, make_dataset, small_bundle, small_network, suffixless

from rep3d.commands.trained import is_trained
from rep3d.console.errors import root_cause
from rep3d.data.lists import load_datalist
from rep3d.data.splits import make_splits
from rep3d.shipping import ship_weights
from rep3d.study.run import BundleRun, run_here
from rep3d.training.checkpoints import read_weights

MODEL = "msd_hippocampus"
EVALUATE = ["train.json", "evaluate.json"]

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder, *words) -> str:
    name = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
    return subprocess.run(["git", *name, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """With two folds."""
    folder = make_dataset(tmp_path_factory.mktemp("data") / "data", ROOT / "bundles" / MODEL, count=6)
    cases = [suffixless(path) for path in (folder / "imagesTr").iterdir()]
    splits = make_splits(cases, {"training": 2, "validation": 2, "test": 2}, folds=2)
    (folder / "splits.json").write_text(json.dumps(splits), encoding="utf-8")
    return folder


@pytest.fixture
def checkout(dataset, tmp_path):
    """A clone of a repository with one small bundle, whose weights give every voxel label 2."""
    bundle = small_bundle(tmp_path / "repository/bundles", MODEL, weights=False)
    network = small_network(bundle)
    with torch.no_grad():
        network.out.conv.conv.bias.copy_(torch.tensor([0.0, 0.0, 1e4]))
    torch.save(network.state_dict(), tmp_path / "trained.pt")
    ship_weights(bundle, tmp_path / "trained.pt")
    shutil.copy(ROOT / ".gitignore", tmp_path / "repository")
    repository = tmp_path / "repository"
    git(repository, "init", "-q")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "all")
    assert "bundles/msd_hippocampus/models/model.pt" in git(repository, "ls-files")
    scan = load_datalist(dataset, "test")[0]["image"]

    def run(run_id, configs, **settings):
        settings = {"dataset_dir": scan if configs == INFERENCE else dataset, **settings}
        return run_here(BundleRun(bundle, run_id, configs, {**(SHORT if configs == TRAIN else {}), **settings}))

    return SimpleNamespace(
        bundle=bundle,
        models=bundle / "models",
        trained=bundle / "models/trained/model.pt",
        shipped=(bundle / "models/model.pt").read_bytes(),
        changes=lambda: git(repository, "status", "--porcelain"),
        run=run,
    )


def labels(workflow) -> list[int]:
    pred = workflow.parser.get_parsed_content("evaluator").state.output[0]["pred"]
    return np.unique(pred.cpu().numpy()).tolist()


@pytest.mark.slow
def test_the_work_tree_stays_clean(checkout):
    """Also for a second training and other folds, and the shipped file stays what it was."""
    checkout.run("training", TRAIN)
    first = checkout.trained.read_bytes()
    checkout.run("training", TRAIN, seed=1)
    assert checkout.trained.read_bytes() != first
    assert [path.read_bytes() for path in checkout.trained.parent.glob("model_*.pt")] == [first]
    checkout.run("evaluating", EVALUATE)
    checkout.run("evaluating", INFERENCE)
    checkout.run("training", TRAIN, fold=1)
    assert (checkout.models / "trained/fold1/model.pt").is_file()
    assert checkout.changes() == ""
    assert (checkout.models / "model.pt").read_bytes() == checkout.shipped


@pytest.mark.slow
def test_inference_takes_own_weights_and_says_so(checkout, caplog):
    caplog.set_level(logging.INFO, "rep3d")
    assert labels(checkout.run("evaluating", INFERENCE)) == [2]
    assert f"weights: {checkout.models / 'model.pt'}, which came with the bundle" in caplog.text
    caplog.clear()
    checkout.run("training", TRAIN)
    assert labels(checkout.run("evaluating", INFERENCE)) != [2]
    assert caplog.messages.count(f"weights: {checkout.trained}") == 1
    assert f"weights: {checkout.trained}\n" in (checkout.bundle / "eval/inference.log").read_text(encoding="utf-8")
    shipped = str(checkout.models / "model.pt")
    assert labels(checkout.run("evaluating", INFERENCE, checkpoint=shipped)) == [2]


@pytest.mark.slow
def test_resume_and_init_from(checkout):
    checkout.run("training", TRAIN, init_from=str(checkout.models / "model.pt"))
    weights = read_weights(checkout.trained)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32, torch.int64}
    assert weights["out.conv.conv.bias"][2] == pytest.approx(1e4, rel=1e-3)  # it went on from the shipped ones
    resumed = checkout.run("training", TRAIN, resume="true", epochs=2)
    assert resumed.parser.get_parsed_content("train#trainer").state.epoch == 2
    assert torch.load(checkout.trained.with_name("last.pt"), weights_only=True)["epoch"] == 2
    assert checkout.changes() == ""


@pytest.mark.parametrize(
    ("run_id", "configs", "settings", "told"),
    [
        ("training", TRAIN, {"ckpt_dir": "models"}, "ckpt_dir is .*models', where model.pt is what the bundle ships"),
        ("training", TRAIN, {"resume": "true"}, "no weights at '.*models/trained/last.pt'"),
        ("evaluating", EVALUATE, {"fold": 1}, "no weights at '.*models/trained/fold1/model.pt'"),
        ("evaluating", INFERENCE, {"ckpt_dir": "elsewhere"}, "no weights at '.*elsewhere/model.pt'"),
    ],
)
def test_what_ships_stands_for_nothing_else(run_id, configs, settings, told, checkout):
    if "ckpt_dir" in settings:
        settings = {"ckpt_dir": str(checkout.bundle / settings["ckpt_dir"])}
    with pytest.raises(Exception) as raised:
        checkout.run(run_id, configs, **settings)
    assert re.search(told, str(root_cause(raised.value)))
    assert checkout.changes() == ""
    assert not list((checkout.bundle / "eval").glob("*.nii.gz"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, None),
        ({"num_workers": 1, "resume": "auto"}, None),
        ({"seed": 3}, "seed 0, now 3"),
        ({"loss#lambda_dice": 0.5}, "loss {"),
        ({"optimizer#_target_": "torch.optim.SGD"}, "optimizer {"),
        ({"train#trainer#amp": True}, "train {"),
        ({"train#trainer#epoch_length": "$None"}, "train {"),
        ({"init_from": "other.pt"}, "init_from null, now"),
    ],
)
def test_what_a_finished_training_was_told(changed, said, checkout, dataset):
    """With `--resume auto` a fold is left as it is where the same would be learned, and nothing else."""
    checkout.run("training", TRAIN)
    told = {name: str(value) for name, value in {**SHORT, "dataset_dir": dataset, **changed}.items()}
    if said is None:
        assert is_trained(checkout.bundle, None, told | {"fold": "0"})
        return
    with pytest.raises(ValueError, match=f"fold 0: .* was trained with {re.escape(said)}"):
        is_trained(checkout.bundle, None, told | {"fold": "0"})
