"""DICOM series among the studies."""

import os
import shutil

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_helpers import write_series
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless

from monailabel_app.errors import RequestError
from monailabel_app.studies.folder import StudiesFolder

SLICES = 12


@pytest.fixture
def files(tmp_path):
    """Of one series, from the first slice to the last."""
    return write_series(tmp_path / "studies/series", slices=SLICES)


@pytest.fixture
def store(files):
    return StudiesFolder(files[0].parents[1])


def test_a_series_is_converted_once(store):
    assert store.list_images() == ["series"]
    path = store.image("series")
    made = path.stat().st_mtime_ns
    assert store.image("series") == path and path.stat().st_mtime_ns == made
    assert nib.load(path).shape == (64, 48, SLICES)
    assert store.get_image_info("series") == {} and store.series("series") == store.root / "series"


def test_a_series_that_was_still_being_copied(store, files):
    later = [path.rename(store.root / f"{path.name}.later") for path in files[6:]]
    assert nib.load(store.image("series")).shape[2] == 6
    for path in later:
        path.rename(files[0].with_name(path.name.removesuffix(".later")))
    os.utime(files[0].parent, (1, 1))
    assert nib.load(store.image("series")).shape[2] == SLICES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: files[5].unlink(), r"006.dcm: 6.000 mm after the slice before"),
        (lambda files: files[5].write_bytes(b"junk"), "005.dcm: no DICOM file"),
        (lambda files: break_pixels(files[5]), "the DICOM series cannot be decoded"),
    ],
    ids=["missing", "junk", "pixels"],
)
def test_a_series_that_is_refused(change, message, store, files):
    """With the name of the slice, and not of the folder."""
    change(files)
    with pytest.raises(RequestError, match=message) as caught:
        store.image("series")
    assert caught.value.status == 400 and str(store.root) not in caught.value.message
    assert not list((store.root / ".rep3d/converted").glob("*"))


def break_pixels(path):
    """Says that they are JPEG 2000, which they are not."""
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.PixelData = encapsulate([b"junk" * 25])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)


def test_a_series_is_not_removed(store, files):
    """Nor is its label, where it has one."""
    label = nib.Nifti1Image(np.ones((64, 48, SLICES), np.uint8), nib.load(store.image("series")).affine)
    nib.save(label, store.root / "label.nii.gz")
    store.save_label("series", str(store.root / "label.nii.gz"), "final", {})
    with pytest.raises(RequestError, match="a DICOM series is not removed") as caught:
        store.remove_image("series")
    assert caught.value.status == 405 and files[0].is_file() and store.get_labels_by_image_id("series")


@pytest.mark.parametrize("kind", ["slice", "all slices", "folder below"])
def test_slices_that_lie_elsewhere(kind, tmp_path):
    """Links out of the studies: what they lead to is not read, and not left out either."""
    series = tmp_path / "studies/series"
    outside = tmp_path / "outside"
    files = write_series(outside)
    shutil.copytree(outside, series)
    if kind == "folder below":
        (series / "more").symlink_to(outside)
    else:
        for path in files if kind == "all slices" else files[3:4]:
            (series / path.name).unlink()
            (series / path.name).symlink_to(path)
    store = StudiesFolder(tmp_path / "studies")
    for read in (store.image, store.series):
        with pytest.raises(RequestError, match="is a link out of the studies") as caught:
            read("series")
        assert caught.value.status == 400
    assert not list((store.root / ".rep3d").rglob("*.nii.gz"))


def test_slices_that_are_links_within_the_studies(tmp_path):
    kept = tmp_path / "studies/.kept"
    series = tmp_path / "studies/series"
    series.mkdir(parents=True)
    for path in write_series(kept):
        (series / path.name).symlink_to(path)
    assert StudiesFolder(tmp_path / "studies").image("series").is_file()
