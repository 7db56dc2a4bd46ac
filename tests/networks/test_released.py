"""Released networks' state dicts, converted, give the released networks' outputs.

Recorded in tests/fixtures/released, with weights and image of tests/released_weights.py, in float32 on a CPU, in
eval mode: the networks of https://github.com/leeh43/Rep3D (c3d5839, by tests/fixtures/record_rep3d.py; deploy mode, the
one that runs), https://github.com/MASILab/3DUX-Net (14ea46b), https://github.com/MASILab/RepUX-Net (3cd20c4, deploy
mode, the one that runs without a GPU) and https://github.com/MIC-DKFZ/MedNeXt (0b78ed8; MedNeXt-v2 as its `grn=True`),
with deep supervision all scales. Every 3rd voxel of each axis is kept.
"""

import re
from pathlib import Path

import pytest
import torch
from released_weights import formula_image, formula_state

from rep3d import MedNeXt, MedNeXtV2, Rep3D, UXNet, convert_official_state_dict, reparameterize
from rep3d.networks.rep3d import MODULATIONS, DeployedRep3DBlock, Rep3DBlock

FIXTURES = Path(__file__).parents[1] / "fixtures/released"
NETWORKS = {
    "rep3d": lambda *args, **kwargs: Rep3D(*args, **kwargs, deploy=True),
    "uxnet": UXNet,
    "repuxnet": lambda *args, **kwargs: Rep3D(*args, **kwargs, deploy=True),
    "mednext_b_k3": MedNeXt,
    "mednext_s_k5": MedNeXt,
    "mednext_v2": MedNeXtV2,
}
each = pytest.mark.parametrize("name", NETWORKS)


@pytest.fixture(scope="module")
def recorded():
    return {name: torch.load(FIXTURES / f"{name}.pt", weights_only=True) for name in NETWORKS}


def built(name, recorded):
    network = NETWORKS[name](1, 3, **recorded[name]["arguments"])
    network.load_state_dict(convert_official_state_dict(formula_state(recorded[name]["shapes"])))
    return network.eval()


def thinned(y):
    return y[:, :, ::3, ::3, ::3]


@each
def test_agrees_with_the_released_network(name, recorded, relative_error):
    network, expected, x = built(name, recorded), recorded[name]["outputs"], formula_image()
    with torch.no_grad():
        assert relative_error(thinned(network(x)), expected[0]) < 1e-4
        assert relative_error(thinned(reparameterize(network)(x)), expected[0]) < 1e-4
        if len(expected) > 1:
            outputs = network.train()(x)
            assert len(outputs) == len(expected) == 5
            for actual, one in zip(outputs, expected, strict=True):
                assert relative_error(thinned(actual), one) < 1e-4


@pytest.mark.parametrize("modulation", MODULATIONS)
def test_released_kernels_are_effective_ones(modulation, recorded, relative_error):
    """Whatever the modulation argument."""
    released, x = recorded["rep3d"], formula_image()
    network = Rep3D(1, 3, **released["arguments"], modulation=modulation, deploy=True).eval()
    network.load_state_dict(convert_official_state_dict(formula_state(released["shapes"])))
    with torch.no_grad():
        for actual, expected in zip(network.encoder(x), released["maps"], strict=True):
            assert relative_error(thinned(actual), expected) < 1e-5
        assert relative_error(thinned(network(x)), released["outputs"][0]) < 1e-4  # processors round otherwise


def test_mask_is_multiplied_once(recorded, relative_error):
    """As in the first pass of the released block, whose generator gives one number: that of its last normalization."""
    released = recorded["rep3d"]["masked_block"]
    state, x = formula_state(released["shapes"]), formula_image().view(2, 4, 16, 8, 8)
    block = Rep3DBlock(**released["arguments"]).eval()
    with torch.no_grad():
        block.weight.copy_(state["dwconv.weight"])
        block.mask.norms[-1].bias.fill_(state["norm_w2.bias"].item())  # its scale is still 0
        block.norm.load_state_dict({name: state[f"norm.{name}"] for name in block.norm.state_dict()})
        for _ in range(3):
            assert relative_error(thinned(block(x)), released["output"]) < 1e-5
    assert torch.equal(block.weight, state["dwconv.weight"])


@pytest.mark.parametrize("bias", [False, True], ids=["Rep3D", "RepUX-Net"])
def test_the_folded_normalization_is_batch_norm(bias, relative_error):
    """Where its epsilon matters: the variance is as small."""
    conv, norm = torch.nn.Conv3d(2, 2, 3, padding=1, groups=2, bias=bias), torch.nn.BatchNorm3d(2)
    state = {name: torch.rand(tensor.shape) + 0.5 for name, tensor in norm.state_dict().items()}
    norm.load_state_dict(state | {"running_var": 1e-5 * state["running_var"]})
    parts = {"dwconv": conv.double(), "norm": norm.double().eval()}
    released = {f"rep3d.stages.0.0.{part}.{name}": t for part, m in parts.items() for name, t in m.state_dict().items()}
    if not bias:  # as of a PyTorch before 0.4.1
        del released["rep3d.stages.0.0.norm.num_batches_tracked"]
    block = DeployedRep3DBlock(channels=2, kernel_size=3).double()
    folded = convert_official_state_dict(released)
    block.load_state_dict({name.removeprefix("encoder.stages.0.0."): tensor for name, tensor in folded.items()})
    x = torch.randn(1, 2, 4, 4, 4, dtype=torch.float64)
    assert relative_error(block(x), torch.nn.functional.gelu(norm(conv(x)))) < 1e-12


@each
def test_names_of_a_parallel_run(name, recorded):
    state_dict = formula_state(recorded[name]["shapes"])
    plain = convert_official_state_dict(state_dict)
    assert list(state_dict) == list(recorded[name]["shapes"])
    parallel = convert_official_state_dict({f"module.{key}": tensor for key, tensor in state_dict.items()})
    assert plain.keys() == parallel.keys() and {tensor.dtype for tensor in plain.values()} == {torch.float32}
    assert all(torch.equal(plain[key], parallel[key]) for key in plain)


@each
def test_a_name_that_is_not_released(name, recorded):
    state_dict = formula_state(recorded[name]["shapes"]) | {"head.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match="'head.weight', which the released network does not have"):
        convert_official_state_dict(state_dict)


@pytest.mark.parametrize("state_dict", [{}, {"conv.weight": torch.zeros(1)}], ids=len)
def test_weights_of_something_else(state_dict):
    expected = rf"has the names {re.escape(str(list(state_dict)))}, not those of Rep3D, 3D RepUX-Net, 3D UX-Net or"
    with pytest.raises(ValueError, match=expected):
        convert_official_state_dict(state_dict)


def test_weights_of_another_size(recorded):
    weights = convert_official_state_dict(formula_state(recorded["mednext_b_k3"]["shapes"]))
    with pytest.raises(RuntimeError, match="the state_dict is of another network: numbers in all"):
        MedNeXt(1, 3, init_filters=4, deep_supervision=True).load_state_dict(weights)
