"""The depthwise convolutions as modules: what PyTorch's own give, and the mask on the kernel of the one that has it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rep3d.networks.depthwise import DepthwiseConv3d, MaskedDepthwiseConv3d
from rep3d.networks.lrbm import LRBM, FixedMask

SAMPLED = {
    "none": lambda x, conv: F.conv3d(x, conv.kernel, conv.bias, padding=2, groups=3),
    "down": lambda x, conv: F.conv3d(x, conv.kernel, conv.bias, stride=2, padding=2, groups=3),
    "up": lambda x, conv: F.conv_transpose3d(x, conv.kernel.flip(2, 3, 4), conv.bias, stride=2, padding=2, groups=3),
}


@pytest.mark.parametrize("resampling", SAMPLED)
def test_resampling(resampling, relative_error):
    conv, x = DepthwiseConv3d(3, 5, resampling).double(), torch.randn(2, 3, 5, 4, 7, dtype=torch.float64)
    assert relative_error(conv(x), SAMPLED[resampling](x, conv)) < 1e-12
    deployed = conv.deployed()
    assert deployed.is_deployed() and not conv.is_deployed() and deployed.kernel is not conv.kernel
    with torch.no_grad():
        for size in (7, 6, 7):
            assert relative_error(deployed(x[..., :size]), SAMPLED[resampling](x[..., :size], conv)) < 1e-12
    assert conv.large_kernels() == {"kernel"}


@pytest.mark.parametrize(
    "arguments, wrong",
    [((0, 3), "channels"), ((2, 4), "kernel_size"), ((2, 33), "kernel_size"), ((2, 3, "double"), "resampling")],
)
def test_arguments(arguments, wrong):
    with pytest.raises(ValueError, match=f"^{wrong} "):
        DepthwiseConv3d(*arguments)


@pytest.mark.parametrize("mask", [FixedMask(5), LRBM(3, 5)], ids=["fixed", "lrbm"])
def test_masked_kernel(mask, relative_error):
    for parameter in mask.parameters():
        torch.nn.init.normal_(parameter)
    conv, x = MaskedDepthwiseConv3d(3, 5, mask).double().eval(), torch.randn(2, 3, 5, 4, 7, dtype=torch.float64)
    expected = F.conv3d(x, conv.weight * conv.mask().unsqueeze(1), conv.bias, padding=2, groups=3)
    assert relative_error(conv(x), expected) < 1e-12
    deployed = conv.deployed()
    assert type(deployed) is DepthwiseConv3d and deployed.kernel.dtype == torch.float64 and not deployed.training
    assert deployed.is_deployed()
    assert relative_error(deployed(x), expected) < 1e-12
    assert conv.large_kernels() == {"weight"}


def test_the_mask_stays_float32_under_autocast():
    mask = LRBM(3, 5)
    for parameter in mask.parameters():
        torch.nn.init.normal_(parameter)
    conv = MaskedDepthwiseConv3d(3, 5, mask)
    expected = conv.weight * mask().unsqueeze(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(conv.effective_kernel(), expected)
        assert conv(torch.randn(1, 3, 4, 4, 4)).dtype == torch.bfloat16


def test_loading():
    source, target = (nn.Sequential(MaskedDepthwiseConv3d(3, 5, LRBM(3, 5))) for _ in range(2))
    target.load_state_dict(source.state_dict())
    assert torch.equal(target[0].effective_kernel(), source[0].effective_kernel())
    assert target.load_state_dict({"0.weight": source[0].weight, "other": source[0].bias}, strict=False) == (
        ["0.bias", "0.mask.log_beta", "0.mask.convs.0.weight", "0.mask.convs.1.weight"]
        + [f"0.mask.norms.{i}.{name}" for i in range(2) for name in ("weight", "bias")],
        ["other"],
    )
    with pytest.raises(RuntimeError, match="0.kernel is the folded kernel of a deployed network"):
        target.load_state_dict(nn.Sequential(source[0].deployed()).state_dict(), strict=False)
    with pytest.raises(RuntimeError, match="size mismatch for 0.bias"):
        target.load_state_dict({"0.bias": torch.zeros(4)}, strict=False)
