"""Surface Dice and the 95 % Hausdorff distance by area, against DeepMind's `surface-distance`."""

import numpy as np
import pytest
from score_helpers import score_label_map

SPACING = (0.8, 1.0, 2.5)


def ellipsoid(shape, spacing, centre, radii):
    grid = np.indices(shape).transpose(1, 2, 3, 0) * spacing
    return np.linalg.norm((grid - centre) / radii, axis=-1) < 1


def pair(kind):
    """Prediction and truth."""
    truth = ellipsoid((36, 32, 20), SPACING, (14, 16, 25), (9, 11, 12))
    if kind == "moved":
        return ellipsoid((36, 32, 20), SPACING, (15, 18, 25), (9, 9, 14)), truth
    if kind == "a far voxel too many":
        prediction = truth.copy()
        prediction[-2, 1:4, 1] = True
        return prediction, truth
    if kind == "cut by the border":
        return truth[:, 10:, 8:], np.roll(truth, 2, axis=0)[:, 10:, 8:]
    if kind == "single voxels":
        prediction, truth = np.zeros((2, 5, 6, 7), bool)
        prediction[2, 2, 2] = truth[2, 4, 3] = True
        return prediction, truth
    generator = np.random.default_rng(0)
    return generator.random((14, 12, 10)) < 0.4, generator.random((14, 12, 10)) < 0.1


KINDS = ("moved", "a far voxel too many", "cut by the border", "single voxels", "noise")
SPACINGS = (SPACING, (1, 1.5, 2), (3.0, 0.7, 0.7))


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_deepmind(kind, spacing):
    peer = pytest.importorskip("surface_distance")
    prediction, truth = pair(kind)
    surfaces = peer.compute_surface_distances(truth, prediction, spacing)
    score = score_label_map(prediction.astype(np.uint8), truth.astype(np.uint8), [1], spacing)[1]
    assert score["surface_dice"] == pytest.approx(peer.compute_surface_dice_at_tolerance(surfaces, 2), rel=1e-5)
    assert score["hd95_mm"] == pytest.approx(peer.compute_robust_hausdorff(surfaces, 95), rel=1e-5)


@pytest.mark.parametrize(
    "kind, surface_dice, distance",
    [
        ("moved", 0.83638, 3.10483),
        ("a far voxel too many", 0.99566, 0),
        ("cut by the border", 1, 1.6),
        ("single voxels", 0.5, 3.20156),
        ("noise", 0.97662, 1.88680),
    ],
)
def test_its_numbers(kind, surface_dice, distance):
    """What it gave, for where it is not installed."""
    prediction, truth = pair(kind)
    score = score_label_map(prediction.astype(np.uint8), truth.astype(np.uint8), [1], SPACING)[1]
    assert score["surface_dice"] == pytest.approx(surface_dice, abs=1e-4)
    assert score["hd95_mm"] == pytest.approx(distance, abs=1e-3)


def test_flat_cubes_by_hand():
    """A plate of 10 x 10 voxels, and the same 3 mm further in one half: areas count, not the voxels of the surface."""
    truth = np.zeros((20, 14, 14), np.uint8)
    truth[4:10, 2:12, 2:12] = 1
    prediction = truth.copy()
    score = score_label_map(prediction, truth, [1], (1, 1, 1))[1]
    assert (score["surface_dice"], score["hd95_mm"]) == (1, 0)
    prediction[10:13, 2:12, 2:7] = 1
    score = score_label_map(prediction, truth, [1], (1, 1, 1))[1]
    assert 0.8 < score["surface_dice"] < 1 and score["hd95_mm"] == pytest.approx(3, abs=0.2)


def test_int_and_float_spacing():
    prediction, truth = (mask.astype(np.uint8) for mask in pair("moved"))
    assert score_label_map(prediction, truth, [1], (1, 1.5, 2)) == score_label_map(
        prediction, truth, [1], (1.0, 1.5, 2.0)
    )
    assert score_label_map(prediction, truth, [1], np.array([1, 1, 2])) == score_label_map(
        prediction, truth, [1], [1.0, 1, np.float32(2)]
    )
