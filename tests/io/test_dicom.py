import shutil

import nibabel as nib
import numpy as np
import pydicom
import pytest
from bundle_helpers import ROOT
from dicom_helpers import write_series

from rep3d.io.dicom import convert_series, sorted_slices
from rep3d.io.geometry import VolumeError

SERIES = ROOT.parent / "shared/data/abdomen_ct_dicom"

needs_series = pytest.mark.skipif(not SERIES.is_dir(), reason="the DICOM series is not here")


@pytest.fixture(params=["made", pytest.param("real", marks=needs_series)])
def series(request, tmp_path):
    """Files whose names say nothing of the order."""
    folder = tmp_path / "studies/series"
    folder.mkdir(parents=True)
    made = request.param == "made"
    files = write_series(tmp_path / "made") if made else sorted((SERIES / "uncompressed").iterdir())
    for number, path in enumerate(files):
        shutil.copy(path, folder / f"{number * 7 % len(files):03d}.dcm")
    return folder


@needs_series
@pytest.mark.parametrize("kind", ["uncompressed", "dicom"])
def test_converted_series(kind, tmp_path):
    """Also as JPEG 2000 without identifiers: the grid of the label that belongs to it."""
    convert_series(SERIES / kind, tmp_path / "a.nii.gz")
    volume, label = nib.load(tmp_path / "a.nii.gz"), nib.load(SERIES / "label_amos.nii.gz")
    same = nib.orientations.ornt_transform(nib.io_orientation(volume.affine), nib.io_orientation(label.affine))
    volume = volume.as_reoriented(same)
    assert volume.shape == label.shape
    np.testing.assert_allclose(volume.affine, label.affine, atol=1e-2)
    voxels = volume.get_fdata()
    assert voxels.min() >= -1100 and voxels[np.asarray(label.dataobj) == 6].mean() > 0  # liver


def test_two_slices(tmp_path):
    """Oblique, the last one first: every voxel lies where its slice says."""
    across, down, normal = nib.eulerangles.euler2mat(0.3, -0.2, 0.1).T
    origin, values = np.array([20.0, -30.0, 40.0]), (700, 300)
    places = [origin + 3 * normal, origin]
    for path, place, value in zip(write_series(tmp_path / "series", slices=2), places, values, strict=True):
        pixels = np.zeros((48, 64), "<i2")
        pixels[5, 9] = value
        change(
            path,
            ImagePositionPatient=[round(number, 6) for number in place],
            ImageOrientationPatient=[round(number, 8) for number in (*across, *down)],
            PixelSpacing=[2, 2.5],  # between rows, then between columns
            PixelData=pixels.tobytes(),
        )
    convert_series(tmp_path / "series", tmp_path / "a.nii.gz")
    volume = nib.load(tmp_path / "a.nii.gz")
    assert sorted(volume.shape) == [2, 48, 64]
    for place, value in zip(places, values, strict=True):
        (index,) = np.argwhere(np.asarray(volume.dataobj) == value)
        lps = nib.affines.apply_affine(volume.affine, index) * [-1, -1, 1]
        np.testing.assert_allclose(lps, place + 9 * 2.5 * across + 5 * 2 * down, atol=1e-3)


def change(path, **tags):
    dataset = pydicom.dcmread(path)
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.save_as(path)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda files: files[10].unlink(), "is one missing"),
        (lambda files: shutil.copy(files[3], files[3].with_name("copy.dcm")), "another slice at its place"),
        (lambda files: change(files[4], PixelSpacing=[1, 1]), "PixelSpacing is"),
        (lambda files: change(files[4], ImageOrientationPatient=[0, 1, 0, 1, 0, 0]), "ImageOrientationPatient is"),
        (lambda files: change(files[4], ImagePositionPatient=None), "ImagePositionPatient is missing"),
        (lambda files: files[4].write_bytes(b"junk"), "no DICOM file"),
        (lambda files: [path.unlink() for path in files[1:]], r"has 1 slice\(s\)"),
    ],
    ids=["missing", "twice", "spacing", "orientation", "position", "junk", "one"],
)
def test_series_that_make_no_grid(break_it, message, series):
    break_it(sorted_slices(series))
    with pytest.raises(VolumeError, match=message):
        sorted_slices(series)


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 0.5, 0.5), (2, 0, 0, 0, 1, 0), (1, 0, 0, 0.6, 0.8, 0)], ids=str)
def test_directions_by_which_volumes_would_be_wrong(orientation, series):
    for path in sorted_slices(series):
        change(path, ImageOrientationPatient=list(orientation))
    with pytest.raises(VolumeError, match="ImageOrientationPatient is .*, expected two directions of length 1 "):
        sorted_slices(series)


def test_directions_to_two_digits(series):
    slices = sorted_slices(series)
    for number, path in enumerate(slices):
        change(path, ImageOrientationPatient=[0.71, 0.71, 0, -0.71, 0.71, 0], ImagePositionPatient=[0, 0, number])
    assert sorted_slices(series) == slices


def test_tilted_gantry(series):
    for number, path in enumerate(sorted_slices(series)):
        x, y, z = pydicom.dcmread(path).ImagePositionPatient
        change(path, ImagePositionPatient=[x, y + number, z])
    with pytest.raises(VolumeError, match="tilted gantry"):
        sorted_slices(series)


def test_thickness_does_not_count(series):
    for path in sorted_slices(series):
        change(path, SliceThickness=7)
    sorted_slices(series)
