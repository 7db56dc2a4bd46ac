"""A GPU whose memory does not suffice, which the CPU plays here."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from app_helpers import small_bundle

from monailabel_app.bundles import read_bundle
from monailabel_app.models.inference import BundleInference
from monailabel_app.models.out_of_memory import AS_CONFIGURED, TO_SCORE, TO_SEGMENT, with_less_memory

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
    on, shapes, attempts = model.networks.on, [], []

    def small_gpu(config):
        attempts.append(config)
        if len(attempts) <= times:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        network = on(config)
        return lambda windows: shapes.append(tuple(windows.shape)) or network(windows)

    monkeypatch.setattr(model.networks, "on", small_gpu)
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


def test_the_steps():
    """Memory is let go of before the next one, when nothing that failed holds it any longer."""
    tried, held = [], []

    class Tensor:
        def __del__(self):
            held.remove(self_id)

    self_id = 1

    def run(step):
        tensor = Tensor()  # noqa: F841
        held.append(self_id)
        tried.append(step)
        if step is not TO_SEGMENT[2]:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return step.note

    def free_memory():
        assert not held
        tried.append("free")

    assert with_less_memory(TO_SEGMENT, run, free_memory) == TO_SEGMENT[2].note
    assert tried == [TO_SEGMENT[0], "free", TO_SEGMENT[1], "free", TO_SEGMENT[2]]


def test_other_errors_take_no_step():
    def run(step):
        assert step is AS_CONFIGURED
        raise ValueError("the network's output is NaN")

    with pytest.raises(ValueError, match="NaN"):
        with_less_memory(TO_SEGMENT, run, lambda: None)


def test_not_even_the_last_step():
    def run(step):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        with_less_memory(TO_SCORE, run, lambda: None)
