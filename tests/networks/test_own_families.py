"""What networks of ours do with weights that have moved: where they start, masks and normalizations change nothing yet.

tests/test_network_overlays.py has what all networks do, ours among them.
"""

import copy

import pytest
import torch
from torch import nn

from rep3d import MedNeXt, MedNeXtV2, Rep3D, UXNet, reparameterize
from rep3d.inferers import AutocastInferer
from rep3d.networks.depthwise import DepthwiseConv3d, MaskedDepthwiseConv3d
from rep3d.networks.mednext import MedNeXtBlock
from rep3d.networks.mednext_v2 import GlobalResponseNorm
from rep3d.networks.recomputing import recompute
from rep3d.networks.rep3d import Rep3DBlock
from rep3d.networks.uxnet import UXBlock
from rep3d.networks.weights import NonFiniteWeights, differences
from rep3d.precision import check_layers
from rep3d.training.parameters import parameter_groups

SMALL = {"feature_size": (4, 6, 8, 10), "hidden_size": 12, "kernel_size": 5}
NETWORKS = {
    "uxnet": lambda: UXNet(1, 3, **SMALL),
    "uxnet fixed": lambda: UXNet(1, 3, **SMALL, modulation="fixed"),
    "uxnet lrbm": lambda: UXNet(1, 3, **SMALL, modulation="lrbm"),
    "repuxnet": lambda: Rep3D(1, 3, **SMALL, modulation="fixed", conv_bias=True),
    "repuxnet, norm first": lambda: Rep3D(
        1, 3, **SMALL, modulation="fixed", conv_bias=True, block_order="norm-conv-act"
    ),
    "mednext": lambda: MedNeXt(1, 3, size="B", init_filters=2, deep_supervision=True),
    "mednext k5": lambda: MedNeXt(1, 3, init_filters=2, kernel_size=5),
    "mednext v2": lambda: MedNeXtV2(1, 3, size="B", init_filters=2, deep_supervision=True),
}
SHAPE = (2, 1, 32, 16, 16)
each = pytest.mark.parametrize("name", NETWORKS)


def full_size(output):
    return output[0] if isinstance(output, list) else output


def moved(network):
    """As if it had trained: nothing that starts at 0, or nearly, stays there."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim <= 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
        for name, buffer in network.named_buffers():
            if "running" in name:
                buffer.add_(torch.rand_like(buffer))
    return network


@pytest.fixture(scope="module")
def networks():
    """Shared: tests leave them as they are."""
    torch.manual_seed(0)
    return {name: moved(build()).eval() for name, build in NETWORKS.items()}


@each
def test_folded(name, networks, relative_error):
    network, x = copy.deepcopy(networks[name]).double(), torch.randn(SHAPE, dtype=torch.float64)
    folded = reparameterize(network)
    with torch.no_grad():
        assert relative_error(folded(x), network(x)) < 1e-10
    assert not any(isinstance(module, MaskedDepthwiseConv3d) for module in folded.modules())
    assert all(m.spectra is not None for m in folded.modules() if isinstance(m, DepthwiseConv3d))
    assert all(m.spectra is None for m in network.modules() if isinstance(m, DepthwiseConv3d))


@pytest.mark.slow
def test_exports_of_each_block(tmp_path, relative_error):
    """As TorchScript and ONNX."""
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    blocks = [
        UXBlock(4, 5, "lrbm"),
        Rep3DBlock(4, 5, "fixed", conv_bias=True),
        MedNeXtBlock(4, 6, 2, 3, "down", GlobalResponseNorm),
        MedNeXtBlock(6, 4, 2, 5, "up"),
        MedNeXtBlock(4, 4, 2, 3, response=GlobalResponseNorm),
    ]
    network, x = reparameterize(moved(nn.Sequential(*blocks)).eval()), torch.randn(1, 4, 8, 6, 4)
    torch.onnx.export(network, (x,), tmp_path / "model.onnx", input_names=["x"], dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (actual,) = session.run(None, {"x": x.numpy()})
    with torch.no_grad():
        expected = network(x)
        assert relative_error(torch.from_numpy(actual), expected) < 1e-5
        assert relative_error(torch.jit.script(network)(x), expected) < 1e-5
        assert relative_error(torch.jit.trace(network, x)(x), expected) < 1e-5


@each
def test_recomputing(name, networks):
    """The same step, in float64; fewer bytes are kept for the backward pass."""
    plain, x = copy.deepcopy(networks[name]).double().train(), torch.randn(SHAPE, dtype=torch.float64)
    recomputing = copy.deepcopy(plain)
    recompute(recomputing)
    kept = []
    for network in (plain, recomputing):
        storages = {}

        def pack(tensor, storages=storages):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            outputs = network(x)
        kept.append(sum(storages.values()))
        sum(y.square().mean() for y in (outputs if isinstance(outputs, list) else [outputs])).backward()
    assert kept[1] < kept[0] / 2
    for (key, one), other in zip(plain.named_parameters(), recomputing.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-8, atol=1e-12, msg=key)


@each
def test_a_step_in_mixed_precision(name):
    """Also where it starts; every parameter learns, or does so from its second step on."""
    network = NETWORKS[name]()
    check_layers(network)
    optimizer = torch.optim.AdamW(parameter_groups(network), lr=1e-2, fused=True)
    inferer = AutocastInferer(lambda x, network: network(x), enabled=True)
    for _ in range(3):
        optimizer.zero_grad()
        outputs = inferer(torch.randn(2, 1, 32, 32, 32), network.train())
        outputs = outputs if isinstance(outputs, list) else [outputs]
        assert all(y.dtype == torch.float32 for y in outputs)
        sum(y.square().mean() for y in outputs).backward()
        optimizer.step()
    for key, parameter in network.named_parameters():
        assert parameter.grad.isfinite().all() and optimizer.state[parameter]["exp_avg_sq"].any(), key


@each
@pytest.mark.parametrize("shape", [(1, 1, 32, 32, 24), (1, 1, 16, 16, 16), (1, 2, 32, 32, 32), (1, 32, 32, 32)])
def test_input_error_names_the_shape(name, shape, networks):
    told = r"multiple of 16 voxels, and x larger than 16x16x16" if shape[1:2] == (1,) else r"\(B, 1, D, H, W\)"
    with pytest.raises(ValueError, match=told):
        networks[name](torch.zeros(shape))


@each
def test_weights_that_do_not_fit(name, networks):
    network = copy.deepcopy(networks[name])
    weights = dict(network.state_dict())
    key = next(key for key in weights if key.endswith("weight"))
    with pytest.raises(NonFiniteWeights, match=f"{type(network).__name__}: 1 tensor.*{key}"):
        network.load_state_dict(weights | {key: torch.full_like(weights[key], torch.nan)})
    with pytest.raises(RuntimeError, match="^the state_dict is of another network: numbers in all 9 in the weights"):
        network.load_state_dict(nn.Linear(2, 3).state_dict())


def test_differences_of_two_uxnets(networks):
    weights = [networks[name].state_dict() for name in ("uxnet lrbm", "uxnet")]
    assert differences(*weights).startswith("modulation lrbm in the weights, none in the network; ")
    larger = UXNet(1, 3, **SMALL | {"kernel_size": 7}).state_dict()
    assert differences(larger, weights[1]).startswith("kernel size 7 in the weights, 5 in the network; ")


def test_a_trained_kernel_is_the_one_that_convolves(relative_error):
    """A fused optimizer leaves no trace in the kernel, from which kept spectra would know that they are old."""
    conv, x = DepthwiseConv3d(2, 21), torch.randn(1, 2, 24, 24, 24)
    optimizer = torch.optim.AdamW(conv.parameters(), lr=0.1, fused=True)
    with torch.no_grad():
        before = conv(x)
    conv(x).sum().backward()
    optimizer.step()
    with torch.no_grad():
        expected = nn.functional.conv3d(x, conv.kernel, conv.bias, padding=10, groups=2)
        assert relative_error(conv(x), expected) < 1e-5
        assert relative_error(conv.deployed()(x), expected) < 1e-5
    assert relative_error(before, expected) > 0.1


def test_global_response_norm(relative_error):
    """As its equation; tests/networks/test_released.py has the authors' code."""
    norm, x = moved(GlobalResponseNorm(4)), torch.randn(2, 4, 3, 5, 2)
    g = x.pow(2).sum((2, 3, 4)).sqrt()
    n = g / (g.mean(1, keepdim=True) + 1e-6)
    for i in range(4):
        expected = norm.gamma[i] * x[:, i] * n[:, i].view(2, 1, 1, 1) + norm.beta[i] + x[:, i]
        assert relative_error(norm(x)[:, i], expected) < 1e-5
    assert torch.equal(GlobalResponseNorm(4)(x), x)
    assert norm(torch.zeros_like(x)).isfinite().all()
