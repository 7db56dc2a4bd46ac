"""A loss over the scales in training, the full size in evaluation."""

import json

import pytest
import torch
import torch.nn.functional as F
from bundle_helpers import BUNDLES, EVALUATE, INFERENCE, ROOT, TRAIN, make_dataset, read, run, takes_prompts
from monai.bundle import ConfigParser
from monai.losses import DiceCELoss

from rep3d import MedNeXt
from rep3d.inferers import AutocastInferer
from rep3d.interactive.loss import CorrectionLoss
from rep3d.training.checkpoints import read_weights

HIPPOCAMPUS = ROOT / "bundles/msd_hippocampus"
OVERLAY = str(ROOT / "configs/networks/mednext_tiny.json")
TINY = {
    "network_def": {
        **json.loads((ROOT / "configs/networks/mednext_tiny.json").read_text())["network_def"],
        "init_filters": 2,
    },
    "patch_size": [32, 32, 32],
}


def loss_of(bundle):
    return ConfigParser(read(bundle, "train")).get_parsed_content("loss")


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_the_loss_of_one_map_is_as_before(bundle):
    """And that of several weighs them by 1, 1/2, 1/4, 1/8 and 1/16, against the label's nearest voxels."""
    logits, label = torch.randn(2, 3, 16, 16, 16), torch.randint(3, (2, 1, 16, 16, 16)).float()
    plain = DiceCELoss(to_onehot_y=True, softmax=True)
    if takes_prompts(bundle):
        logits, label, plain = (
            logits[:, :1],
            (torch.cat([label, label.flip(2)], 1) > 0).float(),
            CorrectionLoss(sigmoid=True),
        )
    assert torch.equal(loss_of(bundle)(logits, label), plain(logits, label))
    maps = [F.avg_pool3d(logits, n) for n in (1, 2, 4, 8, 16)]
    labels = [label, *(F.interpolate(label, scale_factor=1 / n, mode="nearest-exact") for n in (2, 4, 8, 16))]
    expected = sum(plain(y, one) / 2**i for i, (y, one) in enumerate(zip(maps, labels, strict=True)))
    torch.testing.assert_close(loss_of(bundle)(maps, label), expected)


def test_every_head_learns_from_it():
    network, label = MedNeXt(1, 3, init_filters=2, deep_supervision=True), torch.randint(3, (1, 1, 32, 32, 32))
    loss_of(HIPPOCAMPUS)(network(torch.randn(1, 1, 32, 32, 32)), label.float()).backward()
    assert all(head.weight.grad.abs().sum() > 0 for head in network.heads)


@pytest.mark.parametrize("kind", [list, tuple])
def test_each_scale_comes_back_in_float32(kind):
    inferer = AutocastInferer(lambda x, network: network(x), enabled=True)
    outputs = inferer(torch.ones(1, 2), lambda x: kind([x.bfloat16(), torch.arange(3)]))
    assert [y.dtype for y in outputs] == [torch.float32, torch.int64]


@pytest.mark.slow
def test_training_evaluation_and_inference(tmp_path):
    dataset = make_dataset(tmp_path / "data", HIPPOCAMPUS, count=5)
    done = run(HIPPOCAMPUS, [*TRAIN, OVERLAY], dataset, tmp_path, "training", **TINY)
    trainer = done.parser.get_parsed_content("train#trainer")
    assert trainer.state.iteration == 2 and trainer.state.output[0]["loss"] > 0
    weights = read_weights(tmp_path / "models/model.pt")
    assert "heads.4.weight" in weights
    for files in (EVALUATE, INFERENCE):
        run(HIPPOCAMPUS, [*files, OVERLAY], dataset, tmp_path, "evaluating", **TINY)
    assert (tmp_path / "eval/scores.csv").is_file() and list(tmp_path.glob("eval/*_seg.nii.gz"))


@pytest.mark.slow
def test_interactive_training(tmp_path):
    """The simulated user sees the full size."""
    bundle = ROOT / "bundles/interactive"
    dataset = make_dataset(tmp_path / "data", bundle, count=5)
    run(bundle, [*TRAIN, OVERLAY], dataset, tmp_path, "training", **TINY, validation_cases=1)
    assert "heads.4.weight" in read_weights(tmp_path / "models/model.pt")
