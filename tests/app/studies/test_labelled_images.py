"""The labelled images as a list and as an archive: one that cannot be had is left out and named."""

import json
import logging
import os
import shutil
import zipfile
from unittest.mock import Mock

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_helpers import write_series

from monailabel_app.errors import RequestError
from monailabel_app.studies.folder import StudiesFolder
from rep3d.files import WriteError

NAMES = ["a", "b", "c"]


def lose_a_slice(folder):
    (folder / sorted(os.listdir(folder))[5]).unlink()


def tilt_a_slice(folder):
    path = sorted(folder.iterdir())[5]
    dataset = pydicom.dcmread(path)
    dataset.ImageOrientationPatient = [0, 1, 0, 0, 0, 1]
    dataset.save_as(path)


def link_a_slice_elsewhere(folder):
    path = sorted(folder.iterdir())[5]
    path.symlink_to(path.rename(folder.parents[1] / "elsewhere.dcm"))


def cut_a_slice(folder):
    path = sorted(folder.iterdir())[5]
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.fixture
def store(tmp_path):
    """Three labelled DICOM series."""
    write_series(tmp_path / "studies/a")
    for name in NAMES[1:]:
        shutil.copytree(tmp_path / "studies/a", tmp_path / "studies" / name)
    store = StudiesFolder(tmp_path / "studies")
    label = tmp_path / "label.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((64, 48, 12), np.uint8), nib.load(store.image("a")).affine), label)
    for name in NAMES:
        store.save_label(name, str(label), "final", {})
    return store


@pytest.mark.parametrize("damage", [lose_a_slice, tilt_a_slice, link_a_slice_elsewhere, cut_a_slice])
def test_one_that_stops_converting(damage, store, caplog):
    damage(store.root / "b")
    with caplog.at_level(logging.WARNING):
        images = [pair["image"] for pair in store.datalist(full_path=False)]
    assert images == [f".rep3d/converted/{name}.nii.gz" for name in ("a", "c")]
    assert "labelled images: skipped b: " in caplog.text
    path = store.get_dataset_archive()
    try:
        archive = zipfile.ZipFile(path)
        assert [name for name in archive.namelist() if name[0] == "i"] == ["image/a.nii.gz", "image/c.nii.gz"]
        metadata = json.loads(archive.read("metadata.json"))
        assert list(metadata["skipped"]) == ["b"] and metadata["skipped"]["b"] and list(metadata["objects"]) == NAMES
    finally:
        os.unlink(path)


def test_a_limit_counts_what_is_there(store):
    lose_a_slice(store.root / "a")
    path = store.get_dataset_archive(limit_cases=1)
    try:
        assert [name for name in zipfile.ZipFile(path).namelist() if name[0] == "i"] == ["image/b.nii.gz"]
    finally:
        os.unlink(path)


def test_none_that_can_be_had(store):
    for name in NAMES:
        lose_a_slice(store.root / name)
    assert store.datalist() == []
    with pytest.raises(RequestError, match="no labelled image yet; a: .*is one missing.*; b: ") as caught:
        store.get_dataset_archive()
    assert caught.value.status == 404


@pytest.mark.parametrize("full", [WriteError(28, "No space left on device", "x"), RequestError(507, "full")])
def test_a_full_disk_is_no_matter_of_one_image(full, store, monkeypatch):
    monkeypatch.setattr(store.images, "file", Mock(side_effect=full))
    for call in (store.datalist, store.get_dataset_archive):
        with pytest.raises(type(full)):
            call()
