import json

import pytest
import torch
import torch.nn.functional as F
from bundle_helpers import ROOT

from rep3d import Rep3D, UXNet
from rep3d.networks.lrbm import LRBM
from rep3d.networks.uxnet import UXBlock

# Millions of parameters by kernel size (Table 4).
PAPER = {
    3: 52.55, 5: 52.69, 7: 53.01, 9: 53.56, 11: 54.43, 13: 55.68, 15: 57.37, 17: 59.59, 19: 62.39, 21: 65.85
}  # fmt: skip


def millions(build) -> float:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build().parameters()) / 1e6


@pytest.mark.parametrize("kernel_size", PAPER)
@pytest.mark.parametrize("classes", [3, 16])
def test_parameter_count(classes, kernel_size):
    assert round(millions(lambda: UXNet(1, classes, kernel_size=kernel_size)), 2) == PAPER[kernel_size]


def test_parameter_count_with_masks():
    assert round(millions(lambda: UXNet(1, 16, modulation="lrbm")), 2) == 54.0
    assert millions(lambda: UXNet(1, 16, modulation="fixed")) == millions(lambda: UXNet(1, 16))


def test_parameter_count_of_repuxnet():
    repuxnet = json.loads((ROOT / "configs/networks/repuxnet.json").read_text())["network_def"]
    arguments = {name: value for name, value in repuxnet.items() if name[0] not in "_" and name[-8:] != "channels"}
    assert round(millions(lambda: Rep3D(1, 16, **arguments)), 2) == 65.83


@pytest.mark.parametrize("modulation", ["none", "fixed", "lrbm"])
def test_block_is_its_equation(modulation, relative_error):
    block, x = UXBlock(3, 5, modulation), torch.randn(2, 3, 6, 7, 8)
    for parameter in block.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    conv = block.conv
    kernel = conv.kernel if modulation == "none" else conv.weight * conv.mask()[:, None]
    y = F.conv3d(x, kernel, conv.bias, padding=2, groups=3)
    mean, variance = y.mean(1, keepdim=True), y.var(1, keepdim=True, unbiased=False)
    y = (y - mean) / (variance + 1e-6).sqrt()
    y = y * block.norm.weight.view(3, 1, 1, 1) + block.norm.bias.view(3, 1, 1, 1)
    for i in range(3):
        z = torch.zeros_like(y[:, i])
        for j in range(4 * i, 4 * i + 4):
            hidden = F.gelu(block.expand.weight[j, 0] * y[:, i] + block.expand.bias[j])
            z = z + block.project.weight[i, j - 4 * i] * hidden
        expected = x[:, i] + block.scale[i] * (z + block.project.bias[i])
        assert relative_error(block(x)[:, i], expected) < 1e-4


def test_it_starts_near_the_identity():
    x = torch.randn(1, 3, 6, 7, 8)
    assert 0 < (UXBlock(3)(x) - x).abs().max() < 1e-5


def test_the_mask_is_the_papers():
    masks = [m for m in UXNet(1, 2, feature_size=(2, 2, 2, 2), modulation="lrbm").modules() if isinstance(m, LRBM)]
    assert len(masks) == 8 and all(mask.convs[0].weight.shape == (2, 1, 7, 7, 7) for mask in masks)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("modulation", "csla"),
        ("kernel_size", 4),
        ("kernel_size", 33),
        ("kernel_size", 7.0),
        ("feature_size", (4, 8, 8)),
    ],
)
def test_argument_error_names_argument_and_value(name, value):
    with pytest.raises(ValueError) as raised:
        UXNet(1, 3, **{name: value})
    assert str(raised.value).startswith(name) and repr(value) in str(raised.value)
