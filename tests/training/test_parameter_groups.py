"""Which parameters decay, in networks that are not ours."""

import pytest
import torch
from monai.networks.nets import UNETR, SegResNet, SwinUNETR
from torch import nn

from rep3d.training import parameter_groups


def undecayed(network):
    """Names of the parameters without weight decay; every trained one stands in one group."""
    names = {id(parameter): name for name, parameter in network.named_parameters() if parameter.requires_grad}
    groups = parameter_groups(network, weight_decay=0.07)
    assert sorted(id(p) for group in groups for p in group["params"]) == sorted(names)
    return {names[id(p)] for group in groups if group["weight_decay"] == 0 for p in group["params"]}


def of_one_axis(network):
    return {name for name, parameter in network.named_parameters() if parameter.ndim <= 1}


def test_swin_unetr():
    network = SwinUNETR(1, 2, feature_size=12, depths=(1, 2, 1, 1), num_heads=(1, 2, 2, 2))
    tables = {name for name, _ in network.named_parameters() if name.endswith("relative_position_bias_table")}
    assert len(tables) == 5
    assert undecayed(network) == of_one_axis(network) | tables


@pytest.mark.parametrize("proj_type", ["conv", "perceptron"])
def test_unetr(proj_type):
    network = UNETR(1, 2, (32, 32, 32), 4, hidden_size=24, mlp_dim=32, num_heads=2, proj_type=proj_type)
    assert undecayed(network) == of_one_axis(network) | {"vit.patch_embedding.position_embeddings"}


def test_convolutions_decay():
    network = SegResNet(3, 8, in_channels=1, out_channels=2)
    assert undecayed(network) == of_one_axis(network)


@pytest.mark.parametrize(
    "name, table",
    [
        ("pos_embed", True),
        ("decoder_pos_embedding", True),
        ("absolute_pos_embed", True),
        ("positional_encoding", True),
        ("rel_pos_h", True),
        ("composition_table", False),
        ("position", False),
        ("weight_pos", False),
        ("transposed_kernel", False),
    ],
)
def test_names_of_tables(name, table):
    network = nn.Module()
    network.register_parameter(name, nn.Parameter(torch.zeros(2, 2)))
    network.rel_pos_arr = nn.ParameterList([nn.Parameter(torch.zeros(2, 2))])
    network.pos_conv = nn.Conv3d(1, 1, 3)
    assert undecayed(network) == {"rel_pos_arr.0", "pos_conv.bias"} | ({name} if table else set())


def test_the_papers_decay():
    kernels, others = parameter_groups(nn.Linear(2, 2))
    assert (kernels["weight_decay"], others["weight_decay"]) == (0.08, 0)


class Token(nn.Module):
    def __init__(self):
        super().__init__()
        self.token, self.frozen = (nn.Parameter(torch.zeros(1, 1, 4)) for _ in range(2))
        self.frozen.requires_grad_(False)
        self.linear = nn.Linear(2, 2)

    def no_weight_decay(self):
        return {"token", "frozen", "linear.weight", "of_another_version"}


def test_named_by_the_network():
    assert undecayed(Token()) == {"token", "linear.weight", "linear.bias"}


def test_named_by_a_part():
    network = nn.Sequential(nn.Linear(2, 2), nn.Sequential(Token()))
    assert undecayed(network) == {"0.bias", "1.0.token", "1.0.linear.weight", "1.0.linear.bias"}
    wrapped = nn.Module()
    wrapped.module = network  # as in a network on several GPUs
    assert undecayed(wrapped) == {f"module.{name}" for name in undecayed(network)}
