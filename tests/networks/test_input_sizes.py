import gc
import weakref

import pytest
import torch
from monai.networks.nets import UNETR, SegResNet, UNet
from torch import nn

from rep3d import Rep3D
from rep3d.networks import input_sizes
from rep3d.networks.ensemble import Ensemble
from rep3d.networks.input_sizes import check_patch_size, divisor_of


def unet(in_channels=1, strides=(2, 2), **arguments):
    return UNet(3, in_channels, 2, [4] * (len(strides) + 1), strides, num_res_units=1, **arguments)


@pytest.mark.parametrize(
    ("build", "divisor"),
    [
        (lambda: unet(), 4),
        (lambda: unet(in_channels=3, strides=(2, 2, 2)), 8),
        (lambda: unet(strides=(1, 2)), 2),
        (lambda: nn.Conv3d(1, 2, 3, padding=1), 1),
        (lambda: UNETR(1, 2, (96, 96, 96), feature_size=4, hidden_size=12, mlp_dim=12, num_heads=2), None),
        (lambda: Rep3D(1, 2, feature_size=(4, 4, 4, 4), hidden_size=8, kernel_size=3), 16),
        (nn.Identity, None),
    ],
    ids=["4", "8 of 3 channels", "2", "1", "one size", "its own", "no parameters"],
)
def test_divisors(build, divisor):
    network = build()
    assert divisor_of(network) == divisor
    assert all(parameter.is_leaf and parameter.device.type == "cpu" for parameter in network.parameters())


def test_a_network_is_tried_once_and_forgotten_with_it(monkeypatch):
    network = unet()
    assert divisor_of(network) == 4
    monkeypatch.setattr(input_sizes, "takes", None)
    assert divisor_of(network) == 4
    assert divisor_of(Ensemble([network, network])) == (4, 4, 4)
    gone = weakref.ref(network)
    del network
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    "network", [Rep3D(1, 5, feature_size=(4, 4, 4, 4), hidden_size=8, kernel_size=3), UNet(3, 1, 5, [4, 4], (2,))]
)
def test_more_channels_than_labels_are_refused(network):
    """Nobody would hear of them: their logits are learned to be low."""
    with pytest.raises(ValueError, match=r"gives 5 channel\(s\), expected out_channels = 3"):
        check_patch_size(network, 1, 3, [32, 32, 32])


def test_trying_changes_nothing():
    """Neither weights nor running statistics, nor the random numbers that follow."""
    network = unet(norm="batch").train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.get_rng_state()
    check_patch_size(network, 1, 2, [16, 16, 16])
    assert divisor_of(network) == 4
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state) and network.training


@pytest.mark.parametrize(
    ("network", "size", "message"),
    [
        (
            unet(),
            [16, 18, 16],
            r"patch_size \[16, 18, 16\] does not fit UNet: .* multiples of 4, such as \[16, 20, 16\]",
        ),
        (unet(), [4, 4, 4], r"patch_size \[4, 4, 4\] does not fit UNet: expected multiples of 4, such as \[8, 8, 8\]"),
        (SegResNet(), [36, 32, 32], r"does not fit SegResNet: expected multiples of 8, such as \[40, 32, 32\]"),
        (
            UNETR(1, 2, (48, 32, 32), feature_size=4, hidden_size=12, mlp_dim=12, num_heads=2),
            [40, 32, 32],
            r"patch_size \[40, 32, 32\] does not fit UNETR: expected for example \[48, 32, 32\]",
        ),
        (
            Rep3D(1, 2, feature_size=(4, 4, 4, 4), hidden_size=8, kernel_size=3),
            [32, 40, 32],
            r"does not fit Rep3D: every axis of x must be a multiple of 16 voxels.*\[32, 40, 32\]",
        ),
        (
            Rep3D(4, 2, feature_size=(4, 4, 4, 4), hidden_size=8, kernel_size=3),
            [32, 32, 32],
            r"Rep3D, takes images of 4 ",
        ),
        (unet(in_channels=4), [16, 16, 16], r"UNet, takes images of 4 channel\(s\), expected in_channels = 1"),
        (nn.Conv3d(1, 3, 1), [16, 16, 16], r"Conv3d, gives 3 channel\(s\), expected out_channels = 2"),
        (nn.Conv3d(1, 2, 3), [16, 16, 16], r"Conv3d, gives \[14, 14, 14\] voxels for patches of \[16, 16, 16\]"),
    ],
)
def test_what_a_network_does_not_take(network, size, message):
    with pytest.raises(ValueError, match=message) as raised:
        check_patch_size(network, 1, 2, size)
    assert "\n" not in str(raised.value)


def test_several_outputs_are_judged_by_the_first():
    class Supervised(nn.Conv3d):
        def forward(self, x):
            y = super().forward(x)
            return [y, y[:, :, ::2, ::2, ::2]]

    check_patch_size(Supervised(1, 2, 1), 1, 2, (8, 8, 8))


@pytest.mark.parametrize(
    "computes", [lambda x: x * float(x.mean()), lambda x: x + torch.zeros(1)], ids=["item", "mixed"]
)
def test_a_network_that_asks_for_values_is_not_refused(computes):
    class Own(nn.Conv3d):
        def forward(self, x):
            return computes(super().forward(x))

    check_patch_size(Own(1, 2, 1), 1, 2, (8, 8, 8))
    assert divisor_of(Own(1, 2, 1)) is None


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((10, 8, 8), "patch_size .* does not fit Own: .*size"),
        ((16, 16, 16), r"does not fit Own: meta data .* too large"),
    ],
)
def test_but_is_tried_for_real(size, message):
    """Its statistics and random numbers stay what they are."""

    class Own(UNet):
        def forward(self, x):
            if x.shape[2] > 12:
                raise ValueError("meta data would become too large")
            return super().forward(x * (1 + float(x.mean())))

    network = Own(3, 1, 2, [4, 4, 4], (2, 2), num_res_units=1, norm="batch")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    check_patch_size(network, 1, 2, (8, 8, 8))
    with pytest.raises(ValueError, match=message):
        check_patch_size(network, 1, 2, size)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items()) and network.training


@pytest.mark.parametrize("size", [[32.0, 32, 32], [-16, 32, 32], ["32", 32, 32]])
def test_edges_that_are_no_numbers_of_voxels(size):
    network = Rep3D(1, 2, feature_size=(4, 4, 4, 4), hidden_size=8, kernel_size=3)
    with pytest.raises(ValueError, match=r"patch_size is \[.*\]: every edge must be a positive integer, got "):
        check_patch_size(network, 1, 2, size)
