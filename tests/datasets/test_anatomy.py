import numpy as np
import pytest
from scipy import ndimage

from rep3d.datasets import anatomy
from rep3d.datasets.acquisition import Scan
from rep3d.datasets.anatomy import MAX_LABELS, make_anatomy
from rep3d.datasets.shapes import KINDS

SIZE, SCANS = 48, 16


@pytest.fixture(scope="module")
def scans():
    return [make_anatomy(SIZE, seed=(0, case)) for case in range(SCANS)]


def test_same_seed_same_scan(scans):
    again = make_anatomy(SIZE, seed=(0, 3))
    np.testing.assert_array_equal(again.image, scans[3].image)
    np.testing.assert_array_equal(again.label, scans[3].label)
    assert again.spacing == scans[3].spacing


def test_every_scan_differs(scans):
    assert len({scan.image.tobytes() for scan in scans}) == SCANS


def test_label_ids_have_no_gaps(scans):
    for scan in scans:
        assert (scan.image.dtype, scan.label.dtype) == (np.int16, np.uint8)
        assert scan.image.shape == scan.label.shape
        counts = np.bincount(scan.label.ravel())
        assert counts[1:].min() >= 8
    numbers = [scan.label.max() for scan in scans]
    assert min(numbers) >= 5 and max(numbers) <= MAX_LABELS and len(set(numbers)) > 4


def test_labels_that_thick_slices_hide_leave_no_gap(monkeypatch):
    label = np.zeros((4, 4, 4), np.uint8)
    label[0], label[1, 0], label[2:] = 1, 2, 3  # of which 2 has four voxels
    monkeypatch.setattr(anatomy, "acquire", lambda *args: Scan(label.astype(np.int16), label, (1.0, 1.0, 1.0)))
    expected = np.where(label == 3, 2, label == 1)
    np.testing.assert_array_equal(make_anatomy(32).label, expected)


def test_labels_hang_together(scans):
    whole = [scan.label for scan in scans if scan.label.shape == (SIZE, SIZE, SIZE)]  # thick slices may part them
    assert len(whole) > SCANS / 2
    for label in whole:
        assert all(ndimage.label(label == i, np.ones((3, 3, 3)))[1] == 1 for i in range(1, label.max() + 1))


def test_all_kinds_are_drawn(monkeypatch):
    drawn = set()

    def record(name, shape):
        def draw(*args):
            drawn.add(name)
            return shape(*args)

        return draw

    assert set(anatomy.WEIGHTS) == set(KINDS)
    monkeypatch.setattr(anatomy, "KINDS", {name: record(name, shape) for name, shape in KINDS.items()})
    for case in range(6):
        make_anatomy(SIZE, seed=case)
    assert drawn == set(KINDS)


def neighbours(label):
    """Pairs of label ids that touch."""
    pairs = set()
    for axis in range(3):
        one, other = (np.moveaxis(label, axis, 0)[part].ravel() for part in (slice(None, -1), slice(1, None)))
        different = one != other
        pairs |= {frozenset(pair) for pair in np.unique(np.stack((one, other))[:, different], axis=1).T.tolist()}
    return pairs


def test_neighbours_touch_and_some_are_nested(scans):
    nested = touching = 0
    for scan in scans:
        pairs = neighbours(scan.label)
        touching += len([pair for pair in pairs if 0 not in pair])
        for i in range(1, scan.label.max() + 1):
            around = {other for pair in pairs if i in pair for other in pair - {i}}
            nested += len(around) == 1 and 0 not in around
    assert touching > 3 * SCANS
    assert nested >= 2


def test_sizes_differ(scans):
    sides = [max(part.stop - part.start for part in box) for scan in scans for box in ndimage.find_objects(scan.label)]
    assert min(sides) <= 5
    assert np.percentile(sides, 90) > 0.5 * SIZE


def contrast(scan, i):
    """Between both sides of a label's border, in deviations; None where the label fills the volume."""
    mask = scan.label == i
    outside = ndimage.binary_dilation(mask, iterations=2) & ~mask
    if not outside.any():
        return None
    image = scan.image.astype(float)
    spread = (image[mask].std() + image[outside].std()) / 2
    return abs(image[mask].mean() - image[outside].mean()) / max(spread, 1)


def test_borders_are_sharp_and_faint(scans):
    values = [contrast(scan, i) for scan in scans for i in range(1, scan.label.max() + 1)]
    values = [value for value in values if value is not None]
    assert np.percentile(values, 15) < 0.5 < 1 < np.percentile(values, 65)


def test_some_structures_have_no_label(monkeypatch):
    scenes = []
    monkeypatch.setattr(anatomy, "Scene", lambda *args: scenes.append(original(*args)) or scenes[-1])
    make_anatomy(SIZE)
    labelled = scenes[0].labelled[1:]
    assert 0.5 < np.mean(labelled) < 1


original = anatomy.Scene


@pytest.mark.parametrize("size", [31, 257, 0, -96, 96.0, True, "96", None])
def test_bad_size(size):
    with pytest.raises(ValueError, match="^size must be a whole number of voxels from 32 to 256, got "):
        make_anatomy(size)


def test_smallest_size():
    scan = make_anatomy(32, seed=1)
    assert max(scan.image.shape) == 32
    assert scan.label.max() > 3
