"""Released networks' state dicts, converted, give the released networks' outputs.

Recorded in tests/fixtures/released, with weights and image of tests/released_weights.py, in float32 on a CPU, in
eval mode: the networks of https://github.com/MASILab/3DUX-Net (14ea46b), https://github.com/MASILab/RepUX-Net (3cd20c4,
deploy mode, the one that runs without a GPU) and https://github.com/MIC-DKFZ/MedNeXt (0b78ed8; MedNeXt-v2 as its
`grn=True`), with deep supervision all scales. Every 3rd voxel of each axis is kept.
tests/test_deploy.py compares Rep3D.
"""

from pathlib import Path

import pytest
import torch
from released_weights import formula_image, formula_state

from rep3d import MedNeXt, MedNeXtV2, Rep3D, UXNet, convert_official_state_dict, reparameterize

FIXTURES = Path(__file__).parents[1] / "fixtures/released"
NETWORKS = {
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


@each
def test_names_of_a_parallel_run(name, recorded):
    state_dict = formula_state(recorded[name]["shapes"])
    plain = convert_official_state_dict(state_dict)
    parallel = convert_official_state_dict({f"module.{key}": tensor for key, tensor in state_dict.items()})
    assert plain.keys() == parallel.keys()
    assert all(torch.equal(plain[key], parallel[key]) for key in plain)


@each
def test_a_name_that_is_not_released(name, recorded):
    state_dict = formula_state(recorded[name]["shapes"]) | {"head.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match="'head.weight', which the released network does not have"):
        convert_official_state_dict(state_dict)


@pytest.mark.parametrize("state_dict", [{}, {"conv.weight": torch.zeros(1)}], ids=len)
def test_weights_of_something_else(state_dict):
    with pytest.raises(ValueError, match="expected names of Rep3D, 3D RepUX-Net, 3D UX-Net or MedNeXt"):
        convert_official_state_dict(state_dict)


def test_weights_of_another_size(recorded):
    weights = convert_official_state_dict(formula_state(recorded["mednext_b_k3"]["shapes"]))
    with pytest.raises(RuntimeError, match="the state_dict is of another network: numbers in all"):
        MedNeXt(1, 3, init_filters=4, deep_supervision=True).load_state_dict(weights)
