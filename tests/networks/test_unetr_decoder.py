import pytest
import torch
import torch.nn.functional as F
from monai.networks.blocks.unetr_block import UnetrBasicBlock, UnetrUpBlock
from torch import nn

from rep3d import reparameterize
from rep3d.networks.unetr_decoder import BasicBlock, UnetrDecoderNetwork, UpBlock

CONVOLUTION = {"kernel_size": 3, "res_block": True}


class Pyramid(nn.Module):
    """An encoder without parameters: the image, made smaller, in as many channels as are asked for."""

    def __init__(self, channels):
        super().__init__()
        self.channels: list[int] = channels

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        maps: list[torch.Tensor] = []
        for channels in self.channels:
            x = F.avg_pool3d(x, 2)
            maps.append(x.repeat(1, channels, 1, 1, 1))
        return maps


@pytest.mark.parametrize("norm_name", ["instance", "batch", ("group", {"num_groups": 2})], ids=str)
@pytest.mark.parametrize("use_checkpoint", [False, True])
def test_blocks_agree_with_monai(use_checkpoint, norm_name, relative_error):
    x, skip = torch.randn(2, 6, 4, 4, 4), torch.randn(2, 4, 8, 8, 8)
    theirs = UnetrBasicBlock(3, 6, 4, stride=1, norm_name=norm_name, **CONVOLUTION)
    ours = BasicBlock(6, 4, norm_name)
    theirs_up = UnetrUpBlock(3, 6, 4, upsample_kernel_size=2, norm_name=norm_name, **CONVOLUTION)
    ours_up = UpBlock(6, 4, norm_name)
    ours.use_checkpoint = ours_up.use_checkpoint = use_checkpoint
    ours.load_state_dict(theirs.state_dict())
    ours_up.load_state_dict(theirs_up.state_dict())
    assert relative_error(ours(x), theirs(x)) < 1e-5
    assert relative_error(ours_up(x, skip), theirs_up(x, skip)) < 1e-5


def test_any_encoder_of_four_stages(relative_error):
    network = UnetrDecoderNetwork(Pyramid([2, 3, 4, 5]), 1, 3, (2, 3, 4, 5), 6, "instance").eval()
    x = torch.randn(2, 1, 32, 16, 48)
    assert network(x).shape == (2, 3, 32, 16, 48)
    assert network.encoder_features(x).shape == (2, 5, 2, 1, 3)
    with torch.no_grad():
        assert relative_error(torch.jit.script(network)(x), network(x)) < 1e-5
        assert torch.equal(reparameterize(network)(x), network(x))


def test_scripting_leaves_the_network(tiny_rep3d):
    network = tiny_rep3d(use_checkpoint=True)
    modules = [type(module) for module in network.modules()]
    torch.jit.script(network)
    assert [type(module) for module in network.modules()] == modules
    assert network.bottom.use_checkpoint
