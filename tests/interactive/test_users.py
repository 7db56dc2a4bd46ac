"""The simulated users show what they should, where they should."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from rep3d.interactive.distortion import distorted
from rep3d.interactive.grid import Grid
from rep3d.interactive.prompts import Prompt, draw
from rep3d.interactive.users import beside, correction, deepest_click, first_prompt

SPACING = (1.0, 1.5, 2.0)
KINDS = ("point", "scribble", "box", "lasso")


def ellipsoid(shape: tuple[int, ...], centre: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
    axes = [((np.arange(n) - c) / r) ** 2 for n, c, r in zip(shape, centre, radii, strict=True)]
    return axes[0][:, None, None] + axes[1][:, None] + axes[2] < 1


def cuboid(*sides: slice, shape: tuple[int, ...] = (20, 20, 20)) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[sides] = True
    return mask


TRUTHS = {
    "ellipsoid": ellipsoid((30, 24, 20), (15, 12, 9), (10, 7, 5)),
    "at the border": cuboid(slice(0, 6), slice(14, 20), slice(0, 20)),
    "two parts": cuboid(slice(2, 6), slice(2, 6), slice(2, 6)) | cuboid(slice(10, 18), slice(9, 12), slice(8, 18)),
    "a ring": ellipsoid((24, 24, 9), (12, 12, 4), (10, 10, 4)) & ~ellipsoid((24, 24, 9), (12, 12, 4), (6, 6, 30)),
    "one voxel": cuboid(slice(3, 4), slice(19, 20), slice(0, 1)),
    "everything": np.ones((7, 5, 6), dtype=bool),
}


def voxels_of(prompt: Prompt, shape: tuple[int, ...]) -> list[tuple[int, int, int]]:
    return [Grid.of_scan(shape, SPACING).voxel(position) for position in prompt.positions]


def drawn(prompt: Prompt, shape: tuple[int, ...]) -> np.ndarray:
    """The voxels of the scan that a box or a lasso covers."""
    return draw([prompt], Grid.of_scan(shape, SPACING))[0 if prompt.positive else 1].numpy() > 0


def check(prompt: Prompt, region: np.ndarray) -> None:
    """Whether a prompt lies where it must: in a region, or round a good part of one of its slices."""
    assert np.isfinite(prompt.positions).all()
    if prompt.kind in ("point", "scribble"):
        assert all(region[voxel] for voxel in voxels_of(prompt, region.shape))
        return
    covered = drawn(prompt, region.shape)
    assert (covered & region).any()
    if prompt.kind == "box":
        assert all(
            -s / 2 - 1e-6 <= v <= (n - 0.5) * s + 1e-6
            for position in prompt.positions
            for v, s, n in zip(position, SPACING, region.shape, strict=True)
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TRUTHS)
def test_first_prompts_lie_in_the_truth(name: str, kind: str) -> None:
    truth, generator = TRUTHS[name], np.random.default_rng(0)
    prompts = [first_prompt(truth, SPACING, generator, {kind: 1}) for _ in range(30)]
    for prompt in prompts:
        assert prompt is not None and prompt.kind == kind and prompt.positive
        check(prompt, truth)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TRUTHS)
def test_corrections_lie_in_an_error_and_have_its_sign(name: str, kind: str) -> None:
    truth, generator = TRUTHS[name], np.random.default_rng(1)
    mask = np.roll(truth, 3, axis=0) if name != "everything" else cuboid(slice(0, 3), shape=truth.shape)
    for _ in range(30):
        prompt = correction(truth, mask, SPACING, generator, {kind: 1})
        assert prompt is not None and prompt.kind == kind
        check(prompt, truth & ~mask if prompt.positive else mask & ~truth)


@pytest.mark.parametrize("kind", ["point", "scribble"])
def test_what_lies_beside_the_truth(kind: str) -> None:
    """Negative, near, and only where it may."""
    truth, generator = TRUTHS["ellipsoid"], np.random.default_rng(2)
    within = np.ones_like(truth)
    within[:, :12] = False
    away = ndimage.distance_transform_edt(~truth, sampling=SPACING)
    radius = (truth.sum() * np.prod(SPACING) * 3 / (4 * np.pi)) ** (1 / 3)
    depths = []
    for _ in range(30):
        prompt = beside(truth, within, SPACING, generator, {kind: 1})
        assert prompt is not None and prompt.kind == kind and not prompt.positive
        check(prompt, within & ~truth)
        depths += [away[voxel] for voxel in voxels_of(prompt, truth.shape)]
    assert 0 < min(depths) and 0.25 * radius < max(depths) <= radius / 2
    for nowhere in (truth, np.zeros_like(truth)):
        assert beside(truth, nowhere, SPACING, generator) is None
    assert beside(TRUTHS["one voxel"], ~TRUTHS["one voxel"], SPACING, generator) is not None
    assert beside(np.zeros_like(truth), within, SPACING, generator) is None


def test_all_kinds_come_as_often_as_they_are_told() -> None:
    truth, generator = TRUTHS["ellipsoid"], np.random.default_rng(0)
    kinds = [first_prompt(truth, SPACING, generator).kind for _ in range(400)]  # type: ignore[union-attr]
    assert [kinds.count(kind) / 400 for kind in KINDS] == pytest.approx([0.5, 0.25, 0.15, 0.1], abs=0.07)
    kinds = [correction(truth, ~truth, SPACING, generator).kind for _ in range(400)]  # type: ignore[union-attr]
    assert kinds.count("point") + kinds.count("scribble") > 340


def test_nobody_speaks_where_nothing_is_to_show() -> None:
    truth, empty, generator = TRUTHS["ellipsoid"], np.zeros((30, 24, 20), dtype=bool), np.random.default_rng(0)
    assert first_prompt(empty, SPACING, generator) is None
    assert correction(truth, truth, SPACING, generator) is None
    assert deepest_click(truth, truth, SPACING) is None
    assert deepest_click(empty, empty, SPACING) is None
    assert not distorted(empty, SPACING, generator).any()


def test_a_seed_gives_the_same_prompts_again_and_torch_the_same_as_numpy() -> None:
    truth = TRUTHS["two parts"]
    mask = np.roll(truth, 2, axis=1)

    def shown(truth: object, mask: object) -> list[Prompt | None]:
        generator = np.random.default_rng(7)
        firsts = [first_prompt(truth, SPACING, generator) for _ in range(10)]
        return firsts + [correction(truth, mask, SPACING, generator) for _ in range(10)]

    once = shown(truth, mask)
    assert once == shown(torch.from_numpy(truth), torch.from_numpy(mask))
    assert len(set(once)) > 15


def test_a_lasso_holds_the_slice_loosely() -> None:
    truth, generator = TRUTHS["ellipsoid"], np.random.default_rng(0)
    for _ in range(20):
        prompt = first_prompt(truth, SPACING, generator, {"lasso": 1})
        assert prompt is not None
        covered = drawn(prompt, truth.shape)
        part = truth & covered.any(tuple(a for a in range(3) if a != prompt.plane)).reshape(
            [-1 if a == prompt.plane else 1 for a in range(3)]
        )
        assert (part & covered).sum() >= 0.9 * part.sum()
        assert covered.sum() < 4 * part.sum()


def test_a_scribble_follows_its_region_in_one_slice() -> None:
    truth, generator = TRUTHS["a ring"], np.random.default_rng(0)
    lengths = []
    for _ in range(50):
        prompt = first_prompt(truth, SPACING, generator, {"scribble": 1})
        assert prompt is not None
        positions = np.array(prompt.positions)
        assert min(np.ptp(positions / SPACING, axis=0)) == 0
        steps = np.abs(np.diff(positions / SPACING, axis=0)).max(axis=1, initial=0)
        assert (steps < 3).all()
        lengths.append(len(positions))
    assert max(lengths) > 15 and min(lengths) < 6


def test_the_deepest_click_on_hand_made_errors() -> None:
    truth = cuboid(slice(4, 9), slice(5, 10), slice(6, 11)) | cuboid(slice(14, 17), slice(14, 17), slice(14, 17))
    empty = np.zeros_like(truth)
    click = deepest_click(truth, empty, (1, 1, 1))
    assert click == Prompt("point", ((6, 7, 8),), True)
    # The smaller part is missed, the larger one found.
    assert deepest_click(truth, cuboid(slice(4, 9), slice(5, 10), slice(6, 11)), (1, 1, 1)) == Prompt(
        "point", ((15, 15, 15),), True
    )
    # Too much outweighs too little.
    click = deepest_click(truth, truth ^ cuboid(slice(14, 17), slice(14, 17), slice(14, 17)) | ~truth, (1, 1, 1))
    assert click is not None and not click.positive


def test_depth_counts_millimetres_and_ends_at_the_scan() -> None:
    bar = cuboid(slice(0, 9), slice(0, 3), slice(0, 3), shape=(9, 3, 3))
    assert deepest_click(bar, bar & False, (1, 1, 1)) == Prompt("point", ((4, 1, 1),), True)  # the middle of the ties
    thin = cuboid(slice(0, 5), slice(0, 5), slice(0, 1), shape=(8, 5, 3))  # of 4 mm: its middle is 3 mm deep
    thick = cuboid(slice(5, 8), slice(0, 3), slice(0, 3), shape=(8, 5, 3))  # its middle is 2 mm deep
    click = deepest_click(thin | thick, thin & False, (1, 1, 4))
    assert click == Prompt("point", ((2, 2, 0),), True)


def test_missed_and_superfluous_voxels_that_touch_are_two_errors() -> None:
    truth, mask = cuboid(slice(0, 8), slice(0, 4), slice(0, 4)), cuboid(slice(8, 14), slice(0, 4), slice(0, 4))
    click = deepest_click(truth, mask, (1, 1, 1))
    assert click is not None and click.positive and click.positions[0][0] < 8


def test_components_that_touch_at_a_corner_are_one_error() -> None:
    pair = cuboid(slice(0, 3), slice(0, 3), slice(0, 3)) | cuboid(slice(3, 6), slice(3, 6), slice(3, 6))
    other = cuboid(slice(10, 13), slice(10, 14), slice(10, 14))  # 48 voxels: more than 27, less than 54
    click = deepest_click(pair | other, pair & False, (1, 1, 1))
    assert click is not None and click.positions[0][0] < 6


def test_distorted_truths_are_wrong_but_not_beyond_recognition() -> None:
    truth, generator = TRUTHS["ellipsoid"], np.random.default_rng(0)
    masks = [distorted(truth, SPACING, generator) for _ in range(60)]
    dices = np.array([2 * (mask & truth).sum() / (mask.sum() + truth.sum()) for mask in masks])
    assert all(mask.dtype == bool and mask.shape == truth.shape for mask in masks)
    assert (dices < 1).mean() > 0.9 and np.median(dices) > 0.5 and dices.min() < 0.6
    assert any((mask & ~truth).any() for mask in masks) and any((truth & ~mask).any() for mask in masks)


@pytest.mark.parametrize("name", TRUTHS)
def test_any_truth_can_be_distorted(name: str) -> None:
    generator = np.random.default_rng(0)
    before = TRUTHS[name].copy()
    for _ in range(20):
        assert distorted(TRUTHS[name], SPACING, generator).shape == before.shape
    assert np.array_equal(TRUTHS[name], before)
