import pytest
import torch
from monai.inferers import SimpleInferer, SlidingWindowInferer
from torch import nn

from rep3d import inferers
from rep3d.inferers import AutocastInferer, has_fast_bfloat16


class Watched(nn.Module):
    """A convolution of single voxels that remembers the type of what it returned."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        self.seen = y.dtype
        return y


INFERERS = [SimpleInferer(), SlidingWindowInferer(roi_size=(8, 8, 8), overlap=0.5, mode="gaussian")]


@pytest.mark.parametrize("inferer", INFERERS, ids=lambda i: type(i).__name__)
@pytest.mark.parametrize("enabled, expected", [(True, torch.bfloat16), (False, torch.float32)])
def test_network_runs_in_the_given_type(enabled, expected, inferer):
    network, x = Watched(), torch.randn(1, 1, 8, 8, 12)
    y = AutocastInferer(inferer, enabled)(x, network)
    assert y.dtype == torch.float32
    assert y.shape == (1, 2, 8, 8, 12)
    assert network.seen == expected
    assert not torch.is_autocast_enabled("cpu")
    torch.testing.assert_close(y, network.conv(x), rtol=0, atol=0.05 if enabled else 1e-5)


@pytest.mark.parametrize("fast, expected", [(True, torch.bfloat16), (False, torch.float32)])
def test_default_follows_the_device(fast, expected, monkeypatch):
    devices = []
    monkeypatch.setattr(inferers, "has_fast_bfloat16", lambda device: (devices.append(device), fast)[1])
    network, x = Watched(), torch.randn(1, 1, 4, 4, 4)
    assert AutocastInferer(SimpleInferer())(x, network).dtype == torch.float32
    assert network.seen == expected
    assert devices == [x.device]


@pytest.mark.parametrize("enabled", [True, False])
def test_gradients_flow(enabled):
    network, x = Watched(), torch.randn(1, 1, 4, 4, 4)
    AutocastInferer(SimpleInferer(), enabled)(x, network).square().mean().backward()
    for parameter in network.parameters():
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.abs().sum() > 0


def test_arguments_reach_the_network():
    inferer = AutocastInferer(SimpleInferer(), enabled=False)
    assert (inferer(torch.ones(2), lambda x, a, b: x + a * b, 2, b=3) == 7).all()


@pytest.mark.parametrize(
    "capabilities, fast",
    [({"amx_bf16": True}, True), ({"avx512_bf16": True}, True), ({"amx_bf16": False}, False), ({"avx2": True}, False)],
)
def test_fast_bfloat16_on_a_cpu(capabilities, fast, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert has_fast_bfloat16("cpu") is fast
    assert has_fast_bfloat16(torch.device("cpu")) is fast


def test_old_torch_means_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert has_fast_bfloat16("cpu") is False
