import errno
import os

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, LoadImaged, Orientationd, SaveImaged, Spacingd

from rep3d.errors import root_cause
from rep3d.transforms import CheckVolumed, ToNativeGridd, WholeFileWriter


def volume(shape=(1, 4, 5, 6), affine=None, fill=1.0) -> MetaTensor:
    affine = torch.eye(4, dtype=torch.float64) if affine is None else affine
    return MetaTensor(torch.full(shape, fill), affine=affine, meta={"filename_or_obj": "scan.nii.gz"})


def with_voxel(value: float) -> MetaTensor:
    image = volume()
    image[0, 1, 2, 3] = value
    return image


def flat_affine() -> torch.Tensor:
    return torch.diag(torch.tensor([1.0, 1.0, 0.0, 1.0], dtype=torch.float64))


# --- CheckVolumed


def test_good_volume_passes_unchanged():
    data = {"image": volume(), "name": "case"}
    checked = CheckVolumed("image")(data)
    assert checked == data
    assert checked is not data


@pytest.mark.parametrize(
    "image, message",
    [
        (volume((1, 4, 5)), r"shape \(1, 4, 5\), expected one channel and three dimensions"),
        (volume((3, 4, 5, 6)), r"shape \(3, 4, 5, 6\), expected one channel and three dimensions"),
        (volume((1, 4, 5, 6, 2)), r"shape \(1, 4, 5, 6, 2\), expected one channel"),
        (with_voxel(np.nan), "NaN or infinite"),
        (with_voxel(-np.inf), "NaN or infinite"),
        (volume(affine=flat_affine()), r"affine .* is singular, expected an invertible one"),
        (volume(affine=flat_affine() * np.nan), "singular"),
    ],
)
def test_bad_volume_is_named(image, message):
    with pytest.raises(ValueError, match=f"^scan.nii.gz: .*{message}"):
        CheckVolumed("image")({"image": image})


def test_every_key_is_checked():
    with pytest.raises(ValueError, match="NaN"):
        CheckVolumed(["image", "label"])({"image": volume(), "label": with_voxel(np.nan)})


def test_missing_key():
    with pytest.raises(KeyError, match="label"):
        CheckVolumed(["image", "label"])({"image": volume()})
    assert CheckVolumed(["image", "label"], allow_missing_keys=True)({"image": volume()}).keys() == {"image"}


@pytest.mark.parametrize("shape", [(8, 9), (8, 9, 7, 2), (8, 9, 7, 3, 2)])
def test_dimensions_of_a_file(shape, tmp_path):
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(np.ones(shape, np.float32), np.eye(4)), path)
    load = Compose([LoadImaged("image", ensure_channel_first=True), CheckVolumed("image")])
    with pytest.raises(RuntimeError) as raised:
        load({"image": str(path)})
    assert str(path) in str(root_cause(raised.value))
    assert "expected one channel and three dimensions" in str(root_cause(raised.value))


# --- WholeFileWriter


@pytest.fixture
def save(tmp_path):
    folder = {"output_dir": tmp_path, "separate_folder": False}
    writer = SaveImaged("image", output_postfix="seg", resample=False, writer=WholeFileWriter, **folder)
    return lambda fill=1.0, shape=(1, 4, 5, 6): writer({"image": volume(shape, fill=fill)})


def test_writes_the_file_and_nothing_else(save, tmp_path):
    save(2.0)
    assert [path.name for path in tmp_path.iterdir()] == ["scan_seg.nii.gz"]
    written = nib.load(tmp_path / "scan_seg.nii.gz")
    assert written.shape == (4, 5, 6)
    assert (written.get_fdata() == 2).all()


@pytest.mark.parametrize("shape", [(4, 5, 1), (4, 1, 1), (1, 5, 6)])
def test_one_slice_stays_a_volume(shape, save, tmp_path):
    save(shape=(1, *shape))
    assert nib.load(tmp_path / "scan_seg.nii.gz").shape == shape


@pytest.mark.parametrize("interruption", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("before", [None, 3.0])
def test_failure_in_the_middle(interruption, before, save, tmp_path, monkeypatch):
    if before is not None:
        save(before)

    def half(image, path):
        with open(path, "wb") as file:
            file.write(b"half of a file")
        raise interruption

    monkeypatch.setattr(nib, "save", half)
    with pytest.raises((type(interruption), RuntimeError)):
        save(4.0)
    if before is None:
        assert list(tmp_path.iterdir()) == []
    else:
        assert [path.name for path in tmp_path.iterdir()] == ["scan_seg.nii.gz"]
        assert (nib.load(tmp_path / "scan_seg.nii.gz").get_fdata() == before).all()


def test_name_of_the_temporary_file_keeps_the_suffix(save, monkeypatch):
    names = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (names.append((str(a), str(b))), replace(a, b)))
    save()
    (temporary, final), *_ = names
    assert temporary.endswith(".scan_seg.nii.gz") and final.endswith(os.sep + "scan_seg.nii.gz")
    assert os.path.dirname(temporary) == os.path.dirname(final)


# --- ToNativeGridd


def save_labels(path, orientation, affine):
    """Blocks of 6 voxels with labels of their own."""
    blocks = np.random.default_rng(0).integers(0, 4, (6, 5, 4), dtype=np.uint8)
    image = nib.Nifti1Image(blocks.repeat(6, 0).repeat(6, 1).repeat(6, 2), affine)
    target = nib.orientations.axcodes2ornt(orientation)
    image = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(affine), target))
    nib.save(image, path)
    return path


OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.2, -0.3, 0.1) @ np.diag([1.2, 0.9, 2.0]), [10.0, -20.0, 30.0]
)


@pytest.mark.parametrize("affine", [np.diag([1.2, 0.9, 2.0, 1]), OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize("orientation", ["RAS", "LPS", "LAS", "IPL"])
def test_back_on_the_native_grid(orientation, affine, tmp_path):
    """Finer and back gives what was there, as MONAI's inversion does."""
    path = save_labels(tmp_path / "a.nii.gz", orientation, affine)
    there = Compose(
        [
            LoadImaged("image", ensure_channel_first=True),
            Orientationd("image", "RAS"),
            Spacingd("image", (0.6, 0.6, 1.0), mode="nearest"),
        ]
    )
    data = there({"image": str(path)})
    data["pred"] = data["image"].clone()
    back = ToNativeGridd("pred")(data)["pred"]
    scan = nib.load(path)
    np.testing.assert_array_equal(back[0].numpy(), np.asarray(scan.dataobj))
    np.testing.assert_allclose(back.affine, scan.affine, atol=1e-5)
    inverted = Invertd("pred", there, orig_keys="image", nearest_interp=True)(data)["pred"]
    np.testing.assert_array_equal(back[0].numpy(), inverted[0].numpy())
    assert back.meta["filename_or_obj"] == str(path)


def test_outside_of_the_label_map_is_background(tmp_path):
    path = save_labels(tmp_path / "a.nii.gz", "RAS", np.eye(4))
    image = LoadImaged("image", ensure_channel_first=True)({"image": str(path)})["image"]
    affine = image.affine.clone()
    affine[0, 3] = 10
    pred = MetaTensor(torch.ones(1, 5, 30, 24, dtype=torch.uint8), affine=affine)
    back = ToNativeGridd("pred")({"image": image, "pred": pred})["pred"]
    assert back.shape == (1, 36, 30, 24)
    assert back[0, :, 5, 5].nonzero().flatten().tolist() == list(range(9, 16))  # one voxel more on either side
