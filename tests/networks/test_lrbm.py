import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from rep3d.networks.lrbm import LRBM, FixedMask, centre_distance


def naive_prior(kernel_size, beta):
    """Equations 12 and 13, element by element."""
    centre = kernel_size // 2
    prior = torch.empty(1, kernel_size, kernel_size, kernel_size)
    for z, y, x in itertools.product(range(kernel_size), repeat=3):
        distance = math.sqrt((z - centre) ** 2 + (y - centre) ** 2 + (x - centre) ** 2)
        prior[0, z, y, x] = beta / (distance + beta)
    return prior


def naive_generator(mask, prior):
    """Equation 15 on the prior repeated for every channel."""
    channels = mask.convs[0].weight.shape[0]
    x = prior.expand(channels, -1, -1, -1).unsqueeze(0)
    for i, (conv, norm) in enumerate(zip(mask.convs, mask.norms, strict=True)):
        if i > 0:
            x = torch.sigmoid(x)
        x = F.conv3d(x, conv.weight, conv.bias, padding=conv.weight.shape[-1] // 2, groups=channels)
        mean = x.mean(dim=(2, 3, 4), keepdim=True)
        variance = x.var(dim=(2, 3, 4), keepdim=True, correction=0)
        x = (x - mean) / torch.sqrt(variance + 1e-5) * norm.weight.view(-1, 1, 1, 1) + norm.bias.view(-1, 1, 1, 1)
    return x.squeeze(0)


def randomized_lrbm(**arguments):
    mask = LRBM(**{"channels": 3, "kernel_size": 5, **arguments})
    for parameter in mask.parameters():
        torch.nn.init.normal_(parameter)
    return mask


def test_distance_is_in_voxels_from_the_centre():
    distance = centre_distance(5)
    assert distance.shape == (1, 5, 5, 5)
    assert distance[0, 2, 2, 2] == 0
    assert distance[0, 2, 2, 4] == distance[0, 0, 2, 2] == 2
    assert distance[0, 0, 0, 0] == pytest.approx(math.sqrt(12))


@pytest.mark.parametrize("kernel_size", [3, 7])
def test_fixed_mask(kernel_size):
    mask = FixedMask(kernel_size)
    torch.testing.assert_close(mask(), naive_prior(kernel_size, beta=1))
    assert not list(mask.parameters())


@pytest.mark.parametrize("beta", [0.25, 1, 6])
@pytest.mark.parametrize("kernel_size", [3, 7])
def test_prior(kernel_size, beta):
    mask = LRBM(2, kernel_size)
    torch.nn.init.constant_(mask.log_beta, math.log(beta))
    torch.testing.assert_close(mask.prior(), naive_prior(kernel_size, beta))


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_generator_and_its_gradients(size, depth, relative_error):
    mask = randomized_lrbm(generator_kernel_size=size, generator_depth=depth).double()
    prior = mask.prior()
    actual, expected = mask.generate(prior), naive_generator(mask, prior)
    assert relative_error(actual, expected) < 1e-6
    assert relative_error(mask(), prior + expected) < 1e-6
    upstream = torch.randn_like(expected)
    parameters = dict(mask.named_parameters())
    gradients = torch.autograd.grad(mask(), list(parameters.values()), upstream)
    references = torch.autograd.grad(prior + expected, list(parameters.values()), upstream)
    scale = max(reference.abs().max() for reference in references)
    for name, gradient, reference in zip(parameters, gradients, references, strict=True):
        assert (gradient - reference).abs().max() < 1e-6 * scale, name


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_training_starts_at_the_prior(depth):
    mask = LRBM(3, 7, generator_depth=depth)
    torch.testing.assert_close(mask(), naive_prior(7, beta=1).expand(3, -1, -1, -1))


def test_channels_differ():
    mask = randomized_lrbm()()
    assert mask.shape == (3, 5, 5, 5)
    assert (mask[0] - mask[1]).abs().max() > 1e-3


def test_parameter_count():
    """One beta; per channel and layer a kernel, and the scale and shift of the normalization."""
    mask = LRBM(48, 21)
    assert sum(parameter.numel() for parameter in mask.parameters()) == 1 + 2 * 48 * (7**3 + 2)


def test_channels_are_named():
    with pytest.raises(ValueError, match="^channels "):
        LRBM(0, 5)


@pytest.mark.parametrize(("kernel_size", "wanted"), [(0, "a positive integer"), (4, "odd"), (2, "odd")])
def test_a_kernel_has_a_centre(kernel_size, wanted):
    with pytest.raises(ValueError, match=f"^kernel_size must be {wanted}, got {kernel_size}$"):
        centre_distance(kernel_size)


def effective(mask):
    with torch.no_grad():
        return mask()


def test_a_mask_that_was_never_initialized_is_that_of_its_weights():
    """As of networks that are built on no device, to be filled from a file."""
    mask = randomized_lrbm()
    with torch.device("meta"):
        empty = LRBM(3, 5)
    empty = empty.to_empty(device="cpu")
    empty.load_state_dict(mask.state_dict())
    assert torch.equal(effective(empty), effective(mask))


def test_a_mask_that_was_rounded_for_a_while_is_not_worn():
    mask = randomized_lrbm()
    rounded = LRBM(3, 5).bfloat16().float()
    rounded.load_state_dict(mask.state_dict())
    assert torch.equal(effective(rounded), effective(mask))


def test_any_memory_format():
    mask = randomized_lrbm()
    expected = effective(mask)
    torch.testing.assert_close(effective(mask.to(memory_format=torch.channels_last_3d)), expected)
