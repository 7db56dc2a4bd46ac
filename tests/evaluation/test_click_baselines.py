"""Graph cut and region growing do what they can: a bright blob by one click, a neighbour left by another."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from rep3d.console.errors import describe
from rep3d.evaluation.click_baselines import graph_cut, graph_cut_near, region_growing
from rep3d.evaluation.clicks import dice
from rep3d.interactive.prompts import box, point, scribble
from rep3d.interactive.users import deepest_click

METHODS = [
    pytest.param(graph_cut, id="graph_cut"),
    pytest.param(graph_cut_near, id="graph_cut_near"),
    pytest.param(region_growing, id="region_growing"),
]
MODULES = {graph_cut: "numpymaxflow", graph_cut_near: "numpymaxflow", region_growing: "SimpleITK"}
SPACING = (1.0, 1.0, 2.0)


def ball(shape, centre, radius) -> torch.Tensor:
    axes = [(torch.arange(n) - c).double() * s for n, c, s in zip(shape, centre, SPACING, strict=True)]
    return axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2 < radius**2


def scene(level: float = 100.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The image, a bright ball and another one of the same brightness that lies apart."""
    shape = (40, 36, 20)
    one, other = ball(shape, (12, 16, 9), 9), ball(shape, (30, 20, 11), 6)
    noise = torch.from_numpy(np.random.default_rng(0).normal(0, 5, shape)).float()
    return level * (one | other) + noise - 1000, one, other


@pytest.mark.parametrize("method", METHODS)
def test_one_click_takes_the_blob_and_not_its_twin(method) -> None:
    pytest.importorskip(MODULES[method])
    image, one, other = scene()
    empty = torch.zeros_like(one)
    click = deepest_click(one, empty, SPACING)
    mask = method(image, SPACING, [click], empty)
    assert mask.dtype == torch.bool and mask.shape == one.shape
    assert dice(mask, one) > 0.9 and not (mask & other).any()


@pytest.mark.parametrize("method", METHODS)
def test_dark_blobs_are_found_as_well_as_bright_ones(method) -> None:
    pytest.importorskip(MODULES[method])
    image, one, _ = scene(-300.0)
    empty = torch.zeros_like(one)
    mask = method(image, SPACING, [deepest_click(one, empty, SPACING)], empty)
    assert dice(mask, one) > 0.9


@pytest.mark.parametrize("method", METHODS)
def test_clicks_hold_whatever_the_intensities_say(method) -> None:
    pytest.importorskip(MODULES[method])
    image, one, other = scene()
    prompts = [
        point((12, 16, 9), SPACING),
        point((30, 20, 11), SPACING),
        point((30, 20, 12), SPACING, positive=False),
        point((3, 3, 3), SPACING),
        scribble([(12, 20, 9), (12, 21, 9)], SPACING, positive=False),
    ]
    mask = method(image, SPACING, prompts, torch.zeros_like(one))
    assert mask[12, 16, 9] and mask[30, 20, 11] and mask[3, 3, 3]
    assert not mask[30, 20, 12] and not mask[12, 20, 9] and not mask[12, 21, 9]


@pytest.mark.parametrize("method", METHODS)
def test_a_negative_click_cuts_off_a_leak(method) -> None:
    pytest.importorskip(MODULES[method])
    image, one, other = scene()
    image[12:31, 17:20, 9:12] = image[one].mean()  # a bridge
    empty = torch.zeros_like(one)
    first = [deepest_click(one, empty, SPACING)]
    leaked = method(image, SPACING, first, empty)
    cut = method(image, SPACING, [*first, point((30, 20, 11), SPACING, positive=False)], leaked)
    assert (leaked & other).sum() > 0.9 * other.sum()
    assert (cut & other).sum() < 0.5 * other.sum() and dice(cut, one) > 0.7


@pytest.mark.parametrize("method", METHODS)
def test_without_positive_prompts_nothing_changes(method) -> None:
    pytest.importorskip(MODULES[method])
    image, one, _ = scene()
    assert torch.equal(method(image, SPACING, [point((30, 20, 11), SPACING, positive=False)], one), one)


@pytest.mark.parametrize("method", METHODS)
def test_a_box_is_a_prompt_too(method) -> None:
    pytest.importorskip(MODULES[method])
    image, one, _ = scene()
    mask = method(image, SPACING, [box((7, 11, 7), (17, 21, 11), SPACING)], torch.zeros_like(one))
    assert dice(mask, one) > 0.8


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_scan_of_one_value_is_no_error(method, value: float) -> None:
    pytest.importorskip(MODULES[method])
    image = torch.full((10, 8, 6), value)
    mask = method(image, SPACING, [point((5, 4, 3), SPACING)], torch.zeros(10, 8, 6, dtype=torch.bool))
    assert mask[5, 4, 3]


@pytest.mark.parametrize("method", METHODS)
def test_a_missing_library_is_named_with_its_extra(method, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, MODULES[method], None)
    image, one, _ = scene()
    with pytest.raises(ImportError) as caught:
        method(image, SPACING, [point((12, 16, 9), SPACING)], torch.zeros_like(one))
    assert 'pip install "rep3d[' in describe(caught.value)
