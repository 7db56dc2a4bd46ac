"""A deployed network has the weights of one checkpoint, and loading them moves nothing else."""

import copy
import functools

import pytest
import torch
from monai.networks.utils import copy_model_state
from torch import nn

from rep3d import MedNeXt, Rep3D, UXNet, depthwise_conv3d, reparameterize
from rep3d.networks.rep3d import DeployedRep3DBlock, Rep3DBlock

NEVER_LOADED = "never loaded, or left out"
SMALL = {"feature_size": (2, 2, 2, 2), "hidden_size": 2, "kernel_size": 3}


@pytest.fixture
def x():
    return torch.randn(1, 1, 32, 16, 16)


def block_of(network):
    return network.encoder.stages[0][0]


# --- half of another checkpoint


@pytest.mark.parametrize("how", ["strict=False", "strict=True"])
@pytest.mark.parametrize("form", ["folded", "built"])
def test_half_of_a_second_checkpoint(form, how, tiny_rep3d, x):
    """Of a training checkpoint in which the block's names are others, or missing."""
    first, second = tiny_rep3d(), tiny_rep3d(modulation="none")
    deployed = reparameterize(first) if form == "folded" else tiny_rep3d(deploy=True)
    deployed.load_state_dict(first.state_dict())
    deployed.eval()(x)
    if how == "strict=False":
        deployed.load_state_dict(second.state_dict(), strict=False)
    else:
        with pytest.raises(RuntimeError, match="state_dict"):
            deployed.load_state_dict(second.state_dict())
    with pytest.raises(RuntimeError, match=NEVER_LOADED):
        deployed(x)
    with pytest.raises(ValueError, match="NaN"):  # nor does it get into a file and back
        tiny_rep3d(deploy=True).load_state_dict(deployed.state_dict())
    deployed.load_state_dict(first.state_dict())  # a whole one mends it
    assert deployed(x).isfinite().all()


@pytest.mark.parametrize("how", ["copy_model_state", "one tensor"])
def test_half_of_a_second_checkpoint_beside_its_own(how, tiny_rep3d, x):
    """Refused before anything is loaded, so that the network stays what it is."""
    deployed = reparameterize(tiny_rep3d()).eval()
    expected = deployed(x)
    lacking = r"the weights lack encoder\.stages\.0\.0\.bias and 15 other\(s\) of its kernels and biases"
    with pytest.raises(ValueError, match=f"a deployed Rep3D takes whole checkpoints: {lacking}"):
        if how == "copy_model_state":
            copy_model_state(deployed, tiny_rep3d(modulation="none"))
        else:
            deployed.load_state_dict(deployed.state_dict() | {"out.conv.conv.bias": torch.ones(3)})
    assert torch.equal(deployed(x), expected)


def test_nor_inside_of_a_module(tiny_rep3d, x):
    module = nn.ModuleDict({"network": reparameterize(tiny_rep3d()).eval()})
    expected, changed = module["network"](x), {"network.out.conv.conv.bias": torch.ones(3)}
    with pytest.raises(ValueError, match="a deployed Rep3D takes whole checkpoints"):
        module.load_state_dict(module.state_dict() | changed)
    assert torch.equal(module["network"](x), expected)
    whole = nn.ModuleDict({"network": tiny_rep3d()}).eval()
    module.load_state_dict(whole.state_dict())
    assert torch.allclose(module["network"](x), whole["network"](x), atol=1e-4)


def test_tensors_may_be_assigned(tiny_rep3d):
    network, weights = tiny_rep3d(), tiny_rep3d().state_dict()
    network.load_state_dict(weights, assign=True)
    assert network.out.conv.conv.bias.data_ptr() == weights["out.conv.conv.bias"].data_ptr()


def test_half_of_a_second_deployed_checkpoint(tiny_rep3d, x):
    deployed = reparameterize(tiny_rep3d()).eval()
    other = reparameterize(tiny_rep3d()).state_dict()
    missing = next(name for name in other if name.endswith("kernel"))
    deployed.load_state_dict({name: tensor for name, tensor in other.items() if name != missing}, strict=False)
    with pytest.raises(RuntimeError, match=NEVER_LOADED):
        deployed(x)


def test_masked_kernels_of_other_families(x):
    network = UXNet(1, 2, **SMALL, modulation="lrbm")
    deployed = reparameterize(network).eval()
    deployed(x)
    deployed.load_state_dict(UXNet(1, 2, **SMALL, modulation="lrbm").state_dict(), strict=False)
    with pytest.raises(RuntimeError, match=NEVER_LOADED):
        deployed(x)


def test_a_block_in_a_module_of_others(tiny_rep3d, x):
    """Of which nothing else is known: a state with some of its tensors unloads it, one without any does not."""
    wrapper = nn.ModuleDict({"network": reparameterize(tiny_rep3d()), "head": nn.Conv3d(3, 2, 1)}).eval()
    wrapper.load_state_dict({"head.bias": torch.zeros(2)}, strict=False)
    wrapper["network"](x)
    blocks = nn.Sequential(reparameterize(Rep3DBlock(2, 3)), nn.Conv3d(2, 2, 1)).eval()
    blocks.load_state_dict({"1.bias": torch.zeros(2)}, strict=False)
    blocks(x.expand(1, 2, -1, -1, -1))
    blocks.load_state_dict({"0.bias": torch.zeros(2)}, strict=False)
    with pytest.raises(RuntimeError, match=NEVER_LOADED):
        blocks(x.expand(1, 2, -1, -1, -1))


def test_whole_loads_that_stay_what_they_are(tiny_rep3d, x, relative_error):
    """Its own tensors handed back, nothing in common, and all of another network's."""
    deployed, other = reparameterize(tiny_rep3d()).eval(), reparameterize(tiny_rep3d()).eval()
    expected = deployed(x)
    deployed.load_state_dict(deployed.state_dict())
    copy_model_state(deployed, nn.Conv3d(1, 1, 1))
    assert torch.equal(deployed(x), expected)
    copy_model_state(deployed, other)
    assert relative_error(deployed(x), other(x)) < 1e-6


def test_transfer_between_networks_that_train(x):
    """To another number of classes: what does not fit stays."""
    network = MedNeXt(1, 3, init_filters=2)
    copy_model_state(network, MedNeXt(1, 5, init_filters=2))
    network(x)


# --- a deployed checkpoint into a network that trains


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("modulation", ["lrbm", "none"])
def test_folded_kernels_do_not_train(modulation, strict, tiny_rep3d):
    """With `strict=False` the random kernels would stay."""
    network = tiny_rep3d(modulation=modulation)
    before = block_of(network).weight.clone()
    with pytest.raises(RuntimeError, match="form deployed in the weights, training in the network") as raised:
        network.load_state_dict(reparameterize(tiny_rep3d(modulation=modulation)).state_dict(), strict=strict)
    assert "\n" not in str(raised.value) and torch.equal(block_of(network).weight, before)


def test_nor_do_those_of_other_families_and_of_single_blocks():
    with pytest.raises(RuntimeError, match="another network"):
        network = UXNet(1, 2, **SMALL, modulation="fixed")
        network.load_state_dict(reparameterize(network).state_dict(), strict=False)
    block = Rep3DBlock(2, 3)
    with pytest.raises(RuntimeError, match="0.kernel is the folded kernel of a deployed network"):
        nn.Sequential(block).load_state_dict(nn.Sequential(reparameterize(block)).state_dict(), strict=False)


@pytest.mark.parametrize("modulation", ["lrbm", "none"])
def test_folded_kernels_do_not_train_by_copy_model_state(modulation):
    """It copies all but the kernels, whose names are others, also where the classes are others."""

    def build(classes: int) -> Rep3D:
        return Rep3D(1, classes, **SMALL, modulation=modulation, conv_bias=True)

    network, other = build(3), build(5)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for trained in (build(3), other):
        with pytest.raises(ValueError, match="lack encoder.stages.0.0.weight, as those of a deployed network do"):
            copy_model_state(network, reparameterize(trained))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    copy_model_state(network, other)  # of a network that trains: all that fits
    assert torch.equal(block_of(network).weight, block_of(other).weight)


def test_weights_without_the_kernels_are_no_deployed_ones():
    """What else stands in a block shows that it trained."""
    network, other = Rep3D(1, 3, **SMALL), Rep3D(1, 3, **SMALL)
    for parameter in other.parameters():
        nn.init.constant_(parameter, 0.5)
    state = other.state_dict()
    left_out = {f"{name}.weight" for name, module in network.named_modules() if isinstance(module, Rep3DBlock)}
    copy_model_state(network, {name: tensor for name, tensor in state.items() if name not in left_out})
    assert all(torch.equal(v, state[k]) != (k in left_out) for k, v in network.state_dict().items())


def test_nor_those_of_other_families_by_copy_model_state():
    network = UXNet(1, 2, **SMALL, modulation="fixed")
    with pytest.raises(ValueError, match="lack encoder.stages.0.0.conv.weight"):
        copy_model_state(network, reparameterize(UXNet(1, 2, **SMALL, modulation="fixed")))


# --- what else loading and folding do


@pytest.mark.parametrize("modulation", ["lrbm", "fixed"])
def test_random_numbers_stay_what_they_are(modulation, tiny_rep3d):
    network, other = tiny_rep3d(modulation=modulation), UXNet(1, 2, **SMALL, modulation=modulation)
    deployed = tiny_rep3d(modulation=modulation, deploy=True)
    state = torch.get_rng_state()
    deployed.load_state_dict(network.state_dict())
    reparameterize(network)
    reparameterize(other)
    assert torch.equal(torch.get_rng_state(), state)


def test_folding_on_load_in_float64(tiny_rep3d, x, relative_error):
    network = tiny_rep3d().double().eval()
    deployed = tiny_rep3d(deploy=True).double().eval()
    deployed.load_state_dict(network.state_dict())
    assert relative_error(deployed(x.double()), network(x.double())) < 1e-12
    half = tiny_rep3d(deploy=True).bfloat16()  # folded before it is rounded
    half.load_state_dict(network.state_dict())
    for name, tensor in reparameterize(network).state_dict().items():
        assert torch.equal(half.state_dict()[name], tensor.bfloat16()), name


@pytest.mark.parametrize("block_order", ["conv-norm-act", "norm-conv-act"])
def test_another_eps_of_the_batch_norms(block_order, tiny_rep3d, x, relative_error):
    """A checkpoint does not tell it: a network that was folded knows it, and folds later checkpoints with it."""
    network = tiny_rep3d(block_order=block_order).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = 0.5
    deployed = reparameterize(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    deployed.load_state_dict(network.state_dict())
    assert relative_error(deployed(x), network(x)) < 1e-5


def test_frozen_networks_deploy_frozen(tiny_rep3d):
    for network in (tiny_rep3d(), UXNet(1, 2, **SMALL, modulation="lrbm"), MedNeXt(1, 2, init_filters=2)):
        assert all(parameter.requires_grad for parameter in reparameterize(network).parameters())
        network.requires_grad_(False)
        assert not any(parameter.requires_grad for parameter in reparameterize(network).parameters())
    network = tiny_rep3d()
    block_of(network).requires_grad_(False)
    deployed = reparameterize(network)
    frozen = {id(module) for module in deployed.modules() if isinstance(module, DeployedRep3DBlock)}
    assert not block_of(deployed).kernel.requires_grad and len(frozen) == 8
    assert deployed.encoder.stages[1][0].kernel.requires_grad
    next(block_of(network).parameters()).requires_grad_(True)  # of a block that is frozen in part, all trains
    assert all(parameter.requires_grad for parameter in block_of(reparameterize(network)).parameters())


def test_a_frozen_deployed_network_loads(tiny_rep3d, x, relative_error):
    deployed, network = reparameterize(tiny_rep3d().requires_grad_(False)).eval(), tiny_rep3d().eval()
    deployed.load_state_dict(network.state_dict())
    assert relative_error(deployed(x), network(x)) < 1e-5


@pytest.mark.parametrize("fused", [True, False])
def test_a_deployed_network_that_trains_on(fused, tiny_rep3d, x, relative_error, monkeypatch):
    """Evaluated, trained for a step, evaluated again: no spectrum of before the step."""
    by_fft = functools.partial(depthwise_conv3d, backend="fft")
    monkeypatch.setattr("rep3d.networks.depthwise.depthwise_conv3d", by_fft)
    deployed = reparameterize(tiny_rep3d()).eval()
    with torch.no_grad():
        before = deployed(x)
    assert len(block_of(deployed).spectra.entries) == 1
    optimizer = torch.optim.AdamW(deployed.parameters(), lr=0.1, fused=fused)
    deployed(x).square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        expected = copy.deepcopy(deployed)(x)  # copies keep no spectra
        assert relative_error(before, expected) > 0.1
        assert torch.equal(deployed(x), expected)
