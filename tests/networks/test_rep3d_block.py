"""One block of Rep3D and its folded form, to the last digits."""

import pytest
import torch
from torch import nn

from rep3d import Rep3D
from rep3d.networks.rep3d import BLOCK_ORDERS, MODULATIONS, ChannelNorm, DeployedRep3DBlock, Rep3DBlock

PAPER = {
    "kernel_size": 21,
    "modulation": "lrbm",
    "generator_kernel_size": 7,
    "generator_depth": 2,
    "block_order": "conv-norm-act",
    "conv_bias": False,
}


def changed(**arguments):
    """A block in float64 whose parameters and statistics are far from where they start."""
    block = Rep3DBlock(2, 5, **arguments).double()
    for name, tensor in block.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        tensor.copy_(
            torch.rand_like(tensor) + 0.5 if name.endswith(("running_var", "log_beta")) else torch.randn_like(tensor)
        )
    block.norm.running_var.mul_(1e-4)  # so that its epsilon counts
    return block


@pytest.mark.parametrize("conv_bias", [False, True])
@pytest.mark.parametrize("block_order", BLOCK_ORDERS)
@pytest.mark.parametrize("modulation", MODULATIONS)
def test_folding(modulation, block_order, conv_bias, relative_error):
    block = changed(modulation=modulation, block_order=block_order, conv_bias=conv_bias)
    x = torch.randn(2, 2, 5, 4, 7, dtype=torch.float64)
    for training in (True, False):
        deployed = block.train(training).deployed()
        assert isinstance(deployed, DeployedRep3DBlock) and deployed.training == training
    assert {tensor.dtype for tensor in deployed.state_dict().values()} == {torch.float64}
    expected = block(x)
    assert relative_error(deployed(x), expected) < 1e-10
    loaded = DeployedRep3DBlock(**block.arguments).double()
    loaded.load_state_dict({name: tensor.float() for name, tensor in block.state_dict().items()})
    assert relative_error(loaded(x), expected) < 1e-3
    assert {name: tensor.shape for name, tensor in loaded.state_dict().items()} == {
        name: tensor.shape for name, tensor in deployed.state_dict().items()
    }


def test_arguments_reach_the_parts():
    block = Rep3DBlock(2, 5, generator_depth=3)
    assert len(block.mask.norms) == 3 and block.use_checkpoint is False
    with pytest.raises(ValueError, match="^channels must be a positive integer, got 0"):
        Rep3DBlock(0)


def test_what_folds_into_too_large_a_number():
    block = Rep3DBlock(2, 3, "none")
    nn.init.constant_(block.norm.weight, 3e38)
    nn.init.constant_(block.weight, 1e3)
    with pytest.raises(ValueError, match="a folded block of Rep3D"):
        block.deployed()


def test_the_papers_block_is_the_default():
    assert Rep3DBlock(2).arguments == {"channels": 2, **PAPER}
    for deploy in (False, True):
        with torch.device("meta"):
            network = Rep3D(1, 2, deploy=deploy)
        kind = DeployedRep3DBlock if deploy else Rep3DBlock
        blocks = [module for module in network.modules() if isinstance(module, kind)]
        channels = [channels for channels in (48, 96, 192, 384) for _ in range(2)]
        assert [block.arguments for block in blocks] == [{"channels": number, **PAPER} for number in channels]
        assert network.deploy == deploy


def test_parameters_that_optimizers_treat_apart():
    blocks = {modulation: Rep3DBlock(2, 3, modulation, conv_bias=True) for modulation in MODULATIONS}
    assert {name: block.small_kernels() for name, block in blocks.items() if block.small_kernels()} == {
        "csla": {"small_weight"}
    }
    for block in blocks.values():
        assert block.large_kernels() == {"weight"}
        assert torch.equal(block.bias, torch.zeros(2))


def test_channel_norm(relative_error):
    """Over the channels of each voxel, with an epsilon of 1e-6."""
    norm, x = ChannelNorm(3).double(), 1e-3 * torch.randn(2, 3, 4, 2, 3, dtype=torch.float64)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    difference = x - x.mean(dim=1, keepdim=True)
    normalized = difference / (difference.square().mean(dim=1, keepdim=True) + 1e-6).sqrt()
    expected = normalized * norm.weight.view(-1, 1, 1, 1) + norm.bias.view(-1, 1, 1, 1)
    assert relative_error(norm(x), expected) < 1e-12
    assert norm(x).is_contiguous()
