"""Clicks and scribbles as 3D Slicer and OHIF send them, over HTTP, with a network whose answers are known."""

import nibabel as nib
import numpy as np
import pytest
from app_helpers import small_bundle
from prompt_helpers import Refused, Slicer, prompt_bundle, start_app

SHAPE = (24, 20, 12)
FIRST, SECOND = [5, 10, 6], [18, 10, 6]  # in balls that look alike, with others between them


def make_scan(path):
    """Two bright balls on a dark ground, along a first axis that runs from right to left."""
    voxels = np.random.default_rng(0).normal(0, 5, SHAPE)
    for centre in (FIRST, SECOND):
        voxels[ball(centre, 4)] += 300
    scan = nib.Nifti1Image(voxels.astype(np.int16), np.diag([-1.0, 1.0, 2.0, 1.0]))
    nib.save(scan, path)
    return scan


def ball(centre, radius):
    distances = (np.indices(SHAPE) - np.reshape(centre, (3, 1, 1, 1))) * np.reshape([1, 1, 2], (3, 1, 1, 1))
    return np.linalg.norm(distances, axis=0) < radius


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompts")
    (folder / "studies").mkdir()
    scan = make_scan(folder / "studies/scan.nii.gz")
    small_bundle(folder / "bundles", "msd_hippocampus")
    prompt_bundle(folder / "bundles")
    client = start_app(folder, folder / "studies", folder / "bundles")
    client.scan = scan
    return client


@pytest.fixture
def slicer(place, request):
    return Slicer(place, "scan", place.scan, client_id=request.node.name)


def test_a_click_adds_what_is_shown(slicer):
    slicer.add("cyst")
    slicer.points["cyst"]["foreground"] = [FIRST]
    slicer.update("interactive", "cyst")
    print(slicer.segments["cyst"].sum(), ball(FIRST, 4).sum(), (slicer.segments["cyst"] & ball(FIRST, 4)).sum())
    assert slicer.segments["cyst"][tuple(FIRST)]
