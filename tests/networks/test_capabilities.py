import pytest
import torch
from monai.networks.nets import UNETR, DynUNet, SegResNet, SwinUNETR, UNet
from torch import nn

from rep3d import reparameterize
from rep3d.networks.capabilities import encoder_features, named_parameters_of
from rep3d.networks.ensemble import Ensemble

# A network, the voxels of its deepest map for 64^3, and its channels.
NETWORKS = {
    "UNet": (lambda: UNet(3, 1, 3, (4, 8, 16), (2, 2), num_res_units=1), 24),
    "SegResNet": (lambda: SegResNet(3, 8, in_channels=1, out_channels=3, blocks_down=(1, 1, 1), blocks_up=(1, 1)), 16),
    "SwinUNETR": (lambda: SwinUNETR(1, 3, feature_size=12, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 2)), 192),
    "UNETR": (lambda: UNETR(1, 3, (64, 64, 64), feature_size=4, hidden_size=24, mlp_dim=32, num_heads=2), 24),
    "DynUNet": (lambda: DynUNet(3, 1, 3, (3, 3, 3), (1, 2, 2), (2, 2), filters=(4, 8, 16)), 16),
}


class Squeezed(nn.Module):
    """One map of a quarter of the size, and one number for all of it, as squeeze-and-excitation has."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv3d(1, 4, 4, stride=4)
        self.squeeze = nn.AdaptiveMaxPool3d(1)

    def forward(self, x):
        y = self.down(x)
        return (y * self.squeeze(y)).repeat_interleave(4, 2).repeat_interleave(4, 3).repeat_interleave(4, 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_features_of_any_network(name):
    build, channels = NETWORKS[name]
    network, images = build().eval(), torch.randn(2, 1, 64, 64, 64)
    images[1] = images[1].cumsum(-1) / 8
    before = sum(len(module._forward_hooks) for module in network.modules())
    with torch.no_grad():
        features = encoder_features(network, images)
        assert features.shape == (2, channels) and features.dtype == torch.float32
        assert features.isfinite().all()
        assert (features[0] - features[1]).norm() > 1e-2 * features.norm()
        torch.testing.assert_close(encoder_features(network, images[1:]), features[1:], rtol=1e-3, atol=1e-4)
    assert sum(len(module._forward_hooks) for module in network.modules()) == before


@pytest.mark.parametrize("deploy", [False, True])
def test_features_of_our_network(deploy, tiny_rep3d, relative_error):
    network, x = tiny_rep3d(feature_size=(2, 3, 4, 5)).eval(), torch.randn(2, 1, 32, 32, 32)
    network = reparameterize(network) if deploy else network
    with torch.no_grad():
        expected = network.encoder(x)[3].mean((2, 3, 4))
        assert relative_error(encoder_features(network, x), expected) < 1e-6
        assert encoder_features(Ensemble([network, network]), x).shape[0] == 2


def test_tokens_of_a_transformer(relative_error):
    network, x = NETWORKS["UNETR"][0]().eval(), torch.randn(1, 1, 64, 64, 64)
    with torch.no_grad():
        assert relative_error(encoder_features(network, x), network.vit(x)[0].mean(1)) < 1e-6


def test_single_voxels_are_no_maps(relative_error):
    network, x = Squeezed(), torch.randn(2, 1, 16, 16, 16)
    assert relative_error(encoder_features(network, x), network.down(x).mean((2, 3, 4))) < 1e-6


def test_the_last_of_the_smallest_maps(relative_error):
    """Of two voxels, the fewest that count."""
    network, x = nn.Sequential(nn.AvgPool3d((1, 1, 2)), nn.ReLU()), torch.randn(2, 3, 1, 1, 4)
    assert relative_error(encoder_features(network, x), network(x).mean((2, 3, 4))) < 1e-6


def test_without_a_map():
    network = nn.Sequential(nn.Flatten(), nn.Linear(8, 2))
    with pytest.raises(ValueError, match=r"Sequential puts out no feature map .* for \[1, 1, 2, 2, 2\]"):
        encoder_features(network, torch.zeros(1, 1, 2, 2, 2))
    assert not network[0]._forward_hooks


def test_hooks_go_where_the_network_fails():
    network = nn.Sequential(nn.Conv3d(2, 2, 1))
    with pytest.raises(RuntimeError, match="channels"):
        encoder_features(network, torch.zeros(1, 1, 4, 4, 4))
    assert not network._forward_hooks and not network[0]._forward_hooks


def test_names_of_parameters(tiny_rep3d):
    class Named(nn.Linear):
        def no_weight_decay(self):
            return {"weight"}

    assert named_parameters_of(Named(1, 1), "no_weight_decay") == {"weight"}
    network = nn.ModuleDict({"a": Named(1, 1), "b": nn.Sequential(nn.Linear(1, 1), Named(1, 1))})
    assert named_parameters_of(network, "no_weight_decay") == {"a.weight", "b.1.weight"}
    assert named_parameters_of(network, "small_kernels") == set()
    names = named_parameters_of(tiny_rep3d(modulation="csla"), "small_kernels")
    assert names == {f"encoder.stages.{stage}.{block}.small_weight" for stage in range(4) for block in range(2)}
