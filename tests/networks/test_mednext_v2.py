"""MedNeXt-v2; tests/networks/test_released.py compares it with the authors' earlier code."""

import pytest
import torch

from rep3d import MedNeXtV2
from rep3d.networks.mednext import MedNeXtBlock
from rep3d.networks.mednext_v2 import GlobalResponseNorm


@pytest.mark.parametrize(("init_filters", "millions"), [(32, 62), (64, 247)])
def test_parameter_count(init_filters, millions):
    with torch.device("meta"):
        network = MedNeXtV2(1, 3, init_filters=init_filters)
    assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6) == millions


def test_every_block_has_its_normalization():
    with torch.device("meta"):
        blocks = [module for module in MedNeXtV2(1, 3).modules() if isinstance(module, MedNeXtBlock)]
    assert len(blocks) == 54 + 8
    for block in blocks:
        assert isinstance(block.response, GlobalResponseNorm) and block.conv.kernel.shape[-1] == 3
        assert block.response.gamma.numel() == block.expand.out_channels


def test_it_starts_without():
    network = MedNeXtV2(1, 3, size="S", init_filters=2)
    assert not any(parameter.any() for name, parameter in network.named_parameters() if "response" in name)
