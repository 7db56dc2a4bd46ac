import numpy as np
import pytest

from rep3d.datasets.acquisition import acquire

SIZE = 40


def ball():
    x, y, z = np.ogrid[:SIZE, :SIZE, :SIZE]
    return (x - 17) ** 2 + (y - 21) ** 2 + (z - 19) ** 2 < 11**2


@pytest.fixture(scope="module")
def scans():
    mask = ball()
    return [acquire(np.random.default_rng(seed), mask.astype(np.float32), mask.astype(np.uint8)) for seed in range(40)]


def contrast(image, label):
    return abs(image[label == 1].mean() - image[label == 0].mean())


def test_label_stays_on_the_image(scans):
    for scan in scans:
        steps = [1 if side < SIZE - 4 else 3 for side in scan.label.shape]  # of slices; voxels between them are blurred
        shifted = [np.roll(scan.label, by, axis) for axis in range(3) for by in (-steps[axis], steps[axis])]
        assert contrast(scan.image, scan.label) > max(contrast(scan.image, label) for label in shifted)


def test_slices_keep_the_field_of_view(scans):
    thick = [scan for scan in scans if len(set(scan.spacing)) > 1]
    assert 0 < len(thick) < len(scans)
    for scan in scans:
        assert scan.image.shape == scan.label.shape
        assert 0.6 <= min(scan.spacing) <= 3
        ratios = np.divide(scan.spacing, min(scan.spacing))
        assert sorted(ratios)[:2] == [1, 1] and round(max(ratios), 6) in (1, 2, 3, 4, 5)
        extent = ratios * scan.image.shape
        assert (extent > SIZE - 5).all() and (extent <= SIZE + 1e-6).all()


def test_ct_and_mr_occur(scans):
    lowest = [scan.image.min() for scan in scans]
    assert min(lowest) < -100 and max(lowest) >= 0
    saturated = [np.mean(scan.image == scan.image.max()) > 0.01 for scan in scans]
    assert any(saturated) and not all(saturated)


def test_noise_differs(scans):
    spreads = []
    for scan in scans:
        inside, outside = (scan.image[scan.label == i] for i in (1, 0))
        spreads.append(outside.std() / abs(float(inside.mean()) - float(outside.mean())))
    assert max(spreads) > 4 * min(spreads)


def test_bright_and_dark_occur(scans):
    signs = {np.sign(scan.image[scan.label == 1].mean() - scan.image[scan.label == 0].mean()) for scan in scans}
    assert signs == {-1, 1}
