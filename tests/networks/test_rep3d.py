import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rep3d import Rep3D
from rep3d.networks.lrbm import LRBM
from rep3d.networks.rep3d import BLOCK_ORDERS, MODULATIONS, Rep3DBlock, Rep3DEncoder
from rep3d.precision import check_layers
from rep3d.training.parameters import parameter_groups

SHAPE = (1, 1, 32, 32, 32)


def train_steps(network, steps=2):
    """Optimizer steps on noise. Returns the optimizer."""
    optimizer = torch.optim.AdamW(parameter_groups(network), lr=1e-2)
    x, target = torch.randn(2, *SHAPE[1:]), torch.randint(3, (2, *SHAPE[2:]))
    network.train()
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(network(x), target).backward()
        optimizer.step()
    return optimizer


def state_copy(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


# --- sizes of the paper's networks


@pytest.mark.parametrize("modulation, expected", [("fixed", 65_826_928), ("none", 65_826_928), ("lrbm", 66_820_536)])
def test_parameter_count(modulation, expected):
    with torch.device("meta"):
        network = Rep3D(1, 16, modulation=modulation)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected
    assert not any(getattr(module, "use_checkpoint", False) for module in network.modules())


def test_the_large_convolutions_may_have_a_bias(tiny_rep3d):
    blocks = [module for module in tiny_rep3d(conv_bias=True).modules() if isinstance(module, Rep3DBlock)]
    assert len(blocks) == 8 and all(block.bias.shape == (len(block.weight),) for block in blocks)


def test_an_encoder_without_channels():
    with pytest.raises(ValueError, match="^in_channels must be a positive integer, got 0"):
        Rep3DEncoder(0, (4, 4, 4, 4), (1, 1, 1, 1), Rep3DBlock)


# --- the opposite of what is wrong in the released training code


@pytest.mark.parametrize("block_order", BLOCK_ORDERS)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_gradients_reach_kernel_beta_and_generator(depth, block_order, tiny_rep3d):
    network = tiny_rep3d(generator_depth=depth, block_order=block_order)
    state = train_steps(network).state
    blocks = {name: module for name, module in network.named_modules() if isinstance(module, Rep3DBlock)}
    assert len(blocks) == 8
    for name, block in blocks.items():
        # Over all steps: the gradient of a single number may pass through zero at one of them.
        gradients = {name: state[p]["exp_avg_sq"].max().sqrt() for name, p in block.named_parameters()}
        for parameter_name, gradient in gradients.items():
            # Far above what rounding leaves of a gradient that is zero.
            assert gradient > 1e-6 * gradients["weight"], f"{name}.{parameter_name}"
        assert gradients["weight"] > 0
        assert block.mask.log_beta.item() != 0


def test_generator_varies_over_kernel_positions_and_channels(tiny_rep3d):
    """By what it makes of the prior, not by the border's zeros alone; and not only by a factor or a number."""
    network = tiny_rep3d()
    train_steps(network)
    for mask in (module for module in network.modules() if isinstance(module, LRBM)):
        with torch.no_grad():
            prior = mask.prior()
            generated = mask.generate(prior).flatten(1)
            of_a_constant = mask.generate(torch.full_like(prior, prior.mean().item())).flatten(1)
        assert (generated - of_a_constant).std(dim=1).min() > 1e-4
        assert generated.std(dim=1).min() > 1e-4
        alike = torch.corrcoef(generated).abs() - torch.eye(len(generated))
        assert alike.max() < 0.999


@pytest.mark.parametrize("modulation", MODULATIONS)
def test_optimizer_holds_the_parameters_in_use(modulation, tiny_rep3d):
    network = tiny_rep3d(modulation=modulation)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    objects = {id(parameter) for parameter in network.parameters()}
    optimizer = train_steps(network)
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert held == objects == {id(parameter) for parameter in network.parameters()}
    for name, parameter in network.named_parameters():
        if name.endswith(("encoder.stages.0.0.weight", "small_weight", "log_beta")):
            assert not torch.equal(parameter, before[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("modulation", MODULATIONS)
def test_forward_leaves_the_weights_unchanged(modulation, tiny_rep3d):
    network, x = tiny_rep3d(modulation=modulation), torch.randn(SHAPE)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    for _ in range(3):
        network(x).sum().backward()
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name]), name
    network.eval()
    before, y = state_copy(network), network(x)
    for _ in range(3):
        assert torch.equal(network(x), y)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


# --- the block


def test_effective_kernels():
    blocks = {modulation: Rep3DBlock(2, 7, modulation) for modulation in MODULATIONS}
    prior = LRBM(2, 7).prior()
    for name, block in blocks.items():
        assert block.effective_kernel().shape == (2, 1, 7, 7, 7), name
    assert torch.equal(blocks["none"].effective_kernel(), blocks["none"].weight)
    torch.testing.assert_close(blocks["fixed"].effective_kernel(), blocks["fixed"].weight * prior)
    torch.testing.assert_close(blocks["lrbm"].effective_kernel(), blocks["lrbm"].weight * prior)
    csla = blocks["csla"]
    expected = csla.weight.detach().clone()
    assert csla.small_weight.shape == (2, 1, 3, 3, 3)
    expected[:, :, 2:5, 2:5, 2:5] += csla.small_weight.detach()
    assert torch.equal(csla.effective_kernel(), expected)


def test_csla_is_the_sum_of_two_convolutions(relative_error):
    block, x = Rep3DBlock(2, 7, "csla"), torch.randn(1, 2, 9, 8, 7)
    large = F.conv3d(x, block.weight, padding=3, groups=2)
    small = F.conv3d(x, block.small_weight, padding=1, groups=2)
    assert relative_error(block(x), F.gelu(block.norm(large + small))) < 1e-5


@pytest.mark.parametrize("block_order", BLOCK_ORDERS)
def test_block_is_its_equation(block_order, relative_error):
    block, x = Rep3DBlock(2, 5, block_order=block_order), torch.randn(1, 2, 9, 8, 7) + 2
    norm = nn.BatchNorm3d(2)

    def convolution(x):
        return F.conv3d(x, block.effective_kernel(), padding=2, groups=2)

    expected = norm(convolution(x)) if block_order == "conv-norm-act" else convolution(norm(x))
    assert relative_error(block(x), F.gelu(expected)) < 1e-5


def test_block_orders_differ(tiny_rep3d, relative_error):
    first, second = (tiny_rep3d(block_order=block_order) for block_order in BLOCK_ORDERS)
    second.load_state_dict(first.state_dict())
    x = torch.randn(SHAPE)
    assert relative_error(first(x), second(x)) > 1e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("modulation", MODULATIONS)
def test_mask_stays_float32_under_autocast(modulation, dtype):
    block = Rep3DBlock(3, 5, modulation)
    if modulation == "lrbm":
        nn.init.normal_(block.mask.norms[-1].weight)
    expected = block.effective_kernel()
    with torch.autocast("cpu", dtype=dtype):
        kernel = block.effective_kernel()
        y = block(torch.randn(1, 3, 6, 6, 6))
    assert kernel.dtype == torch.float32
    assert torch.equal(kernel, expected)
    assert y.dtype == dtype


def test_training_step_under_autocast(tiny_rep3d):
    network = tiny_rep3d()
    check_layers(network)  # the decoder's bottom has two voxels along an axis
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = network(torch.randn(SHAPE))
        assert y.dtype == torch.bfloat16
        y.float().square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all(), name


# --- arguments and inputs


@pytest.mark.parametrize("shape", [(1, 1, 32, 32, 32), (2, 1, 16, 48, 32), (1, 1, 16, 16, 32)], ids=str)
@pytest.mark.parametrize("modulation", MODULATIONS)
def test_output_shape(modulation, shape, tiny_rep3d):
    y = tiny_rep3d(modulation=modulation)(torch.randn(shape))
    assert y.shape == (shape[0], 3, *shape[2:])
    assert y.isfinite().all()


@pytest.mark.slow
def test_inference_size_of_a_sliding_window(tiny_rep3d):
    network = tiny_rep3d(feature_size=(1, 1, 1, 1), hidden_size=1, kernel_size=21, depths=(1, 1, 1, 1)).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 1, 128, 128, 128)).shape == (1, 3, 128, 128, 128)


def test_encoder_halves_the_size_in_four_stages(tiny_rep3d):
    maps = tiny_rep3d(feature_size=(2, 3, 4, 5), depths=(1, 2, 1, 1)).encoder(torch.randn(1, 1, 32, 16, 48))
    assert [tuple(m.shape) for m in maps] == [
        (1, 2, 16, 8, 24),
        (1, 3, 8, 4, 12),
        (1, 4, 4, 2, 6),
        (1, 5, 2, 1, 3),
    ]


@pytest.mark.parametrize("kernel_size", [3, 21, 31])
def test_kernel_sizes(kernel_size, tiny_rep3d):
    network = tiny_rep3d(kernel_size=kernel_size, feature_size=(2, 2, 2, 2), depths=(1, 1, 1, 1))
    network(torch.randn(1, 1, 16, 16, 32)).sum().backward()
    assert network.encoder.stages[0][0].weight.grad.shape == (2, 1, *(kernel_size,) * 3)


@pytest.mark.parametrize(
    "shape, message",
    [
        ((1, 1, 32, 32, 30), r"multiple of 16.*\[32, 32, 30\]"),
        ((1, 1, 32, 30, 32), r"multiple of 16.*\[32, 30, 32\]"),
        ((1, 1, 33, 32, 32), r"multiple of 16.*\[33, 32, 32\]"),
        ((1, 1, 16, 16, 16), r"larger than 16x16x16.*\[16, 16, 16\]"),
        ((1, 2, 32, 32, 32), r"\(B, 1, D, H, W\).*\[1, 2, 32, 32, 32\]"),
        ((1, 32, 32, 32), r"\(B, 1, D, H, W\).*\[1, 32, 32, 32\]"),
    ],
    ids=["last axis", "second axis", "first axis", "too small", "channels", "no batch"],
)
def test_input_error_names_the_shape(shape, message, tiny_rep3d):
    with pytest.raises(ValueError, match=message):
        tiny_rep3d()(torch.zeros(shape))


@pytest.mark.parametrize(
    "name, value",
    [
        ("modulation", "gated"),
        ("block_order", "act-norm-conv"),
        ("kernel_size", 4),
        ("kernel_size", 1),
        ("kernel_size", 33),
        ("generator_kernel_size", 2),
        ("generator_kernel_size", 9),
        ("generator_depth", 0),
        ("generator_depth", 4),
        ("feature_size", (4, 8, 8)),
        ("feature_size", (4, 8, 0, 8)),
        ("depths", (2, 2, 2, 2, 2)),
        ("depths", (2, 0, 2, 2)),
    ],
)
@pytest.mark.parametrize("deploy", [False, True])
def test_argument_error_names_argument_and_value(name, value, deploy, tiny_rep3d):
    with pytest.raises(ValueError) as error:
        tiny_rep3d(**{name: value, "deploy": deploy})
    assert str(error.value).startswith(name)
    assert repr(value) in str(error.value)


# --- parameter groups


@pytest.mark.parametrize("modulation", MODULATIONS)
def test_parameter_groups(modulation, tiny_rep3d):
    network = tiny_rep3d(modulation=modulation, norm_name=("instance", {"affine": True}))
    network.out.requires_grad_(False)
    decay = {}
    for group in parameter_groups(network, weight_decay=0.07):
        for parameter in group["params"]:
            assert id(parameter) not in decay
            decay[id(parameter)] = group["weight_decay"]
    assert decay.keys() == {id(parameter) for parameter in network.parameters() if parameter.requires_grad}
    convolutions = (nn.Conv3d, nn.ConvTranspose3d, Rep3DBlock)
    for module_name, module in network.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            kernel = isinstance(module, convolutions) and name in ("weight", "small_weight")
            if parameter.requires_grad:
                assert decay[id(parameter)] == (0.07 if kernel else 0), f"{module_name}.{name}"


def test_small_kernels_have_their_own_learning_rate(tiny_rep3d):
    network = tiny_rep3d(modulation="csla")
    optimizer = torch.optim.AdamW(parameter_groups(network, small_kernel_lr=3e-4), lr=1e-4)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in network.named_parameters():
        assert rates[id(parameter)] == (3e-4 if name.endswith("small_weight") else 1e-4), name


def test_small_kernel_learning_rate_needs_small_kernels(tiny_rep3d):
    with pytest.raises(ValueError, match="small_kernel_lr is 0.0003"):
        parameter_groups(tiny_rep3d(modulation="lrbm"), small_kernel_lr=3e-4)
