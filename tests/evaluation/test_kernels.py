import csv

import pytest
import torch
from torch import nn

from rep3d import MedNeXt, Rep3D
from rep3d.evaluation.kernel_pictures import show_masks, show_receptive_fields, show_updates
from rep3d.evaluation.kernels import by_distance, effective_kernels, kernel_masks, radius_of_share, receptive_fields

SMALL = {"feature_size": (2, 2, 2, 4), "hidden_size": 4, "kernel_size": 5}


class Boxes(nn.Module):
    """Two stages whose receptive fields are known: cubes of 3 and of 3 + 2 * 2 voxels."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.stages = nn.Sequential(nn.AvgPool3d(3, 1, 1), nn.AvgPool3d(5, 1, 2))
        self.encoder.forward = self.encoder.stages.forward


def test_receptive_fields_of_known_extent():
    network = Boxes().train()
    fields = receptive_fields(network, torch.randn(3, 1, 1, 16, 16, 16))
    for field, edge in zip(fields, (3, 7), strict=True):
        nonzero = field.nonzero()
        assert (nonzero.min(0).values == 8 - edge // 2).all() and (nonzero.max(0).values == 8 + edge // 2).all()
        assert field.max() == 1
    assert radius_of_share(fields[0], 1.0) == 1 and radius_of_share(fields[0], 1 / 27) == 0
    assert network.training


def test_receptive_fields_grow_with_the_stage():
    network = Rep3D(1, 2, **SMALL)
    running = network.encoder.stages[0][0].norm.running_mean.clone()
    fields = receptive_fields(network, [torch.randn(1, 1, 32, 32, 32)])
    assert len(fields) == 4 and all(field.shape == (32, 32, 32) for field in fields)
    radii = [radius_of_share(field, 0.5) for field in fields]
    assert radii[0] < min(radii[1:])
    assert torch.equal(network.encoder.stages[0][0].norm.running_mean, running)


@pytest.mark.parametrize("network", [nn.Conv3d(1, 1, 1), MedNeXt(1, 2, init_filters=2)])
def test_networks_without_stages(network):
    with pytest.raises(ValueError, match=f"{type(network).__name__} has no encoder.stages"):
        receptive_fields(network, [torch.zeros(1, 1, 32, 32, 32)])


def test_no_images():
    with pytest.raises(ValueError, match="no images"):
        receptive_fields(Boxes(), [])


def test_masks():
    network = Rep3D(1, 2, **SMALL)
    mask = network.encoder.stages[0][1].mask
    nn.init.constant_(mask.log_beta, 0.7)
    nn.init.normal_(mask.norms[-1].weight)
    masks = kernel_masks(network)
    assert [one.block for one in masks] == [f"encoder.stages.{stage}.{block}" for stage in range(4) for block in (0, 1)]
    assert torch.equal(masks[1].prior, mask.prior()[0]) and torch.equal(masks[1].mask, mask())
    assert kernel_masks(Rep3D(1, 2, **SMALL, modulation="none")) == []
    fixed = kernel_masks(Rep3D(1, 2, **SMALL, modulation="fixed"))[0]
    assert torch.equal(fixed.prior, fixed.mask[0]) and by_distance(fixed.prior)[:2] == [
        1.0,
        pytest.approx(0.47, abs=0.05),
    ]


def test_kernels_that_convolve_are_copies():
    network = Rep3D(1, 2, **SMALL, modulation="csla")
    kernels = effective_kernels(network)
    assert len(kernels) == 8
    before = kernels["encoder.stages.0.0"].clone()
    nn.init.zeros_(network.encoder.stages[0][0].weight)
    assert torch.equal(kernels["encoder.stages.0.0"], before)


def test_by_distance():
    values = torch.zeros(3, 3, 3)
    values[1, 1, 1] = 5.0
    values[0, 1, 1] = 9.0  # one of 18 at the distance 1 when rounded: 6 faces and 12 edges
    assert by_distance(values) == [5.0, 0.5, 0.0]


def test_pictures_and_tables(tmp_path):
    network = Rep3D(1, 2, **SMALL)
    show_receptive_fields([torch.rand(8, 8, 8), torch.rand(8, 8, 8)], tmp_path)
    show_masks(kernel_masks(network), tmp_path)
    show_updates({("SGD", "none"): [2.0, 1.0], ("AdamW", "none"): [3.0, 1.5], ("SGD", "csla"): [4.0, 1.0]}, tmp_path)
    for name in ("receptive_fields", "masks", "updates"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((tmp_path / "updates.csv").open()))
    assert rows[0] == {"optimizer": "SGD", "form": "none", "distance": "0", "update": "2"} and len(rows) == 6
    rows = list(csv.DictReader((tmp_path / "masks.csv").open()))
    assert rows[0]["prior"] == rows[0]["mask"] == "1" and len(rows) == 8 * len(by_distance(torch.zeros(5, 5, 5)))
