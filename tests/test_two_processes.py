"""Bundles on two CPU processes over gloo, which stand for GPUs over NCCL."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from bundle_helpers import ROOT, SHORT, SMALL, TRAINED, free_port, make_dataset, options, page_commands, small_network
from programs import start

from rep3d.data.lists import load_datalist
from rep3d.evaluation.scores import read_scores
from rep3d.training.checkpoints import read_weights

BUNDLE = ROOT / "bundles/msd_hippocampus"
PROGRAM = [sys.executable, "-m", "monai.bundle"]
ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
UNET = {  # without BatchNorm, whose statistics are those of a process
    "network_def": {
        "_target_": "BasicUNet",
        "in_channels": "@in_channels",
        "out_channels": "@out_channels",
        "features": [4, 4, 4, 4, 4, 4],
    }
}
CENTRE = {"_target_": "ResizeWithPadOrCropd", "keys": "@keys", "spatial_size": "@patch_size"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Two of them validate, one per process, which need different numbers of windows."""
    return make_dataset(tmp_path_factory.mktemp("data"), BUNDLE, count=15)


def command(program, processes, run_id, dataset, folder, overlay=None, **settings):
    files = {"training": ["train.json"], "evaluating": ["train.json", "evaluate.json"]}[run_id]
    settings = {**SMALL, **settings}
    if processes == 2:
        files = [*files, {"training": "multi_gpu_train.json", "evaluating": "multi_gpu_evaluate.json"}[run_id]]
        del settings["device"]
    names = [str(BUNDLE / "configs" / name) for name in files]
    if overlay:
        names.append(str(overlay))
        settings = {name: value for name, value in settings.items() if not name.startswith("network_def")}
    paths = {
        "dataset_dir": dataset,
        "bundle_root": BUNDLE,
        "output_dir": folder / "eval",
        "ckpt_dir": folder / "models",
    }
    return [*program, "run", run_id, "--config_file", str(names), *options(**{**paths, **settings})]


def execute(processes, run_id, dataset, folder, overlay=None, **settings):
    """Run in as many processes, told what `torchrun` tells them, and return what each printed."""
    words = command(PROGRAM, processes, run_id, dataset, folder, overlay, **settings)
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(processes)}
    folder.mkdir(exist_ok=True)
    outputs = [folder / f"{run_id}_{rank}.txt" for rank in range(processes)]
    running = []
    for rank, output in enumerate(outputs):
        environment = {**ENVIRONMENT, **world, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        running.append(start(words, cwd=ROOT, environment=environment, output=output))
    statuses = [program.wait(600) for program in running]
    printed = [output.read_text(encoding="utf-8") for output in outputs]
    assert not any(statuses), printed
    return printed


def test_same_training_as_one_process_with_the_joined_batch(dataset, tmp_path):
    overlay = tmp_path / "unet.json"
    overlay.write_text(json.dumps(UNET), encoding="utf-8")
    pairs = load_datalist(dataset, "training")[:2]
    same = {
        **SHORT,
        "epochs": 3,
        "train#trainer#epoch_length": 1,
        "train#random_transforms": json.dumps([CENTRE]),
        "train#inferer#enabled": False,
        "optimizer#_target_": "torch.optim.SGD",  # Adam would turn the rounding of zero gradients into steps
        "learning_rate": 0.1,
        "train#dataset#data": json.dumps(pairs),
    }
    weights = []
    for processes, batch in ((1, 2), (2, 1)):
        folder = tmp_path / str(processes)
        execute(processes, "training", dataset, folder, overlay, batch_size=batch, **same)
        weights.append(torch.load(folder / "models/last.pt", weights_only=True)["network"])
    one, two = weights
    assert not any(name.startswith("module.") for name in two)
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-5)


def test_what_only_one_process_does(dataset, tmp_path):
    """It writes the logs and tells the progress."""
    first, other = execute(2, "training", dataset, tmp_path, **SHORT)
    writers = {path.name.split(".")[-2] for path in (tmp_path / "eval/tensorboard").iterdir()}  # process ids
    assert len(writers) == 1
    assert "epoch 1/1, step 2/2" in first and "epoch 1/1, step 2/2" not in other
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == TRAINED
    assert read_weights(tmp_path / "models/model.pt").keys() == small_network(BUNDLE).state_dict().keys()


def test_fewer_cases_a_process_than_a_batch_train_all_the_same(dataset, tmp_path):
    pairs = load_datalist(dataset, "training")[:2]
    settings = {name: value for name, value in SHORT.items() if name != "train#trainer#epoch_length"}
    settings |= {"batch_size": 2, "train#dataset#data": json.dumps(pairs)}
    first, _ = execute(2, "training", dataset, tmp_path, **settings)
    assert "epoch 1/1, step 1/1" in first and (tmp_path / "models/model.pt").is_file()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the workers in /proc")
def test_the_pages_command_resumes_after_a_worker_was_killed(dataset, tmp_path):
    """With `torchrun` itself, whose processes also end as Python ends."""
    _, *words = page_commands(ROOT / "docs/bundles.md", "torchrun")[0]
    words = [str(dataset) if word == "DIR" else word for word in words]
    settings = {**SMALL, **SHORT, "epochs": 3, "train#trainer#epoch_length": 4}
    del settings["device"]
    settings |= {"output_dir": tmp_path / "eval", "ckpt_dir": tmp_path / "models"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", *words, *options(**settings)]
    quiet = {"cwd": BUNDLE, "env": ENVIRONMENT, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(torchrun, **quiet)
    last = tmp_path / "models/last.pt"
    end = time.monotonic() + 120
    while not last.is_file():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    assert process.wait(timeout=120) != 0
    assert 1 <= torch.load(last, weights_only=True)["epoch"] < 3
    assert subprocess.run([*torchrun, "--resume", "true"], **quiet, timeout=300, check=False).returncode == 0
    content = torch.load(last, weights_only=True)
    assert content["epoch"] == 3
    assert all(tensor.isfinite().all() for tensor in content["network"].values())
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == TRAINED
    assert read_weights(tmp_path / "models/model.pt").keys() == small_network(BUNDLE).state_dict().keys()


def test_same_evaluation_as_one_process(dataset, tmp_path):
    (tmp_path / "models").mkdir()
    torch.manual_seed(0)
    torch.save(small_network(BUNDLE).state_dict(), tmp_path / "models/model.pt")
    scores, printed = [], []
    cases = json.dumps(load_datalist(dataset, "training")[:3])  # an odd number: one process has more
    for processes, folder in ((1, tmp_path / "one"), (2, tmp_path / "two")):
        settings = {"ckpt_dir": tmp_path / "models", "validate#dataset#data": cases}
        printed.append(execute(processes, "evaluating", dataset, folder, **settings)[0])
        scores.append(read_scores(folder / "eval"))
    one, two = scores
    assert list(one) == list(two) and len(one) == 3
    for case in one:
        for label in one[case]:
            assert two[case][label] == pytest.approx(one[case][label], rel=1e-4, nan_ok=True)
    told = [re.findall(r"mean Dice [\d.]+ over 3 case\(s\)", one) for one in printed]
    assert len(told[0]) == 1 and told[0] == told[1]
