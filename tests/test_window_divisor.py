"""Windows have edges that the network can take: multiples of its own, or else of the config's."""

import pytest
import torch
from bundle_helpers import AUTOMATIC, ROOT, SMALL, read
from monai.bundle import ConfigParser
from monai.networks.nets import SwinUNETR
from torch import nn

from rep3d.inferers import AutocastInferer, LabelMapInferer
from rep3d.networks.ensemble import Ensemble


class Watched(nn.Module):
    """Remembers the windows that it saw."""

    def __init__(self, divisor=None):
        super().__init__()
        self.sizes = set()
        if divisor is not None:
            self.divisor = divisor

    def forward(self, x):
        self.sizes.add(tuple(x.shape[2:]))
        return torch.cat([x, -x], dim=1)


IMAGE = torch.randn(1, 1, 20, 41, 70)


@pytest.mark.parametrize(
    "roi_size, own, given, seen",
    [
        ((32, 48, 64), None, 1, (32, 48, 64)),
        ((30, 45, 61), None, 1, (30, 45, 61)),
        ((30, 45, 61), None, 16, (32, 48, 64)),
        ((30, 45, 61), 32, 16, (32, 64, 64)),
        ((30, 45, 61), 8, 16, (32, 48, 64)),
        ((30, 45, 61), (1, 5, 60), 16, (30, 45, 120)),
        ((32, 48, 64), 16, 64, (32, 48, 64)),
        ((-1, -1, -1), 16, 1, (32, 48, 80)),
    ],
    ids=str,
)
def test_windows(roi_size, own, given, seen):
    network = Watched(own)
    labels = LabelMapInferer(roi_size, divisor=given)(IMAGE, network)
    assert network.sizes == {seen}
    assert torch.equal(labels, (IMAGE < 0).to(torch.uint8))


def test_our_network_takes_any_size_of_window(tiny_rep3d):
    network = tiny_rep3d().eval()
    with torch.no_grad():
        odd, even = (LabelMapInferer((size,) * 3)(IMAGE, network) for size in (25, 32))
    assert torch.equal(odd, even)


def test_swin_unetr_takes_multiples_of_32_whatever_its_config_says():
    network = SwinUNETR(1, 2, feature_size=12, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 2)).eval()
    inferer = LabelMapInferer((48, 30, 20), divisor=16)
    assert inferer.window_size(network, IMAGE.shape[2:]) == (64, 32, 32)
    with torch.no_grad():
        assert AutocastInferer(inferer)(IMAGE[..., :40], network).shape == (*IMAGE.shape[:-1], 40)


@pytest.mark.parametrize("divisor", [0, -16, (16, 16, 0)])
def test_wrong_divisor(divisor):
    with pytest.raises(ValueError, match="divisor must be at least 1, got"):
        LabelMapInferer((32, 32, 32), divisor=divisor)


@pytest.mark.parametrize("bundle", AUTOMATIC, ids=lambda bundle: bundle.name)
def test_bundles_leave_their_windows_as_they_are(bundle):
    for config in ("train", "inference"):
        parser = ConfigParser(read(bundle, config))
        inferer = parser.get_parsed_content("sliding_window").inferer
        assert inferer.divisor == 16
        assert all(edge % inferer.divisor == 0 for edge in inferer.roi_size)


def test_network_of_a_bundle_says_its_divisor():
    parser = ConfigParser(read(ROOT / "bundles/msd_hippocampus", "inference"))
    parser.update(SMALL)
    assert parser.get_parsed_content("network_def").divisor == 16


def test_windows_of_an_ensemble():
    members = [nn.Identity(), nn.Identity()]
    members[0].divisor, members[1].divisor = 4, (6, 1, 1)
    assert LabelMapInferer((10, 10, 10)).window_size(Ensemble(members), (20, 20, 20)) == (12, 12, 12)
    assert LabelMapInferer((10, 10, 10), divisor=5).window_size(Ensemble([nn.Identity()]), (20, 20, 20)) == (10, 10, 10)
