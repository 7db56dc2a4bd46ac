"""Every block refuses what it cannot be built from, alone as in a network."""

import numpy as np
import pytest
import torch
from torch import nn

from rep3d.networks.lrbm import LRBM, FixedMask
from rep3d.networks.rep3d import DeployedRep3DBlock, Rep3DBlock, Rep3DEncoder
from rep3d.networks.unetr_decoder import UnetrDecoderNetwork

WRONG_BLOCKS = [
    ("block_order", "norm-first"),
    ("block_order", None),
    ("modulation", "gated"),
    ("modulation", ["lrbm"]),
    ("kernel_size", 4),
    ("kernel_size", 5.0),
    ("kernel_size", (5, 5, 5)),
    ("kernel_size", 33),
    ("generator_kernel_size", 2),
    ("generator_kernel_size", "7"),
    ("generator_depth", 0),
    ("generator_depth", 4),
    ("channels", 0),
    ("channels", 4.0),
]


def assert_refused(build, name, value):
    with pytest.raises(ValueError) as error:
        build()
    assert str(error.value).startswith(f"{name} must be ")
    assert str(error.value).endswith(f", got {value!r}")


@pytest.mark.parametrize("name, value", WRONG_BLOCKS)
@pytest.mark.parametrize("block", [Rep3DBlock, DeployedRep3DBlock])
def test_blocks(block, name, value):
    assert_refused(lambda: block(**{"channels": 2, "kernel_size": 5, name: value}), name, value)


@pytest.mark.parametrize("name, value", [case for case in WRONG_BLOCKS if "generator" in case[0]])
def test_generator_that_the_modulation_does_not_use(name, value):
    assert_refused(lambda: Rep3DBlock(2, 5, "fixed", **{name: value}), name, value)


@pytest.mark.parametrize(
    "name, value",
    [("kernel_size", 4), ("kernel_size", 0), ("channels", -1), ("generator_kernel_size", 6), ("generator_depth", -1)],
)
def test_masks(name, value):
    assert_refused(lambda: LRBM(**{"channels": 2, "kernel_size": 5, name: value}), name, value)
    if name == "kernel_size":
        assert_refused(lambda: FixedMask(value), name, value)


@pytest.mark.parametrize("value", [(4, 8, 8), (4, 8, 0, 8), (4, 8, 8, 8.0), 4, "4888"])
def test_stages(value):
    arguments = {"in_channels": 1, "feature_size": (2, 2, 2, 2), "depths": (1, 1, 1, 1)}
    for name in ("feature_size", "depths"):
        assert_refused(lambda n=name: Rep3DEncoder(**{**arguments, n: value}, block=Rep3DBlock), name, value)


@pytest.mark.parametrize(
    "name, value",
    [("in_channels", 0), ("out_channels", 0), ("hidden_size", -8), ("hidden_size", "8"), ("feature_size", (1, 2, 3))],
)
def test_decoder(name, value):
    arguments = {
        "in_channels": 1,
        "out_channels": 3,
        "feature_size": (2, 2, 2, 2),
        "hidden_size": 4,
        "norm_name": "instance",
    }
    assert_refused(lambda: UnetrDecoderNetwork(nn.Identity(), **{**arguments, name: value}), name, value)


def test_numbers_of_numpy_are_numbers():
    block = Rep3DBlock(np.int64(2), np.int64(5))
    assert block.deployed()(torch.zeros(1, 2, 6, 6, 6)).shape == (1, 2, 6, 6, 6)
