import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rep3d import MedNeXt, Rep3D, UXNet, reparameterize, upkern
from rep3d.networks.upkern import grow_kernel
from rep3d.networks.weights import NonFiniteWeights
from rep3d.training.checkpoints import initialize_from

SMALL = {"feature_size": (2, 2, 2, 4), "hidden_size": 4}
FAMILIES = {
    "rep3d lrbm": lambda k: Rep3D(1, 3, **SMALL, kernel_size=k),
    "rep3d fixed": lambda k: Rep3D(1, 3, **SMALL, kernel_size=k, modulation="fixed"),
    "rep3d csla": lambda k: Rep3D(1, 3, **SMALL, kernel_size=k, modulation="csla"),
    "uxnet": lambda k: UXNet(1, 3, **SMALL, kernel_size=k),
    "mednext": lambda k: MedNeXt(1, 3, init_filters=2, kernel_size=k),
}


def is_kernel(small, large):
    return small.ndim == 5 and small.shape != large.shape


@pytest.mark.parametrize("family", FAMILIES)
def test_kernels_grow_and_the_rest_is_copied(family):
    small, large = FAMILIES[family](5), FAMILIES[family](7)
    constants = {name: tensor.clone() for name, tensor in large.state_dict().items() if name.endswith("distance")}
    assert upkern(small.state_dict(), large) is large
    grown = 0
    for name, tensor in large.state_dict().items():
        before = small.state_dict()[name]
        if name in constants:
            assert torch.equal(tensor, constants[name])
        elif is_kernel(before, tensor):
            grown += 1
            assert torch.equal(tensor, F.interpolate(before, size=(7, 7, 7), mode="trilinear"))
        else:
            assert torch.equal(tensor, before), name
    assert grown == sum(len(module.large_kernels()) for module in large.modules() if hasattr(module, "large_kernels"))
    large(torch.zeros(1, 1, 32, 32, 32))


@pytest.mark.parametrize("sizes", [(3, 5), (7, 13), (7, 21)])
def test_sums(sizes):
    """The paper's rule lets them grow about as the volume does."""
    kernel = torch.randn(6, 1, *(sizes[0],) * 3)
    kept, plain = (grow_kernel(kernel, sizes[1], keep_sum=keep) for keep in (True, False))
    torch.testing.assert_close(kept.sum((2, 3, 4)), kernel.sum((2, 3, 4)), rtol=1e-4, atol=1e-4)
    constant = grow_kernel(torch.ones(1, 1, *(sizes[0],) * 3), sizes[1])
    assert constant.sum() / sizes[0] ** 3 == pytest.approx((sizes[1] / sizes[0]) ** 3)
    assert plain.shape == kept.shape == (6, 1, *(sizes[1],) * 3)


def test_growing_without_the_sum_keeps_a_trained_network_close(relative_error):
    """With it, the answer to a smooth image is about that of the small kernels."""
    small = UXNet(1, 3, **SMALL, kernel_size=5).eval()
    for module in small.modules():
        if hasattr(module, "kernel"):
            nn.init.constant_(module.kernel, 1.0)
    conv, large = small.encoder.stages[0][0].conv, UXNet(1, 3, **SMALL, kernel_size=7).eval()
    upkern(small.state_dict(), large, keep_sums=True)
    flat = torch.ones(1, 2, 24, 24, 24)
    with torch.no_grad():
        inside = (slice(None), slice(None), *(slice(4, -4),) * 3)
        assert relative_error(large.encoder.stages[0][0].conv(flat)[inside], conv(flat)[inside]) < 1e-5


@pytest.mark.parametrize(
    ("small", "message"),
    [
        (lambda: UXNet(1, 3, **SMALL, kernel_size=9), "upkern: .* same network with smaller kernels: .*9"),
        (lambda: UXNet(1, 4, **SMALL, kernel_size=5), "upkern: .*smaller kernels"),
        (lambda: UXNet(2, 3, **SMALL, kernel_size=5), "upkern: .*smaller kernels"),
        (lambda: Rep3D(1, 3, **SMALL, kernel_size=5), "upkern: .*smaller kernels"),
        (lambda: UXNet(1, 3, **{**SMALL, "feature_size": (4, 2, 2, 4)}, kernel_size=5), "upkern: .*smaller kernels"),
    ],
    ids=["larger kernels", "other classes", "other images", "another family", "other channels"],
)
def test_weights_of_other_networks(small, message):
    large = UXNet(1, 3, **SMALL, kernel_size=7)
    before = {name: tensor.clone() for name, tensor in large.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        upkern(small().state_dict(), large)
    assert all(torch.equal(tensor, before[name]) for name, tensor in large.state_dict().items())


def test_weights_that_are_not_finite():
    small = UXNet(1, 3, **SMALL, kernel_size=5).state_dict()
    small["out.conv.conv.bias"][0] = torch.nan
    with pytest.raises(NonFiniteWeights, match=r"upkern: .*out.conv.conv.bias"):
        upkern(small, UXNet(1, 3, **SMALL, kernel_size=7))


@pytest.mark.parametrize("keep", [False, True])
def test_init_from_weights_with_smaller_kernels(keep, tmp_path, caplog):
    """Also for other classes: what does not fit otherwise stays, with a warning as ever."""
    caplog.set_level(logging.INFO)
    small, large = (Rep3D(1, n, **SMALL, kernel_size=k, modulation="fixed") for n, k in ((3, 5), (2, 7)))
    torch.save(small.state_dict(), tmp_path / "model.pt")
    kept = large.out.conv.conv.weight.clone()
    initialize_from(large, tmp_path / "model.pt", **({"keep_kernel_sums": True} if keep else {}))
    block = small.encoder.stages[0][0]
    assert torch.equal(large.encoder.stages[0][0].weight, grow_kernel(block.weight, 7, keep_sum=keep))
    assert torch.equal(large.out.conv.conv.weight, kept)
    assert "init_from: grew 8 kernels" in caplog.text and "from (5, 5, 5) to (7, 7, 7) voxels" in caplog.text
    warned = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warned) == 2 and all("out.conv" in text for text in warned)


def test_one_kernel_that_grows(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    small, large = (nn.Conv3d(1, 2, k) for k in (3, 5))
    torch.save(small.state_dict(), tmp_path / "model.pt")
    initialize_from(large, tmp_path / "model.pt")
    assert "init_from: grew 1 kernels, weight from (3, 3, 3) to (5, 5, 5) voxels" in caplog.text


def test_init_from_a_deployed_network(tmp_path):
    """Its decoder would fit, and beside it the kernels would stay random. A deployed network takes it."""
    for modulation in ("fixed", "lrbm"):
        network = Rep3D(1, 3, **SMALL, kernel_size=3, modulation=modulation)
        torch.save(reparameterize(network).state_dict(), tmp_path / "deployed.pt")
        with pytest.raises(
            ValueError, match="init_from: .*deployed.pt is of a deployed network, .* weights that train"
        ):
            initialize_from(network, tmp_path / "deployed.pt")
        deployed = Rep3D(1, 3, **SMALL, kernel_size=3, modulation=modulation, deploy=True)
        initialize_from(deployed, tmp_path / "deployed.pt")
        assert deployed.eval()(torch.zeros(1, 1, 32, 16, 16)).isfinite().all()
