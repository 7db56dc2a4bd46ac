"""DICOM series among the studies."""

import os
import shutil

import nibabel as nib
import pytest
from bundle_helpers import ROOT

from monailabel_app.studies.folder import StudiesFolder
from rep3d.io.dicom import sorted_slices

SERIES = ROOT.parent / "shared/data/abdomen_ct_dicom"

pytestmark = pytest.mark.skipif(not SERIES.is_dir(), reason="the DICOM series is not here")


@pytest.fixture
def series(tmp_path):
    """A copy whose file names say nothing of the order."""
    folder = tmp_path / "studies/series"
    folder.mkdir(parents=True)
    files = sorted((SERIES / "uncompressed").iterdir())
    for number, path in enumerate(files):
        shutil.copy(path, folder / f"{number * 7 % len(files):03d}.dcm")
    return folder


def test_series_among_the_studies(series):
    store = StudiesFolder(series.parent)
    assert store.list_images() == ["series"]
    path = store.image("series")
    made = path.stat().st_mtime_ns
    assert store.image("series") == path and path.stat().st_mtime_ns == made
    assert nib.load(path).shape[2] == 20


def test_a_series_that_was_still_being_copied(series):
    store, kept = StudiesFolder(series.parent), sorted_slices(series)[10:]
    for path in kept:
        path.rename(series.parent / path.name.replace(".dcm", ".later"))
    assert nib.load(store.image("series")).shape[2] == 10
    for path in kept:
        (series.parent / path.name.replace(".dcm", ".later")).rename(path)
    os.utime(series, (1, 1))
    assert nib.load(store.image("series")).shape[2] == 20
