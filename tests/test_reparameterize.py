"""Folding asks each module, whatever network it stands in, and wherever it stands."""

import pytest
import torch
from monai.networks.nets import UNet
from torch import nn

from rep3d import reparameterize
from rep3d.networks.rep3d import MODULATIONS, DeployedRep3DBlock, Rep3DBlock
from rep3d.precision import check_layers


class Scaled(nn.Module):
    """Folds to a convolution, and has a part that would fold, too."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(2, 2, 1)
        self.part = Rep3DBlock(2, 3)

    def forward(self, x):
        return 2 * self.conv(x)

    def deployed(self):
        folded = nn.Conv3d(2, 2, 1)
        folded.load_state_dict({name: 2 * tensor for name, tensor in self.conv.state_dict().items()})
        return folded


class Twice(nn.Module):
    """One block under two names, and in a list."""

    def __init__(self, block):
        super().__init__()
        self.first = self.second = block
        self.others = nn.ModuleList([block, nn.Identity(), block])
        self.absent = None
        self.register_module("none", None)

    def forward(self, x):
        for module in (self.first, self.second, *self.others):
            x = module(x)
        return x


def test_modules_of_others_fold_themselves(relative_error):
    network, x = nn.Sequential(Scaled(), nn.Sequential(Scaled(), nn.GELU())), torch.randn(1, 2, 4, 4, 4)
    deployed = reparameterize(network)
    assert [type(module) for module in deployed.modules() if not list(module.children())] == [
        nn.Conv3d,
        nn.Conv3d,
        nn.GELU,
    ]
    assert relative_error(deployed(x), network(x)) < 1e-6
    assert isinstance(network[0], Scaled)


@pytest.mark.parametrize("modulation", MODULATIONS)
def test_a_module_that_stands_twice(modulation, relative_error):
    network, x = Twice(Rep3DBlock(2, 3, modulation)).eval(), torch.randn(1, 2, 6, 6, 6)
    network.first.norm.running_mean.normal_()
    deployed = reparameterize(network)
    assert not any(isinstance(module, Rep3DBlock) for module in deployed.modules())
    assert isinstance(deployed.first, DeployedRep3DBlock)
    assert deployed.first is deployed.second is deployed.others[0] is deployed.others[2]
    assert relative_error(deployed(x), network(x)) < 1e-5
    assert network.first is network.others[2]


def test_shared_between_parents(relative_error):
    block, x = Rep3DBlock(2, 3).eval(), torch.randn(1, 2, 6, 6, 6)
    network = nn.Sequential(nn.Sequential(block, nn.GELU()), nn.Sequential(nn.GELU(), block))
    deployed = reparameterize(network)
    assert isinstance(deployed[0][0], DeployedRep3DBlock) and deployed[0][0] is deployed[1][1]
    assert relative_error(deployed(x), network(x)) < 1e-5


def test_a_single_block(relative_error):
    block, x = Rep3DBlock(2, 3).eval(), torch.randn(1, 2, 6, 6, 6)
    assert relative_error(reparameterize(block)(x), block(x)) < 1e-5


def test_something_else_of_that_name():
    """A child or a value called `deployed` is no method to fold with."""
    network = nn.Module()
    network.deployed = nn.Sequential(Rep3DBlock(2, 3))
    network.child = nn.Conv3d(1, 1, 1)
    network.child.deployed = True
    deployed = reparameterize(network)
    assert isinstance(deployed.deployed[0], DeployedRep3DBlock)
    assert type(deployed.child) is nn.Conv3d


def test_networks_of_others_are_copied_without_hooks():
    network, x = UNet(3, 1, 2, (2, 4), (2,)).eval(), torch.randn(1, 1, 8, 8, 8)
    check_layers(network)
    deployed = reparameterize(network)
    assert torch.equal(deployed(x), network(x))
    assert torch.equal(torch.jit.script(deployed)(x), network(x))
    assert all(one is not other for one, other in zip(deployed.parameters(), network.parameters(), strict=True))
