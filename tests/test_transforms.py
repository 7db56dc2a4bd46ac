import errno
import os

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_helpers import ROOT
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    CropForegroundd,
    Invertd,
    LoadImaged,
    Orientationd,
    RandCropByPosNegLabeld,
    SaveImaged,
    Spacingd,
)

from rep3d.console.errors import root_cause
from rep3d.transforms import CheckVolumed, CropByPosNegLabeld, LabelMapWriter, ToNativeGridd, foreground


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


@pytest.mark.parametrize("name", ["kits", "amos_mri"])
def test_a_reversed_window_of_a_bundle_is_refused(name):
    """Whichever transform maps it: MONAI's own would invert the image."""
    parser = ConfigParser()
    parser.read_config([ROOT / f"bundles/{name}/configs/train.json"])
    parser["intensity_window"] = [275, -125]
    with pytest.raises(RuntimeError) as error:
        parser.get_parsed_content("preprocessing")
    assert str(root_cause(error.value)).startswith("intensity_window is [275, -125], expected the lower first")


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


def test_a_label_map_beside_its_image_is_refused():
    shifted = torch.eye(4, dtype=torch.float64)
    shifted[0, 3] = 0.2
    with pytest.raises(ValueError, match=r"^scan.nii.gz: affine .* differs by 0.2 voxels .* of its image scan.nii.gz"):
        CheckVolumed(["image", "label"])({"image": volume(), "label": volume(affine=shifted)})
    with pytest.raises(ValueError, match=r"shape \(4, 5, 7\) differs"):
        CheckVolumed(["image", "label"])({"image": volume(), "label": volume((1, 4, 5, 7))})


def test_a_label_map_gets_the_very_affine_of_its_image():
    """Else rounding may give the two other shapes, or turn an oblique one to another axis."""
    shifted = torch.eye(4, dtype=torch.float64)
    shifted[0, 3] = 0.05
    data = CheckVolumed(["image", "label"])({"image": volume(), "label": volume(affine=shifted)})
    assert torch.equal(data["label"].affine, torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize(
    ("size", "words"),
    [(250.0, r"become 1001 x 1251 x 751 of 1 x 1 x 2 mm, 3.5 GiB"), (1e-3, "become 1 x 1 x 1 of 1 x 1 x 2 mm")],
)
def test_the_working_grid_has_a_limit(size, words):
    """The scan's axes are A, R and S."""
    affine = torch.tensor([[0, size, 0, 0], [size, 0, 0, 0], [0, 0, size, 0], [0, 0, 0, 1]], dtype=torch.float64)
    image = volume((1, 6, 5, 7), affine=affine)
    with pytest.raises(ValueError, match=rf"^scan.nii.gz: 6 x 5 x 7 voxels of .*{words}.*max_grid_bytes"):
        CheckVolumed("image", spacing=(1, 1, 2), max_bytes=2**31)({"image": image})
    CheckVolumed("image")({"image": image})


def test_a_scan_of_six_millimetres_is_fine():
    image = volume((1, 40, 40, 40), affine=torch.diag(torch.tensor([6.0, 6, 6, 1], dtype=torch.float64)))
    CheckVolumed("image", spacing=(1.5, 1.5, 1.5), max_bytes=4 * 157**3)({"image": image})
    with pytest.raises(ValueError, match="become 157 x 157 x 157 of 1.5 x 1.5 x 1.5 mm"):
        CheckVolumed("image", spacing=(1.5, 1.5, 1.5), max_bytes=4 * 157**3 - 1)({"image": image})


def test_what_is_odd_stands_in_the_metadata():
    image = volume()
    image.meta["note"] = "it lies somewhere"
    note = CheckVolumed("image", window=(0, 1000))({"image": image})["image"].meta["note"]
    assert note.startswith("it lies somewhere; the bundle's window is 0 to 1000")


# --- air


def test_the_foreground_of_air_is_everything():
    image = torch.zeros(1, 4, 5, 6)
    assert foreground(image).all()
    image[0, 1, 2, 3] = 0.1
    assert foreground(image).sum() == 1


def test_crops_of_air():
    crop = CropByPosNegLabeld(
        ["image", "label"], "label", (3, 3, 3), num_samples=2, image_key="image", image_threshold=0
    )
    crops = crop({"image": volume(fill=0.0), "label": volume(fill=0.0)})
    assert [tuple(item["image"].shape) for item in crops] == [(1, 3, 3, 3)] * 2


def test_crops_are_those_of_monai():
    image, label = torch.randn(1, 12, 12, 12), (torch.rand(1, 12, 12, 12) > 0.9).float()
    arguments = {"num_samples": 4, "image_key": "image", "image_threshold": 0}
    ours, monais = (
        kind(["image", "label"], "label", (5, 5, 5), **arguments).set_random_state(0)
        for kind in (CropByPosNegLabeld, RandCropByPosNegLabeld)
    )
    for one, other in zip(
        ours({"image": image, "label": label}), monais({"image": image, "label": label}), strict=True
    ):
        assert torch.equal(one["image"], other["image"])


# --- LabelMapWriter


@pytest.fixture
def save(tmp_path, tmp_path_factory):
    folder = {"output_dir": tmp_path, "separate_folder": False, "output_dtype": np.uint8}
    writer = SaveImaged("image", output_postfix="seg", resample=False, writer=LabelMapWriter, **folder)
    scan = tmp_path_factory.mktemp("scans") / "scan.nii.gz"

    def save_filled(fill=1.0, shape=(1, 4, 5, 6)):
        nib.save(nib.Nifti1Image(np.zeros(shape[1:], np.float32), np.eye(4)), scan)
        label = volume(shape, fill=fill)
        label.meta["filename_or_obj"] = str(scan)
        writer({"image": label})

    return save_filled


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


def test_a_label_map_that_does_not_lie_on_its_scan_is_not_written(tmp_path):
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), np.eye(4)), path)
    label = volume(affine=torch.diag(torch.tensor([2.0, 2, 2, 1])))
    label.meta["filename_or_obj"] = str(path)
    writer = SaveImaged("image", tmp_path, resample=False, writer=LabelMapWriter, separate_folder=False)
    with pytest.raises(RuntimeError) as raised:
        Compose([writer])({"image": label})
    assert "differs by" in str(root_cause(raised.value))
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii.gz"]


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


def there_and_back(scan, spacing, crop):
    """A label map of ones on the grid that preprocessing makes of a scan, back on the scan's."""
    steps = [LoadImaged("image", ensure_channel_first=True), Orientationd("image", "RAS")]
    steps += [Spacingd("image", spacing), CropForegroundd("image", "image", lambda x: x > 0.6)][: 2 if crop else 1]
    data = Compose(steps)({"image": str(scan)})
    data["pred"] = torch.ones_like(data["image"], dtype=torch.uint8)
    return ToNativeGridd("pred")(data)["pred"][0].numpy()


@pytest.mark.parametrize("affine", [np.diag([1.2, 0.9, 2.0, 1]), OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize(
    "spacing", [(0.3, 0.25, 0.4), (1.2, 0.9, 2.0), (1.7, 2.0, 3.1)], ids=["fine", "same", "coarse"]
)
def test_labels_reach_the_border_of_the_scan(spacing, affine, tmp_path):
    nib.save(nib.Nifti1Image(np.ones((9, 8, 7), np.float32), affine), tmp_path / "a.nii.gz")
    assert there_and_back(tmp_path / "a.nii.gz", spacing, crop=False).all()


@pytest.mark.parametrize("spacing", [0.5, 1.0])
def test_labels_do_not_grow_at_the_edge_of_a_crop(spacing, tmp_path):
    voxels = np.zeros((20, 21, 22), np.float32)
    voxels[0:9, 5:15, 12:] = 1
    nib.save(nib.Nifti1Image(voxels, np.diag([-1.0, 1, 1, 1])), tmp_path / "a.nii.gz")
    back = there_and_back(tmp_path / "a.nii.gz", (spacing,) * 3, crop=True)
    assert [sorted(set(axis.tolist())) for axis in back.nonzero()] == [
        list(range(9)),
        list(range(5, 15)),
        list(range(12, 22)),
    ]
