import gzip

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, LoadImaged

from rep3d.console.errors import root_cause
from rep3d.io.geometry import VolumeError

VOXELS = np.random.default_rng(0).normal(100, 20, (6, 7, 8)).astype(np.float32)
LOAD = Compose([LoadImaged("image", reader="rep3d.io.reader.NiftiReader", ensure_channel_first=True)])


def save(path, voxels=VOXELS, size=1.0, unit="mm"):
    volume = nib.Nifti1Image(voxels, np.diag([2 * size, 3 * size, 4 * size, 1]))
    volume.header.set_xyzt_units(unit)
    nib.save(volume, path)
    return path


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
def test_as_monai_reads(name, tmp_path):
    path = save(tmp_path / name)
    ours, monais = (
        LOAD({"image": path})["image"],
        LoadImaged("image", ensure_channel_first=True)({"image": path})["image"],
    )
    assert torch.equal(ours.as_tensor(), monais.as_tensor()) and torch.equal(ours.affine, monais.affine)
    for key in ("original_affine", "spatial_shape", "space", "filename_or_obj", "original_channel_dim"):
        np.testing.assert_array_equal(ours.meta[key], monais.meta[key], err_msg=key)


@pytest.mark.parametrize(("size", "unit"), [(1e-3, "meter"), (1e3, "micron")])
def test_affines_are_in_millimetres(size, unit, tmp_path):
    image = LOAD({"image": save(tmp_path / "a.nii.gz", size=size, unit=unit)})["image"]
    np.testing.assert_allclose(image.affine, np.diag([2, 3, 4, 1]), rtol=1e-6)
    np.testing.assert_allclose(image.meta["original_affine"], image.affine)


def test_one_volume_of_four_dimensions(tmp_path):
    image = LOAD({"image": save(tmp_path / "a.nii.gz", VOXELS[..., None])})["image"]
    assert image.shape == (1, 6, 7, 8)


def test_a_damaged_file_is_named_and_read_by_no_other_reader(tmp_path):
    path = save(tmp_path / "a.nii.gz")
    content = gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=0)
    path.write_bytes(content[:900] + bytes(40) + content[940:])
    with pytest.raises(RuntimeError) as raised:
        LOAD({"image": path})
    cause = root_cause(raised.value)
    assert isinstance(cause, VolumeError) and str(path) in str(cause)
