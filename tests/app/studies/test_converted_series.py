"""DICOM series as NIfTI: made anew where need be, and refused without another look."""

import logging
import shutil

import nibabel as nib
import pydicom
import pytest
from dicom_helpers import write_series

from monailabel_app.errors import RequestError
from monailabel_app.studies import converted
from monailabel_app.studies.folder import StudiesFolder
from rep3d.files import read_json, write_json


@pytest.fixture
def files(tmp_path):
    """Of one series, from the first slice to the last."""
    return write_series(tmp_path / "studies/series")


@pytest.fixture
def store(files):
    return StudiesFolder(files[0].parents[1])


def test_stray_files_are_logged(store, files, caplog):
    (files[0].parent / "00_README.txt").write_text("hello")
    with caplog.at_level(logging.WARNING):
        assert store.list_images() == ["series"] and nib.load(store.image("series")).shape == (64, 48, 12)
    assert "series series: 1 file(s) are set aside: 00_README.txt: no DICOM file" in caplog.text


def test_what_older_software_converted_is_made_anew(store, files):
    """It read a PET as zeros."""
    for number, path in enumerate(files):
        dataset = pydicom.dcmread(path)
        dataset.RescaleSlope = 1e-4 * (number + 1)
        dataset.save_as(path)
    path = store.image("series")
    whole = nib.load(path).get_fdata()
    nib.save(nib.Nifti1Image(0 * whole, nib.load(path).affine), path)
    listed = path.with_suffix(".json")
    write_json(listed, read_json(listed)["files"])
    assert abs(nib.load(store.image("series")).get_fdata() - whole).max() == 0 < whole.max()


def test_a_refused_series_is_read_once(store, files, monkeypatch):
    """Until its files change."""
    calls = []
    convert = converted.convert_series
    monkeypatch.setattr(converted, "convert_series", lambda *args: (calls.append(1), convert(*args)))
    moved = files[5].rename(store.root / "moved.dcm")
    for _ in range(3):
        with pytest.raises(RequestError, match="is one missing"):
            store.image("series")
    assert len(calls) == 1
    shutil.move(moved, files[5])
    assert nib.load(store.image("series")).shape[2] == 12


def test_a_link_to_nothing(store, files):
    (files[0].parent / "gone").symlink_to(files[0].parent / "absent")
    assert nib.load(store.image("series")).shape[2] == 12
