"""A GPU whose memory does not suffice, which the CPU plays here."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from app_helpers import small_bundle

from monailabel_app.bundles import read_bundle
from monailabel_app.models.inference import BundleInference

TRAINED_WITH = (32, 48, 32)


@pytest.fixture
def model(tmp_path):
    folder = small_bundle(tmp_path, "msd_hippocampus")
    path = folder / "configs/inference.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "patch_size": TRAINED_WITH}), encoding="utf-8")
    return BundleInference(read_bundle(folder))


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "scan.nii.gz"
    noise = np.random.default_rng(0).normal(100, 50, (40, 60, 44)).astype(np.float32)
    nib.save(nib.Nifti1Image(noise, np.eye(4)), path)
    return path


def run_out_of_memory(model, monkeypatch, times):
    """In the first attempts; returns the list that takes the shapes of what the network gets in the next one."""
    run, shapes, attempts = model._run, [], []

    def attempt(parser, image, note):
        attempts.append(note)
        if len(attempts) <= times:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        model.network(parser).register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
        return run(parser, image, note)

    monkeypatch.setattr(model, "_run", attempt)
    return shapes


@pytest.mark.slow
@pytest.mark.parametrize(
    "times, note, several, window",
    [
        (0, "", True, TRAINED_WITH),
        (1, "one window at a time", False, TRAINED_WITH),
        (2, "in main memory", False, TRAINED_WITH),
        (3, "smaller windows", False, (32, 32, 32)),
        (4, "used the CPU", True, TRAINED_WITH),
    ],
)
def test_what_is_tried(model, image, monkeypatch, times, note, several, window):
    usual = model.segment(image)
    shapes = run_out_of_memory(model, monkeypatch, times)
    result = model.segment(image)
    assert note in result.note and bool(note) == bool(result.note)
    assert {shape[2:] for shape in shapes} == {window}
    assert (max(shape[0] for shape in shapes) > 1) == several
    np.testing.assert_array_equal(result.grid.affine, usual.grid.affine)
    assert result.voxels.shape == usual.voxels.shape
    if window == TRAINED_WITH:
        np.testing.assert_array_equal(result.voxels, usual.voxels)
