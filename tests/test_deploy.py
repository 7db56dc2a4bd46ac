import copy
import io
import logging
import pickle

import pytest
import torch
from ignite.engine import Engine
from monai.handlers import CheckpointLoader
from monai.networks.utils import convert_to_torchscript, copy_model_state
from torch import nn

from rep3d import convert_official_state_dict, reparameterize
from rep3d.networks.rep3d import BLOCK_ORDERS, MODULATIONS, DeployedRep3DBlock, Rep3DBlock

SHAPE = (1, 1, 32, 32, 32)
NEVER_LOADED = "never loaded"
# Every modulation, and every order of the block with the one that the paper trains, are quick enough for every commit.
each_form = pytest.mark.parametrize(
    "modulation, block_order",
    [
        pytest.param(
            modulation, order, marks=[] if modulation == "lrbm" or order == BLOCK_ORDERS[0] else pytest.mark.slow
        )
        for modulation in MODULATIONS
        for order in BLOCK_ORDERS
    ],
)


def blocks_of(network, kind):
    return [module for module in network.modules() if isinstance(module, kind)]


def train(network):
    """Move parameters and BatchNorm statistics far from where they start, and put one BatchNorm scale at exactly 0."""
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    network.train()
    for _ in range(3):
        optimizer.zero_grad()
        network(2 * torch.randn(2, *SHAPE[1:]) + 1).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        for block in blocks_of(network, Rep3DBlock):
            block.norm.running_mean.add_(torch.randn(block.norm.num_features) * block.norm.running_var.sqrt())
            block.norm.running_var.mul_(1 + torch.rand_like(block.norm.running_var))
            block.norm.bias.add_(torch.randn_like(block.norm.bias))
        block.norm.weight[0] = 0
    return network.eval()


@pytest.fixture(scope="module")
def trained(tiny_rep3d):
    """One trained network per form, shared: tests leave it as it is."""
    networks = {}

    def build(modulation="lrbm", block_order="conv-norm-act"):
        key = modulation, block_order
        if key not in networks:
            networks[key] = train(tiny_rep3d(modulation=modulation, block_order=block_order))
        return networks[key]

    return build


@pytest.fixture
def x():
    return torch.randn(SHAPE)


# --- names of the released network


@pytest.mark.parametrize("name", ["rep3d.head.weight", "encoder6.layer.weight", "stages.0.0.kernel"])
def test_official_name_unknown(name):
    with pytest.raises(ValueError, match=name):
        convert_official_state_dict({name: torch.zeros(1)})


# --- folding


@each_form
def test_reparameterize(modulation, block_order, trained, x, relative_error):
    """In float64 too: the network amplifies rounding, and only there a small mistake differs from it."""
    network = copy.deepcopy(trained(modulation, block_order))
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        deployed = reparameterize(network.to(dtype))
        assert not blocks_of(deployed, (Rep3DBlock, nn.BatchNorm3d))
        assert len(blocks_of(deployed, DeployedRep3DBlock)) == 8
        assert {parameter.dtype for parameter in deployed.parameters()} == {dtype}
        with torch.no_grad():
            assert relative_error(deployed(x.to(dtype)), network(x.to(dtype))) < tolerance
    with torch.no_grad():
        for actual, expected in zip(deployed.encoder(x.double()), network.encoder(x.double()), strict=True):
            assert relative_error(actual, expected) < 1e-10


def test_trained_networks_are_far_from_the_start(trained):
    """Otherwise the tests above would also pass with parts of the folding left out."""
    blocks = blocks_of(trained(), Rep3DBlock)
    assert blocks[-1].norm.weight[0] == 0
    for block in blocks:
        assert block.mask.norms[-1].weight.abs().min() > 1e-3
        assert block.mask.log_beta.abs() > 1e-3
        assert (block.norm.running_mean / block.norm.running_var.sqrt()).abs().max() > 0.1


@pytest.mark.parametrize("training", [True, False])
def test_reparameterize_leaves_its_argument(training, trained, x, relative_error):
    network = copy.deepcopy(trained()).train(training)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    deployed = reparameterize(network)
    with torch.no_grad():
        for parameter in deployed.parameters():
            parameter.zero_()
    assert network.training == training and deployed.training == training
    assert all(module.training == training for module in [*network.modules(), *deployed.modules()])
    assert network.state_dict().keys() == before.keys()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_reparameterize_twice_and_inside_of_a_module(trained, x, relative_error):
    wrapped = nn.Sequential(trained(), nn.Softmax(dim=1))
    deployed = reparameterize(reparameterize(wrapped))
    assert not blocks_of(deployed, Rep3DBlock)
    assert relative_error(deployed(x), wrapped(x)) < 1e-5


# --- loading into a deployed network


@each_form
def test_deployed_network_loads_both_forms(modulation, block_order, trained, tiny_rep3d, x, relative_error):
    """A checkpoint of the training form, and a deployed one; strictly and not."""
    network = trained(modulation, block_order)
    with torch.no_grad():
        expected = network(x)
    for state_dict in (network.state_dict(), reparameterize(network).state_dict()):
        names = list(state_dict)
        for strict in (True, False):
            deployed = tiny_rep3d(modulation=modulation, block_order=block_order, deploy=True).eval()
            result = deployed.load_state_dict(state_dict, strict=strict)
            assert not result.missing_keys and not result.unexpected_keys
            assert list(state_dict) == names
            with torch.no_grad():
                assert relative_error(deployed(x), expected) < 1e-5


@pytest.mark.parametrize(
    "arguments",
    [
        {"generator_depth": 3},
        pytest.param({"generator_kernel_size": 3}, marks=pytest.mark.slow),
        pytest.param({"generator_depth": 1}, marks=pytest.mark.slow),
    ],
)
def test_deployed_network_loads_its_generator(arguments, tiny_rep3d, x, relative_error):
    network = train(tiny_rep3d(**arguments))
    deployed = tiny_rep3d(**arguments, deploy=True).eval()
    deployed.load_state_dict(network.state_dict())
    assert relative_error(deployed(x), network(x)) < 1e-4
    assert relative_error(reparameterize(network)(x), network(x)) < 1e-4


def test_deployed_network_loads_twice(trained, tiny_rep3d, x, relative_error):
    deployed = tiny_rep3d(deploy=True).eval()
    for network in (tiny_rep3d().eval(), trained()):
        deployed.load_state_dict(network.state_dict())
        assert relative_error(deployed(x), network(x)) < 1e-5


@pytest.mark.parametrize("block_order", BLOCK_ORDERS)
def test_never_loaded(block_order, tiny_rep3d, x):
    with pytest.raises(RuntimeError, match=NEVER_LOADED):
        tiny_rep3d(block_order=block_order, deploy=True)(x)


@pytest.mark.parametrize("deployed_checkpoint", [False, True])
@each_form
def test_half_load_by_copy_model_state(modulation, block_order, deployed_checkpoint, trained, tiny_rep3d, x):
    """`monai.bundle.load` copies what has the same name and shape: of a training checkpoint, no kernels."""
    network = trained(modulation, block_order)
    deployed = tiny_rep3d(modulation=modulation, block_order=block_order, deploy=True).eval()
    if deployed_checkpoint:
        copy_model_state(deployed, reparameterize(network))
        assert deployed(x).isfinite().all()
    else:
        with pytest.raises(
            ValueError, match="a deployed Rep3D takes whole checkpoints: the weights lack encoder.stages"
        ):
            copy_model_state(deployed, network)
        with pytest.raises(RuntimeError, match=NEVER_LOADED):
            deployed(x)


@pytest.mark.parametrize("strict_shape", [True, False])
@pytest.mark.parametrize("nested", [True, False])
def test_half_load_by_checkpoint_loader(nested, strict_shape, trained, tiny_rep3d, x, tmp_path, relative_error):
    """Right or an error, never something in between."""
    network, deployed = trained(), tiny_rep3d(deploy=True).eval()
    state_dict = network.state_dict()
    torch.save({"model": state_dict} if nested else state_dict, tmp_path / "model.pt")
    loader = CheckpointLoader(str(tmp_path / "model.pt"), {"model": deployed}, strict=False, strict_shape=strict_shape)
    loader.logger = logging.getLogger(__name__)
    loader(Engine(lambda engine, batch: None))
    if strict_shape:
        assert relative_error(deployed(x), network(x)) < 1e-5
    else:
        with pytest.raises(RuntimeError, match=NEVER_LOADED):
            deployed(x)


@pytest.mark.parametrize(
    "part", ["weight", "mask", "mask.log_beta", "mask.convs.1", "mask.norms.1.weight", "norm", "norm.running_mean"]
)
def test_truncated_training_checkpoint(part, trained, tiny_rep3d, x):
    state_dict = trained().state_dict()
    truncated = {name: tensor for name, tensor in state_dict.items() if f"encoder.stages.0.0.{part}" not in name}
    assert len(truncated) < len(state_dict)
    deployed = tiny_rep3d(deploy=True).eval()
    with pytest.raises(RuntimeError, match="Missing key"):
        deployed.load_state_dict(truncated, strict=True)
    deployed = tiny_rep3d(deploy=True).eval()
    deployed.load_state_dict(truncated, strict=False)
    with pytest.raises(RuntimeError, match=NEVER_LOADED):
        deployed(x)


@pytest.mark.parametrize(
    "block_order, name",
    [
        ("conv-norm-act", "kernel"),
        ("conv-norm-act", "bias"),
        ("norm-conv-act", "kernel"),
        ("norm-conv-act", "scale"),
        ("norm-conv-act", "shift"),
    ],
)
def test_truncated_deployed_checkpoint(block_order, name, trained, tiny_rep3d, x):
    state_dict = reparameterize(trained(block_order=block_order)).state_dict()
    truncated = {key: tensor for key, tensor in state_dict.items() if not key.endswith(f"stages.1.0.{name}")}
    assert len(truncated) == len(state_dict) - 1
    deployed = tiny_rep3d(block_order=block_order, deploy=True).eval()
    with pytest.raises(RuntimeError, match="Missing key"):
        deployed.load_state_dict(truncated, strict=True)
    deployed = tiny_rep3d(block_order=block_order, deploy=True).eval()
    deployed.load_state_dict(truncated, strict=False)
    with pytest.raises(RuntimeError, match=NEVER_LOADED):
        deployed(x)


@pytest.mark.parametrize("saved, built", [("lrbm", "none"), ("none", "lrbm"), ("csla", "lrbm"), ("lrbm", "fixed")])
def test_checkpoint_of_another_modulation(saved, built, trained, tiny_rep3d, x):
    deployed = tiny_rep3d(modulation=built, deploy=True).eval()
    deployed.load_state_dict(trained(saved).state_dict(), strict=False)
    with pytest.raises(RuntimeError, match=NEVER_LOADED):
        deployed(x)


@pytest.mark.parametrize("saved, built", [("conv-norm-act", "norm-conv-act"), ("norm-conv-act", "conv-norm-act")])
def test_deployed_checkpoint_of_another_block_order(saved, built, trained, tiny_rep3d, x):
    deployed = tiny_rep3d(block_order=built, deploy=True).eval()
    deployed.load_state_dict(reparameterize(trained(block_order=saved)).state_dict(), strict=False)
    with pytest.raises(RuntimeError, match=NEVER_LOADED):
        deployed(x)


# --- copies and export


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))], ids=["deepcopy", "pickle"]
)
def test_copies_of_a_deployed_network(duplicate, trained, x):
    deployed = reparameterize(trained())
    assert torch.equal(duplicate(deployed)(x), deployed(x))


def through_a_file(scripted):
    buffer = io.BytesIO()
    torch.jit.save(scripted, buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)


@pytest.mark.slow
@each_form
def test_script_of_the_training_form_is_deployed(modulation, block_order, trained, x, relative_error):
    network = trained(modulation, block_order)
    names = list(network.state_dict())
    scripted = torch.jit.script(network)
    assert list(network.state_dict()) == names
    assert scripted.state_dict().keys() == reparameterize(network).state_dict().keys()
    with torch.no_grad():
        for module in (scripted, through_a_file(scripted)):
            assert relative_error(module(x), network(x)) < 1e-5


def test_script_checks_the_input(trained):
    scripted = torch.jit.script(trained())
    with pytest.raises(torch.jit.Error, match="multiple of 16"):
        scripted(torch.zeros(1, 1, 32, 32, 30))


@pytest.mark.slow
@pytest.mark.parametrize("deploy", [False, True])
def test_trace(deploy, trained, x, relative_error):
    network = reparameterize(trained()) if deploy else trained()
    with torch.no_grad():
        traced = torch.jit.trace(network, x, check_trace=False)  # which is checked below
        other_size = torch.randn(2, 1, 32, 48, 32)
        for module in (traced, through_a_file(traced)):
            assert relative_error(module(x), network(x)) < 1e-5
            assert relative_error(module(other_size), network(other_size)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("use_trace", [False, True])
def test_convert_to_torchscript(use_trace, trained, x, tmp_path, relative_error):
    """The door that `monai.bundle ckpt_export` takes."""
    path = tmp_path / "model.ts"
    arguments = {"device": torch.device("cpu"), "rtol": 1e-3, "atol": 1e-4, "use_trace": use_trace}
    convert_to_torchscript(trained(), path, verify=True, inputs=(x,), **arguments)
    assert relative_error(torch.jit.load(path)(x), trained()(x)) < 1e-5


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize("block_order", BLOCK_ORDERS)
def test_onnx(block_order, trained, x, tmp_path, relative_error):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    deployed = reparameterize(trained(block_order=block_order))
    torch.onnx.export(deployed, (x,), tmp_path / "model.onnx", input_names=["image"], dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (actual,) = session.run(None, {"image": x.numpy()})
    assert relative_error(torch.from_numpy(actual), deployed(x).detach()) < 1e-4


@pytest.mark.parametrize("deploy", [False, True])
@pytest.mark.parametrize("modulations", [("fixed", "none"), ("none", "fixed"), ("lrbm", "fixed")])
def test_checkpoint_of_another_modulation_does_not_load(tiny_rep3d, modulations, deploy):
    saved, other = modulations
    with pytest.raises(RuntimeError, match="state_dict"):
        tiny_rep3d(modulation=other, deploy=deploy).load_state_dict(tiny_rep3d(modulation=saved).state_dict())
