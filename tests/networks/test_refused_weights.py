"""Weights that are not finite, or of another network, through every door that loads them into a `Rep3D`."""

import logging
import math
import re

import pytest
import torch
from ignite.engine import Engine
from ignite.handlers import Checkpoint
from monai.handlers import CheckpointLoader
from torch import nn

from rep3d import reparameterize
from rep3d.networks.weights import NonFiniteWeights


@pytest.fixture
def spoilt(tiny_rep3d):
    """A checkpoint with one value of one tensor, of a block or elsewhere, that is not finite."""

    def spoil(name: str, value: float = math.nan, deployed: bool = False) -> dict[str, torch.Tensor]:
        network = reparameterize(tiny_rep3d()) if deployed else tiny_rep3d()
        state_dict = {key: tensor.clone() for key, tensor in network.state_dict().items()}
        state_dict[name].view(-1)[0] = value
        return state_dict

    return spoil


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("deploy", [False, True])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    "name", ["encoder.stages.0.0.weight", "encoder.stages.1.0.norm.running_var", "out.conv.conv.bias"]
)
def test_weights_that_are_not_finite_do_not_load(name, value, deploy, strict, spoilt, tiny_rep3d):
    network = tiny_rep3d(deploy=deploy)
    with pytest.raises(NonFiniteWeights, match=re.escape(f"Rep3D: 1 tensor(s) hold NaN or infinite values: {name}; ")):
        network.load_state_dict(spoilt(name, value), strict=strict)


@pytest.mark.parametrize(
    "name", ["encoder.stages.0.0.kernel", "encoder.stages.0.0.bias", "last.layer.conv1.conv.weight"]
)
def test_nor_do_deployed_ones(name, spoilt, tiny_rep3d):
    with pytest.raises(NonFiniteWeights, match=re.escape(name)):
        tiny_rep3d(deploy=True).load_state_dict(spoilt(name, deployed=True))


def test_nor_inside_of_a_module(spoilt, tiny_rep3d):
    weights = {f"module.{name}": tensor for name, tensor in spoilt("out.conv.conv.bias").items()}
    with pytest.raises(NonFiniteWeights, match=re.escape("module.out.conv.conv.bias")):
        nn.ModuleDict({"module": tiny_rep3d(deploy=True)}).load_state_dict(weights)


@pytest.mark.parametrize("deploy", [False, True])
def test_nor_through_monai_s_loader(deploy, spoilt, tiny_rep3d, tmp_path):
    torch.save(spoilt("encoder.stages.0.0.weight"), tmp_path / "model.pt")
    loader = CheckpointLoader(str(tmp_path / "model.pt"), {"model": tiny_rep3d(deploy=deploy)}, strict=False)
    loader.logger = logging.getLogger(__name__)
    with pytest.raises(NonFiniteWeights, match=r"encoder\.stages\.0\.0\.weight"):
        loader(Engine(lambda engine, batch: None))


@pytest.mark.parametrize("form", ["reparameterize", "load"])
def test_finite_numbers_that_fold_into_one_too_large(form, tiny_rep3d):
    network = tiny_rep3d(modulation="none")
    with torch.no_grad():
        network.encoder.stages[0][0].weight.fill_(1e30)
        network.encoder.stages[0][0].norm.weight.fill_(1e30)
    with pytest.raises(NonFiniteWeights, match="folded block of Rep3D: 1 tensor.*: kernel;"):
        if form == "reparameterize":
            reparameterize(network)
        else:
            tiny_rep3d(modulation="none", deploy=True).load_state_dict(network.state_dict())


def test_export_by_monai(spoilt, tiny_rep3d, tmp_path):
    """`python -m monai.bundle ckpt_export` and `onnx_export` load so."""
    torch.save(spoilt("out.conv.conv.bias"), tmp_path / "model.pt")
    with pytest.raises(NonFiniteWeights, match=re.escape("out.conv.conv.bias")):
        Checkpoint.load_objects(to_load={"": tiny_rep3d()}, checkpoint=str(tmp_path / "model.pt"))
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "other.pt")
    with pytest.raises(RuntimeError) as raised:
        Checkpoint.load_objects(to_load={"": tiny_rep3d()}, checkpoint=str(tmp_path / "other.pt"))
    message = str(raised.value)
    assert message.startswith("the state_dict is of another network: numbers in all 9 in the weights, ")
    assert "\n" not in message


def test_a_whole_checkpoint_is_no_state_dict(tiny_rep3d):
    """As of `ckpt_export --ckpt_file models/last.pt` without `--key_in_ckpt network`."""
    content = {"network": tiny_rep3d().state_dict(), "epoch": 3}
    with pytest.raises(RuntimeError, match="^the state_dict holds entries that are no tensors, such as 'network'; "):
        tiny_rep3d().load_state_dict(content)


def test_a_load_that_fails_for_another_reason_says_which(tiny_rep3d):
    weights = tiny_rep3d().state_dict()
    with torch.inference_mode():
        network = tiny_rep3d()
    with pytest.raises(RuntimeError, match="[Ii]nference"):
        network.load_state_dict(weights)


def test_no_image_at_all(tiny_rep3d):
    with pytest.raises(ValueError, match="x must have the shape"):
        tiny_rep3d()(torch.zeros(0, 1, 32, 32, 32))
