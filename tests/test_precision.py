"""No layer of a network in training learns from a wrong bfloat16 gradient, on any machine."""

import copy
import logging
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from bundle_helpers import BUNDLES, ROOT
from monai.bundle import ConfigParser
from monai.inferers import SimpleInferer
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from torch import nn

from rep3d import precision
from rep3d.inferers import AutocastInferer
from rep3d.networks.rep3d import Rep3DBlock
from rep3d.precision import check_layers, relative_error, stop_checking

LIMIT = 0.02
EXAMPLES = {
    "convolution": (nn.Conv3d(4, 4, 3, padding=1), (2, 4, 2, 3, 2)),
    "16 channels": (nn.Conv3d(16, 16, 3, padding=1), (2, 16, 2, 6, 6)),
    "kernel of 5": (nn.Conv3d(16, 16, 5, padding=2), (2, 16, 2, 6, 6)),
    "little padding": (nn.Conv3d(16, 16, 5, padding=1), (2, 16, 4, 6, 6)),
    "strided": (nn.Conv3d(4, 4, 3, stride=2, padding=1), (2, 4, 2, 6, 6)),
    "dilated": (nn.Conv3d(4, 4, 3, dilation=2, padding=2), (2, 4, 2, 6, 6)),
    "without padding": (nn.Conv3d(4, 4, 11), (1, 4, 12, 11, 14)),
    "depthwise": (nn.Conv3d(8, 8, 3, padding=1, groups=8), (2, 8, 2, 3, 2)),
    "transposed": (nn.ConvTranspose3d(4, 4, 2, stride=2), (2, 4, 2, 3, 2)),
    "of images": (nn.Conv2d(4, 4, 3, padding=1), (2, 4, 2, 9)),
    "linear": (nn.Linear(8, 4), (1, 20, 8)),
}


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch):
    monkeypatch.setattr(precision, "_right", {})


@pytest.fixture
def wrong_convolution(monkeypatch):
    """`conv3d` as some processors have it: in bfloat16 its weight gradient is noise, or NaN."""

    def put(noise=lambda grad: torch.randn_like(grad)):
        conv3d = F.conv3d

        def wrong(x, weight, *args, **kwargs):
            y = conv3d(x, weight, *args, **kwargs)
            if y.dtype == torch.bfloat16 and y.requires_grad:
                return _Wrong.apply(y, weight, noise)
            return y

        monkeypatch.setattr(F, "conv3d", wrong)

    return put


class _Wrong(torch.autograd.Function):
    """Passes y on, and adds noise to the gradient of the weight."""

    @staticmethod
    def forward(ctx, y, weight, noise):
        ctx.save_for_backward(weight)
        ctx.noise = noise
        return y.clone()

    @staticmethod
    def backward(ctx, grad):
        (weight,) = ctx.saved_tensors
        return grad, ctx.noise(weight), None


def trained(network, x, enabled=True, label=None):
    """Gradients of one training step by name, in the precision of `AutocastInferer`; without a label, towards noise."""
    network.zero_grad()
    y = AutocastInferer(SimpleInferer(), enabled)(x, network)
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    loss = (y * direction).sum() if label is None else DiceCELoss(to_onehot_y=True, softmax=True)(y, label)
    loss.backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def distance(actual, expected):
    return float((actual - expected).norm() / expected.norm())


def checked_error(layer, shape):
    """`relative_error` of the layer as a network in training calls it."""
    layer = copy.deepcopy(layer)
    check_layers(layer)
    gradients = []
    for enabled in (True, False):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            y = layer(x)
        direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y.dtype)
        gradients.append([y, *torch.autograd.grad(y, [x, *layer.parameters()], direction)])
    return max(distance(a.float(), e) for a, e in zip(*gradients, strict=True))


def layers_of(bundle: Path) -> dict:
    """Layer and input shape of all that a bundle's network calls on its own patches, by their description."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs/train.json"))
    with torch.device("meta"):
        network = parser.get_parsed_content("network_def")
        x = torch.empty(1, parser.get_parsed_content("in_channels"), *parser["patch_size"])
    found = {}

    def note(layer, inputs):
        batch, channels, *sizes = inputs[0].shape
        shape = (batch, channels, *(min(n, 10) for n in sizes))
        found[f"{layer} at {shape}"] = layer, shape

    for layer in network.modules():
        if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d):
            layer.register_forward_pre_hook(note)
    network(x)
    return found


@pytest.mark.slow
def test_every_layer_of_every_bundle(monkeypatch):
    """Long axes are cut to 10 voxels, which is more than what a layer is tried with."""
    monkeypatch.setattr(Rep3DBlock, "forward", lambda self, x: x)  # computes in float32, and not on the meta device
    found = {}
    for bundle in BUNDLES:
        found |= layers_of(bundle)
    assert len(found) > 60
    errors = {}
    for name, (layer, shape) in found.items():
        errors[name] = checked_error(layer.to_empty(device="cpu").apply(_initialize), shape)
    assert {name: error for name, error in errors.items() if not error < LIMIT} == {}


def _initialize(layer):
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.1)


@pytest.mark.slow
def test_whole_hippocampus_network():
    """Rounding to bfloat16 in twenty layers moves the deepest gradients by 0.3; wrong ones are 1.0 and more away."""
    parser = ConfigParser()
    parser.read_config(str(ROOT / "bundles/msd_hippocampus/configs/train.json"))
    network = parser.get_parsed_content("network_def")
    axes = [torch.linspace(-1, 1, n) for n in parser["patch_size"]]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    label = ((z**2 + y**2 + x**2 < 0.3) * (1.0 + (y > 0))).expand(2, 1, *z.shape)
    image = label + 0.3 * torch.randn(label.shape)
    actual, expected = (trained(network, image, enabled, label) for enabled in (True, False))
    # The norms that follow these two cancel their gradients, but for rounding and epsilon.
    for name in ("encoder.downsamples.0.1.weight", "skip1.layer.conv3.conv.weight"):
        del actual[name], expected[name]
    whole = [torch.cat([gradient.flatten() for gradient in gradients.values()]) for gradients in (actual, expected)]
    assert distance(*whole) < 0.1
    errors = {name: distance(actual[name], expected[name]) for name in expected}
    assert {name: error for name, error in errors.items() if not error < 0.6} == {}


@pytest.mark.parametrize("name", EXAMPLES)
def test_layers_are_right_as_they_train(name):
    layer, shape = EXAMPLES[name]
    assert checked_error(layer, shape) < LIMIT


@pytest.mark.parametrize("noise", [torch.randn_like, lambda w: torch.full_like(w, torch.nan)], ids=["noise", "nan"])
def test_wrong_convolution_computes_in_float32(noise, wrong_convolution, caplog):
    layer, shape = nn.Conv3d(4, 4, 3, padding=1), (2, 4, 3, 3, 3)
    wrong_convolution(noise)
    assert not relative_error(layer, shape) < LIMIT
    assert checked_error(layer, shape) < 1e-5  # in float32
    assert "computes in float32: this CPU may get it wrong in bfloat16 for an input of (2, 4, 3, 3, 3)" in caplog.text
    assert "Conv3d(4, 4, kernel_size=(3, 3, 3)" in caplog.text


def test_networks_of_others(wrong_convolution):
    """A wrong layer leaves the right ones their bfloat16."""
    network = UNet(3, 1, 2, channels=(4, 8), strides=(2,), num_res_units=1)
    x = torch.randn(1, 1, 16, 16, 16)
    wrong_convolution()
    seen = []
    for layer in network.modules():
        layer.register_forward_hook(lambda layer, inputs, y: seen.append((type(layer), y.dtype)))
    actual, expected = trained(network, x), trained(network, x, enabled=False)
    assert (nn.ConvTranspose3d, torch.bfloat16) in seen
    assert (nn.Conv3d, torch.float32) in seen and (nn.Conv3d, torch.bfloat16) not in seen
    convolutions = [name for name in expected if expected[name].ndim == 5]
    assert max(distance(actual[name], expected[name]) for name in convolutions) < 0.1


@pytest.mark.slow
def test_recomputed_activations(wrong_convolution, tiny_rep3d):
    wrong_convolution()
    network, recomputing = tiny_rep3d(), tiny_rep3d(use_checkpoint=True)
    recomputing.load_state_dict(network.state_dict())
    x = torch.randn(2, 1, 32, 32, 32)
    actual, expected = trained(recomputing, x), trained(network, x)
    assert distance(actual["bottom.layer.conv1.conv.weight"], expected["bottom.layer.conv1.conv.weight"]) < 0.02


def test_tried_once_and_without_a_trace(monkeypatch):
    tried = []
    monkeypatch.setattr(precision, "relative_error", lambda *args: tried.append(args) or relative_error(*args))
    network, x = nn.Sequential(nn.Conv3d(2, 2, 3, padding=1), nn.Conv3d(2, 2, 3, padding=1)), torch.randn(1, 2, 9, 9, 9)
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        trained(network, x)
        states.append(torch.get_rng_state())
    trained(copy.deepcopy(network), torch.randn(1, 2, 30, 9, 9))  # cut to the same shape
    assert len(tried) == 1
    assert torch.equal(*states)
    assert len(network[0]._forward_pre_hooks) == 1
    trained(network, torch.randn(1, 2, 9, 4, 9))
    assert len(tried) == 2


@pytest.mark.parametrize(
    "layer, sizes, tried",
    [
        (nn.Conv3d(16, 16, 7, padding=3), (6, 9, 9), False),
        (nn.Conv3d(16, 16, 7, padding="same"), (2, 9, 9), False),
        (nn.Conv3d(16, 16, 7, padding=3), (7, 9, 9), True),
        (nn.Conv3d(16, 16, 7, padding=3), (9, 2, 9), False),
        (nn.Conv3d(16, 16, 5, padding=1), (4, 6, 6), False),
        (nn.Conv3d(16, 16, 3, padding=1), (3, 3, 3), True),
        (nn.Conv3d(16, 16, 7, padding=3, padding_mode="replicate"), (6, 9, 9), True),  # pads by hand
    ],
    ids=str,
)
def test_what_may_end_the_process_is_not_tried(layer, sizes, tried, monkeypatch, caplog):
    """There the faulty convolution writes beyond its memory."""
    called = []
    monkeypatch.setattr(precision, "relative_error", lambda *args: called.append(args) or 0.0)
    layer = copy.deepcopy(layer)
    check_layers(layer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(torch.randn(1, 16, *sizes))
    assert bool(called) == tried
    assert y.dtype == (torch.bfloat16 if tried else torch.float32)
    assert ("not tried" in caplog.text) != tried


def test_nothing_is_tried_where_no_gradient_is_needed(monkeypatch):
    monkeypatch.setattr(precision, "relative_error", lambda *_: pytest.fail("tried"))
    network, x = nn.Conv3d(2, 2, 3), torch.randn(1, 2, 9, 9, 9)
    with torch.no_grad():
        AutocastInferer(SimpleInferer(), enabled=True)(x, network)
    assert not network._forward_pre_hooks
    trained(network, x, enabled=False)


def test_float32_ends_with_the_layer(wrong_convolution):
    """Also where the layer raises."""
    wrong_convolution()
    layer = nn.Conv3d(2, 2, 3)
    check_layers(layer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(torch.randn(1, 2, 4, 4, 4))
        assert torch.is_autocast_enabled("cpu")
        layer.forward = None
        with pytest.raises(TypeError):
            layer(torch.randn(1, 2, 4, 4, 4))
        assert torch.is_autocast_enabled("cpu")
    assert not torch.is_autocast_enabled("cpu")


def test_hooks_are_taken_back():
    network = nn.Sequential(nn.Conv3d(1, 1, 3))
    network[0].register_forward_hook(lambda *_: None)
    check_layers(network)
    stop_checking(network)
    assert (len(network[0]._forward_pre_hooks), len(network[0]._forward_hooks)) == (0, 1)


def test_a_trained_network_can_be_scripted(tiny_rep3d):
    network, x = tiny_rep3d(), torch.randn(1, 1, 32, 32, 32)
    trained(network, x)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(network.eval())(x), network(x), rtol=1e-4, atol=1e-4)


def test_right_machines_are_not_warned(caplog):
    caplog.set_level(logging.WARNING)
    trained(nn.Conv3d(2, 2, 1), torch.randn(1, 2, 9, 9, 9))
    assert not caplog.records


def test_layers_of_other_types_are_left_alone(monkeypatch):
    monkeypatch.setattr(precision, "relative_error", lambda *_: pytest.fail("tried"))
    embedding, half = nn.Embedding(4, 2), nn.Linear(2, 2).bfloat16()
    check_layers(nn.ModuleList([embedding, half]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half(embedding(torch.tensor([0, 1])).bfloat16())
