"""Folders of DICOM files as people have them: which files are the slices of the series, and why others are not."""

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_helpers import write_series
from pydicom.uid import SegmentationStorage, generate_uid

from rep3d.io.dicom import convert_series, find_slices, is_series
from rep3d.io.dicom_seg import make_segmentation, read_segmentation
from rep3d.io.geometry import VolumeError


@pytest.fixture
def files(tmp_path):
    """Of one series, from the first slice to the last."""
    return write_series(tmp_path / "series")


def edit(paths, change):
    for number, path in enumerate(paths):
        dataset = pydicom.dcmread(path)
        change(dataset, number)
        dataset.save_as(path)


def add(folder, change, slices, prefix):
    """The files of another series."""
    paths = write_series(folder.with_name("other"), slices=slices)
    edit(paths, change)
    return [path.rename(folder / f"{prefix}{path.name}") for path in paths]


def as_segmentation(dataset, number):
    dataset.SOPClassUID, dataset.Modality = SegmentationStorage, "SEG"
    del dataset.ImagePositionPatient, dataset.PixelSpacing


def as_screenshot(dataset, number):
    dataset.SamplesPerPixel = 3


def turned(dataset, number):
    dataset.ImageOrientationPatient, dataset.ImagePositionPatient = [0, 1, 0, 0, 0, -1], [number - 3.0, -30, 40]


def as_localizer(dataset, number):
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


STRAY = {
    "Thumbs.db": b"\xd0\xcf\x11\xe0",
    "00_README.txt": b"hello",
    "VERSION": b"1",
    "bin.dat": b"\x08\x00 and so on",
    "two bytes": b"\x02\x00",
    "DICOMDIR": b"\0" * 128 + b"DICM",
}


@pytest.mark.parametrize(("name", "content"), STRAY.items(), ids=STRAY)
def test_files_that_are_no_dicom(name, content, files):
    (files[0].parent / name).write_bytes(content)
    found = find_slices(files[0].parent)
    assert is_series(files[0].parent) and found.slices == files and found.set_aside == {name: "no DICOM file"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (as_segmentation, "of another series: ImagePositionPatient, PixelSpacing is missing"),
        (as_screenshot, "of another series: colour images are not supported"),
        (turned, "a localizer"),
        (as_localizer, "a localizer"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("prefix", ["0", "z"])
def test_objects_of_other_series(change, reason, prefix, files, tmp_path):
    """Whether they come first or last."""
    others = add(files[0].parent, change, 3, prefix)
    aside = convert_series(files[0].parent, tmp_path / "a.nii.gz")
    assert aside == {path.name: reason for path in others}
    assert find_slices(files[0].parent).slices == files and nib.load(tmp_path / "a.nii.gz").shape == (64, 48, 12)


@pytest.mark.parametrize("change", [lambda dataset, number: None, turned], ids=["alike", "turned"])
def test_two_series_are_refused_by_name(change, files):
    other = add(files[0].parent, change, 9, "B")
    uids = [pydicom.dcmread(paths[0]).SeriesInstanceUID for paths in (files, other)]
    with pytest.raises(VolumeError, match="2 DICOM series") as caught:
        find_slices(files[0].parent)
    assert all(uid in caught.value.reason for uid in uids)


def test_a_repetition_of_the_scan_is_no_localizer(files):
    """Of the same orientation, however short."""
    add(files[0].parent, lambda dataset, number: None, 2, "B")
    with pytest.raises(VolumeError, match="2 DICOM series"):
        find_slices(files[0].parent)


def test_a_file_that_is_missed_is_named(files):
    """It may be a slice that was damaged."""
    files[5].write_bytes(b"")
    damaged = files[5].rename(files[5].with_suffix(""))
    with pytest.raises(VolumeError, match=rf"is one missing\? \(1 file\(s\) are set aside: {damaged.name}: no DICOM"):
        find_slices(files[0].parent)


@pytest.mark.parametrize("size", [0, 140, 400])
def test_damaged_slices(size, files):
    """The last one, so that the others make a grid."""
    files[-1].write_bytes(files[-1].read_bytes()[:size])
    with pytest.raises(VolumeError, match="011.dcm: "):
        find_slices(files[0].parent)


@pytest.mark.parametrize("has_meta", [True, False], ids=["meta", "data only"])
def test_files_without_preamble(has_meta, files, tmp_path):
    convert_series(files[0].parent, tmp_path / "a.nii.gz")
    for path in files:
        if has_meta:
            path.write_bytes(path.read_bytes()[132:])
        else:
            dataset = pydicom.dcmread(path)
            dataset.is_implicit_VR, dataset.preamble = True, None
            del dataset.file_meta
            dataset.save_as(path)
    assert is_series(files[0].parent)
    convert_series(files[0].parent, tmp_path / "b.nii.gz")
    whole, bare = (nib.load(tmp_path / f"{name}.nii.gz") for name in "ab")
    np.testing.assert_array_equal(whole.get_fdata(), bare.get_fdata())
    np.testing.assert_array_equal(whole.affine, bare.affine)
    voxels = (bare.get_fdata() > 0).astype(int)
    back, _, _ = read_segmentation(make_segmentation(files, voxels, {"liver": 1}, "a model"), files)
    np.testing.assert_array_equal(back, voxels)


def test_rounded_positions(files, tmp_path):
    """Every 1.25 mm, rounded to tenths: distances of 1.2 and 1.3 mm."""
    edit(files, lambda dataset, number: setattr(dataset, "ImagePositionPatient", [0, 0, round(1.25 * number, 1)]))
    assert find_slices(files[0].parent).slices == files


@pytest.mark.parametrize("missing", [1, 10])
def test_a_missing_slice(missing, files):
    files[missing].unlink()
    with pytest.raises(VolumeError, match=rf"{missing + 1:03d}.dcm: 6.000 mm after .* is one missing"):
        find_slices(files[0].parent)


def test_slices_at_one_place(files):
    """A copy, or another time."""
    edit(files, lambda dataset, number: setattr(dataset, "ImagePositionPatient", [0, 0, number % 6]))
    with pytest.raises(VolumeError, match="another slice at its place"):
        find_slices(files[0].parent)


@pytest.mark.parametrize("value", [[1, 0, 0], [1, 0, 0, 0, float("nan"), 0]])
def test_headers_that_are_no_grid(value, files):
    edit(files[3:4], lambda dataset, number: setattr(dataset, "ImageOrientationPatient", value))
    with pytest.raises(VolumeError, match="003.dcm: ImageOrientationPatient is .*, expected 6 numbers"):
        find_slices(files[0].parent)


def test_a_folder_without_slices(files):
    edit(files, as_segmentation)
    with pytest.raises(VolumeError, match="000.dcm: ImagePositionPatient, PixelSpacing is missing"):
        find_slices(files[0].parent)
    for path in files:
        path.unlink()
    (files[0].parent / "VERSION").write_text("1")
    assert not is_series(files[0].parent)
    with pytest.raises(VolumeError, match="holds no DICOM file"):
        find_slices(files[0].parent)


def test_a_series_without_an_id(files):
    edit(files, lambda dataset, number: delattr(dataset, "SeriesInstanceUID"))
    assert find_slices(files[0].parent).slices == files
    edit(files[:6], lambda dataset, number: setattr(dataset, "SeriesInstanceUID", generate_uid(entropy_srcs=["a"])))
    with pytest.raises(VolumeError, match=r"without a SeriesInstanceUID \(6\)"):
        find_slices(files[0].parent)
