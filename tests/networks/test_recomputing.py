import copy

import pytest
import torch
from monai.networks.nets import SwinUNETR
from torch import nn

from rep3d import Rep3D, reparameterize
from rep3d.networks.recomputing import frozen_statistics, recompute

SMALL = {"feature_size": (4, 6, 8, 10), "hidden_size": 12, "kernel_size": 5, "generator_kernel_size": 3}


def pair(**arguments):
    """The same network without and with recomputing, in training mode."""
    torch.manual_seed(0)
    plain = Rep3D(1, 3, **SMALL, **arguments)
    recomputing = Rep3D(1, 3, **SMALL, **arguments, use_checkpoint=True)
    recomputing.load_state_dict(plain.state_dict())
    return plain, recomputing


def saved_bytes(network, x):
    """Bytes that the forward pass keeps for the backward pass, and what it returned."""
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = network(x)
    return sum(storages.values()), y


@pytest.mark.slow
@pytest.mark.parametrize("norm_name", ["instance", "batch"])
@pytest.mark.parametrize("modulation", ["lrbm", "fixed"])
def test_same_training_step_with_less_memory(modulation, norm_name, relative_error):
    """In float64: in float32 some gradients that a norm cancels are all rounding."""
    plain, recomputing = (network.double() for network in pair(modulation=modulation, norm_name=norm_name))
    x = torch.randn(2, 1, 32, 32, 32, dtype=torch.float64)
    bytes_plain, expected = saved_bytes(plain, x)
    bytes_recomputing, actual = saved_bytes(recomputing, x)
    assert bytes_recomputing < bytes_plain / 2
    assert relative_error(actual, expected) < 1e-12
    expected.square().mean().backward()
    actual.square().mean().backward()
    for (name, one), other in zip(plain.named_parameters(), recomputing.parameters(), strict=True):
        assert relative_error(other.grad, one.grad) < 1e-9, name
    for (name, one), other in zip(plain.named_buffers(), recomputing.buffers(), strict=True):
        torch.testing.assert_close(other, one, msg=f"{name} moved differently")


def test_copies_compute_with_their_own_weights():
    _, network = pair()
    copied, x = copy.deepcopy(network), torch.randn(1, 1, 32, 32, 32)
    expected = copied(x).detach()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    torch.testing.assert_close(copied(x), expected)
    copied(x).square().mean().backward()
    assert all(parameter.grad is None for parameter in network.parameters())


def test_deployed_form_is_the_same():
    plain, recomputing = pair()
    plain.eval(), recomputing.eval()
    deployed, x = reparameterize(recomputing), torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(deployed(x), plain(x), rtol=1e-4, atol=1e-5)
    assert not any(getattr(module, "use_checkpoint", False) for module in deployed.modules())
    assert recomputing.bottom.use_checkpoint


def test_script_is_the_same():
    plain, recomputing = pair()
    plain.eval(), recomputing.eval()
    x = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(recomputing)(x), plain(x), rtol=1e-4, atol=1e-5)
    assert recomputing.bottom.use_checkpoint


@pytest.mark.slow
def test_switched_on_and_off(relative_error):
    """Also in a network of others."""
    swin = SwinUNETR(1, 2, feature_size=12, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 2)).eval()
    for network, x in ((pair()[0], torch.randn(2, 1, 32, 32, 32)), (swin, torch.randn(1, 1, 64, 64, 64))):
        bytes_before, expected = saved_bytes(network, x)
        recompute(network)
        bytes_recomputing, actual = saved_bytes(network, x)
        recompute(network, False)
        bytes_after, _ = saved_bytes(network, x)
        assert bytes_recomputing < 0.95 * bytes_before and bytes_after == bytes_before
        assert relative_error(actual, expected) < 1e-5


def test_statistics_are_frozen():
    norm, x = nn.BatchNorm3d(2), torch.randn(2, 2, 3, 3, 3)
    with frozen_statistics(norm):
        norm(x)
    assert norm.num_batches_tracked == 0 and norm.running_mean.abs().max() == 0
    norm(x)
    assert norm.num_batches_tracked == 1 and norm.running_mean.abs().max() > 0
