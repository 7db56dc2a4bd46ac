"""Windows of air are left out, and no label of the body changes."""

import json

import pytest
import torch
from bundle_helpers import ROOT
from torch import nn

from rep3d import inferers
from rep3d.inferers import LabelMapInferer, above_lowest, above_noise


class Counting(nn.Module):
    """Five classes from the neighbourhood of a voxel; counts the windows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv3d(1, 5, 5, padding=2)
        self.windows = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.windows += len(x)
        return self.conv(x)


def patient(shape=(40, 44, 36), radius=9.0, middle=(13, 15, 18)):
    """A ball that shows tissue, with a hole of air in it; and where it is."""
    places = torch.stack(torch.meshgrid(*map(torch.arange, shape), indexing="ij")).float()
    distance = (places - torch.tensor(middle).view(3, 1, 1, 1)).norm(dim=0)
    tissue = torch.rand(shape, generator=torch.Generator().manual_seed(1)) + 0.5
    return torch.where((distance < radius) & (distance > 3), tissue, 0.0), distance < radius


def noisy(image):
    """As a magnitude image has it."""
    noise = torch.randn(2, *image.shape, generator=torch.Generator().manual_seed(2)) * 0.04
    return torch.sqrt((image + noise[0]) ** 2 + noise[1] ** 2)


def compare(image, body, overlap=0.5, **arguments):
    """Label maps with and without windows of air, and how many windows each took."""
    maps, counts = [], []
    for chosen in (None, body):
        network = Counting()
        infer = LabelMapInferer((12, 12, 12), 3, overlap, mode="gaussian", body=chosen, **arguments)
        maps.append(infer(image[None, None], network)[0, 0])
        counts.append(network.windows)
    return maps, counts


@pytest.mark.parametrize("overlap", [0.25, 0.5, 0.7])
@pytest.mark.parametrize(("prepare", "body"), [(lambda image: image, above_lowest), (noisy, above_noise)])
def test_the_body_has_the_same_labels(prepare, body, overlap):
    image, inside = patient()
    image = (prepare(image) - image.mean()) / image.std()
    (whole, less), counts = compare(image, body, overlap)
    assert torch.equal(whole[inside], less[inside]) and len(whole[inside].unique()) > 2
    assert not less[-5:].any() and whole[-5:].any()  # far from the body
    assert counts[1] < 0.6 * counts[0]


@pytest.mark.parametrize("body", [above_lowest, above_noise])
@pytest.mark.parametrize("shape", [(8, 30, 30), (30, 8, 9), (12, 12, 12), (31, 29, 1)])
def test_scans_without_air(body, shape):
    """Also those that are smaller than a window: what pads them is no body."""
    image = torch.rand(shape, generator=torch.Generator().manual_seed(3)) + 1
    (whole, less), counts = compare(image, body)
    assert torch.equal(whole, less) and counts[0] == counts[1]


def test_bright_metal_leaves_the_tissue():
    image, inside = patient()
    image = noisy(image)
    image[13, 15, 24:26] = 500.0
    assert above_noise(image[None])[inside].float().mean() > 0.98


def test_the_threshold_is_of_the_whole_scan(monkeypatch):
    """Not of one slice, such as a dark one at the end."""
    image = noisy(patient()[0])
    image[..., 0] *= 0.01
    monkeypatch.setattr(inferers, "SAMPLED", image.numel() // image.shape[-1])
    assert inferers._noise_threshold(image) > 0.02  # that of the dark slice is below 0.001


def test_air_alone():
    for body in (above_lowest, above_noise):
        (_, less), counts = compare(torch.full((20, 20, 20), -1024.0), body)
        assert not less.any() and counts[1] == 0


def test_the_first_rows_are_air():
    image, inside = patient(middle=(30, 30, 20))
    (whole, less), _ = compare(image, above_lowest)
    assert torch.equal(whole[inside], less[inside]) and not less[:6].any()


def test_the_body_of_several_channels_is_that_of_any():
    image, inside = patient()
    channels = torch.stack((torch.zeros_like(image), image))
    for body in (above_lowest, above_noise):
        assert body(channels)[inside].all()


def test_bundles_that_cut_air_off_leave_it_out():
    for path in ROOT.glob("bundles/*/configs/train.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.get("intensity_window"):
            assert config["sliding_window"]["inferer"]["body"] == "$rep3d.inferers.above_lowest"
