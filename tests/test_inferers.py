import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SimpleInferer, SlidingWindowInferer
from torch import nn

from rep3d import inferers
from rep3d.inferers import AutocastInferer, LabelMapInferer, has_fast_bfloat16


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


def test_default_follows_the_network_where_the_image_lies_elsewhere(monkeypatch):
    devices = []
    monkeypatch.setattr(inferers, "has_fast_bfloat16", lambda device: bool(devices.append(device)))
    inferer = SimpleInferer()
    inferer.sw_device = "cuda"  # as `SlidingWindowInferer` has it
    AutocastInferer(inferer)(torch.ones(1, 1, 4, 4, 4), Watched())
    assert devices == [torch.device("cuda")]


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


class Classes(nn.Module):
    """Five classes from the neighbourhood of a voxel, so that windows disagree where they overlap."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 5, 5, padding=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


@pytest.mark.parametrize(
    "shape", [(1, 2, 8, 8, 8), (2, 2, 19, 17, 22), (1, 2, 30, 8, 9), (1, 2, 5, 20, 3), (1, 2, 3, 4, 5)], ids=str
)
@pytest.mark.parametrize(
    "arguments",
    [
        {"overlap": 0.5, "mode": "gaussian"},
        {"overlap": (0.25, 0.6, 0.0), "sw_batch_size": 3},
        {"overlap": 0.75, "mode": "gaussian", "padding_mode": "replicate", "sw_batch_size": 2},
    ],
    ids=str,
)
def test_label_map_is_the_argmax_of_the_class_maps(shape, arguments):
    torch.manual_seed(0)
    network, x = Classes().eval(), torch.randn(shape)
    with torch.no_grad():
        expected = SlidingWindowInferer((8, 8, 8), **arguments)(x, network).argmax(1, keepdim=True)
        actual = LabelMapInferer((8, 8, 8), **arguments)(x, network)
    assert actual.dtype == torch.uint8
    assert actual.shape == (shape[0], 1, *shape[2:])
    assert torch.equal(actual.long(), expected)


def test_label_map_keeps_the_place_of_the_image():
    image = MetaTensor(torch.randn(1, 2, 9, 9, 9), affine=torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])))
    with torch.no_grad():
        labels = LabelMapInferer((8, 8, 8))(image, Classes())
    assert torch.equal(labels.affine, image.affine)


def test_class_maps_are_as_deep_as_one_window(monkeypatch):
    allocated = []
    zeros = torch.zeros

    def noted(*shape, dtype=None, **kwargs):
        if dtype != torch.uint8:  # the label map is as deep as the image
            allocated.append(shape)
        return zeros(*shape, dtype=dtype, **kwargs)

    monkeypatch.setattr(torch, "zeros", noted)
    with torch.no_grad():
        LabelMapInferer((8, 8, 8))(torch.randn(1, 2, 40, 16, 16), Classes())
    assert allocated == [(5, 8, 16, 16)]


def test_too_many_classes_for_the_label_map():
    with pytest.raises(ValueError, match="256 classes, the network gives 300"), torch.no_grad():
        LabelMapInferer((4, 4, 4))(torch.randn(1, 1, 4, 4, 4), nn.Conv3d(1, 300, 1))


def test_autocast_leaves_label_maps():
    with torch.no_grad():
        labels = AutocastInferer(LabelMapInferer((8, 8, 8)), enabled=True)(torch.randn(1, 2, 8, 8, 8), Classes())
    assert labels.dtype == torch.uint8


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_output_that_is_not_finite_is_no_label_map(value):
    """Not even background, which argmax would make of it."""
    inferer = LabelMapInferer(roi_size=(8, 8, 8), overlap=0.5, mode="gaussian")
    with pytest.raises(ValueError, match="output is NaN or infinite"):
        inferer(torch.randn(1, 1, 8, 8, 12), lambda x: torch.full((len(x), 2, 8, 8, 8), value))


@pytest.mark.parametrize("shape", [(1, 2, 8, 8, 8), (1, 2, 19, 9, 12)], ids=str)
def test_label_maps_outside_of_no_grad(shape):
    network, x = Classes(), torch.randn(shape, requires_grad=True)
    inferer = LabelMapInferer((8, 8, 8), overlap=0.5, mode="gaussian")
    labels = inferer(x, network)
    assert torch.is_grad_enabled() and not labels.requires_grad
    with torch.no_grad():
        assert torch.equal(labels, inferer(x, network))


@pytest.mark.parametrize("overlap", [1, 1.0, 1.5, -0.1, (0.5, 1.0, 0.5), float("nan")], ids=str)
def test_overlap_out_of_range(overlap):
    """In the words of `SlidingWindowInferer`, and before any image is there."""
    with pytest.raises(ValueError, match=r"overlap must be >= 0 and < 1, got"):
        LabelMapInferer((8, 8, 8), overlap=overlap)
