import copy

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import PolynomialLR

from rep3d import Rep3D, UXNet
from rep3d.evaluation.kernels import effective_kernels
from rep3d.training.gradient_scales import gradient_scales, scale_gradients
from rep3d.training.parameters import parameter_groups
from rep3d.training.resuming import optimization_settings, resume_learning

SMALL = {"feature_size": (2, 2, 2, 4), "hidden_size": 4, "kernel_size": 5}


def test_scales():
    scales = gradient_scales(7, large_scale=2.0, small_scale=3.0, small_kernel_size=3)
    assert scales.shape == (7, 7, 7) and (scales == 13).sum() == 27 and (scales == 4).sum() == 7**3 - 27
    assert (scales[2:5, 2:5, 2:5] == 13).all()


def trained(network, optimizer, images):
    for image in images:
        optimizer.zero_grad()
        network(image).square().mean().backward()
        optimizer.step()


def test_two_kernels_are_one_with_scaled_gradients():
    """With SGD, momentum and weight decay: the paper's equations 4 to 11."""
    torch.manual_seed(0)
    two = Rep3D(1, 2, **SMALL, modulation="csla").double().train()
    one = Rep3D(1, 2, **SMALL, modulation="none").double().train()
    state = {name: tensor for name, tensor in two.state_dict().items() if "small_weight" not in name}
    one.load_state_dict(state | {f"{name}.weight": kernel for name, kernel in effective_kernels(two).items()})
    start = copy.deepcopy(one)
    images = torch.randn(3, 2, 1, 32, 32, 32, dtype=torch.float64)
    settings = {"lr": 0.1, "momentum": 0.9, "nesterov": True}
    trained(two, torch.optim.SGD(parameter_groups(two, weight_decay=0.05), **settings), images)
    optimizer = torch.optim.SGD(parameter_groups(one, weight_decay=0.05), **settings)
    trained(one, scale_gradients(optimizer, one), images)
    expected, before = effective_kernels(two), effective_kernels(start)
    for name, kernel in effective_kernels(one).items():
        torch.testing.assert_close(kernel, expected[name], rtol=1e-8, atol=1e-10)
    assert max((expected[name] - before[name]).abs().max() for name in before) > 1e-3


@pytest.mark.parametrize("kind", ["SGD", "AdamW", "Adam", "RMSprop", "Adagrad", "NAdam", "RAdam", "Adamax", "Rprop"])
def test_any_optimizer(kind):
    """It sees the gradient scaled, before its own weight decay."""
    torch.manual_seed(0)
    network = UXNet(1, 2, **SMALL)
    other = copy.deepcopy(network)
    factors = gradient_scales(5)
    optimizers = [getattr(torch.optim, kind)(one.parameters(), lr=0.01) for one in (network, other)]
    scale_gradients(optimizers[0], network)
    for one in (network, other):
        for parameter in one.parameters():
            parameter.grad = torch.ones_like(parameter)
    for module in other.modules():
        if hasattr(module, "kernel"):
            module.kernel.grad.mul_(factors)
    for optimizer in optimizers:
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))
    optimizers[0].zero_grad(set_to_none=True)
    optimizers[0].step()  # a step that is left out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"large_scale": 0.0}, "large_scale must be above 0, got 0.0"),
        ({"small_scale": float("nan")}, "small_scale must be above 0, got nan"),
        ({"small_kernel_size": 5}, "small_kernel_size must be odd and below the kernel's 5, got 5"),
        ({"small_kernel_size": 2}, "small_kernel_size must be odd"),
    ],
)
def test_wrong_arguments(arguments, message):
    network = UXNet(1, 2, **SMALL)
    with pytest.raises(ValueError, match=message):
        scale_gradients(torch.optim.SGD(network.parameters(), lr=0.1), network, **arguments)


def test_networks_without_large_kernels_and_closures():
    network = nn.Conv3d(1, 2, 3)
    with pytest.raises(ValueError, match="Conv3d names no large kernels, expected for example Rep3D"):
        scale_gradients(torch.optim.SGD(network.parameters(), lr=0.1), network)
    own = UXNet(1, 2, **SMALL)
    with pytest.raises(ValueError, match="takes a closure"):
        scale_gradients(torch.optim.LBFGS(own.parameters()), own).step(lambda: torch.zeros(()))


def test_a_resumed_training_tells_of_other_scales(caplog):
    def learning(scales=None):
        network = UXNet(1, 2, **SMALL)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        if scales:
            scale_gradients(optimizer, network, **scales)
        return optimizer, PolynomialLR(optimizer, 5)

    def resume(before, now):
        optimizer, schedule = learning(before)
        content = {"settings": optimization_settings(optimizer, schedule), "optimizer": optimizer.state_dict()}
        resume_learning(*learning(now), content | {"lr_scheduler": schedule.state_dict()})

    resume({}, {})
    resume({"small_scale": 2.0}, {"small_scale": 2.0})
    assert "gradient_scales" not in caplog.text
    resume({"small_scale": 2.0}, {"small_scale": 1.0})
    assert "gradient_scales is [1.0, 1.0, 3], was [1.0, 2.0, 3]" in caplog.text
    resume(None, {"small_scale": 1.0})
    assert "gradient_scales is [1.0, 1.0, 3], was None" in caplog.text
