import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets import mednext as monai_mednext
from torch import nn

from rep3d import MedNeXt
from rep3d.networks.mednext import MedNeXtBlock

# Millions of parameters by size and kernel size, in training, with deep supervision (the paper, and its code's README).
PAPER = {
    ("S", 3): 5.6, ("S", 5): 6.0, ("B", 3): 10.5, ("B", 5): 11.0,
    ("M", 3): 17.6, ("M", 5): 18.3, ("L", 3): 61.8, ("L", 5): 63.0,
}  # fmt: skip


def count(build) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build().parameters())


@pytest.mark.parametrize("classes", [3, 4, 14, 16])
@pytest.mark.parametrize(("size", "kernel_size"), PAPER)
def test_parameter_count(size, kernel_size, classes):
    number = count(lambda: MedNeXt(1, classes, size=size, kernel_size=kernel_size, deep_supervision=True))
    assert round(number / 1e6, 1) == PAPER[size, kernel_size]


@pytest.mark.parametrize("size", ["S", "B"])
def test_monai_s_class_is_another_but_for_s(size):
    """Its down blocks of B have the expansion ratio of the stage before."""
    theirs = count(lambda: monai_mednext.create_mednext(size, out_channels=3))
    assert (theirs == count(lambda: MedNeXt(1, 3, size=size))) == (size == "S")


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("resampling", ["none", "down", "up"])
def test_block_is_made_of_pytorch_s_convolutions(resampling, kernel_size, relative_error):
    block, x = MedNeXtBlock(4, 4 if resampling == "none" else 6, 2, kernel_size, resampling), torch.randn(2, 4, 4, 6, 5)
    for parameter in block.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    conv, padding = block.conv, kernel_size // 2
    if resampling == "up":
        y = F.conv_transpose3d(x, conv.kernel.flip(2, 3, 4), conv.bias, stride=2, padding=padding, groups=4)
    else:
        y = F.conv3d(x, conv.kernel, conv.bias, stride=1 if resampling == "none" else 2, padding=padding, groups=4)
    y = block.project(F.gelu(block.expand(block.norm(y)))) + block.skip(x)
    expected = F.pad(y, (1, 0, 1, 0, 1, 0)) if resampling == "up" else y
    assert relative_error(block(x), expected) < 1e-5


def test_deep_supervision():
    network, x = MedNeXt(1, 3, init_filters=2, deep_supervision=True), torch.randn(2, 1, 32, 64, 32)
    outputs = network(x)
    assert [tuple(y.shape) for y in outputs] == [(2, 3, 32 // n, 64 // n, 32 // n) for n in (1, 2, 4, 8, 16)]
    with torch.no_grad():
        assert torch.equal(network.eval()(x), outputs[0])


def test_without_it_there_is_one_head():
    network = MedNeXt(1, 3, init_filters=2)
    assert network(torch.randn(1, 1, 32, 32, 32)).shape == (1, 3, 32, 32, 32) and len(network.heads) == 1
    weights = MedNeXt(1, 3, init_filters=2, deep_supervision=True).state_dict()
    with pytest.raises(RuntimeError, match="8 in the weights only, such as heads.1.bias"):
        network.load_state_dict(weights)


def test_stages_are_the_papers():
    network = MedNeXt(1, 2, size="M", init_filters=2)
    stages = [*network.encoder, network.bottleneck, *network.decoder]
    assert [len(stage) for stage in stages] == [3, 4, 4, 4, 4, 4, 4, 4, 3]
    blocks = [*network.downs, *network.ups]
    ratios = [block.expand.out_channels // block.expand.in_channels for block in blocks]
    assert ratios == [3, 4, 4, 4, 4, 4, 3, 2]
    assert all(isinstance(block.norm, nn.GroupNorm) for block in blocks)


@pytest.mark.parametrize(
    ("name", "value"), [("size", "XL"), ("kernel_size", 2), ("init_filters", 0), ("init_filters", 2.5)]
)
def test_argument_error_names_argument_and_value(name, value):
    with pytest.raises(ValueError) as raised:
        MedNeXt(1, 3, **{name: value})
    assert str(raised.value).startswith(name) and repr(value) in str(raised.value)
