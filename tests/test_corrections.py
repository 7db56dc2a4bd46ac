"""A scan, prompts and options in; a mask on the scan's own grid, a picture and words out."""

import logging

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.inferers import SimpleInferer
from scipy.spatial.transform import Rotation

from rep3d.corrections import correct_scan
from rep3d.io.geometry import plain_geometry
from rep3d.io.nifti import is_label_map_of_ours, write_marked

SHAPE, SPACING = (40, 30, 12), (1.0, 1.5, 3.0)
CENTRE = (20, 15, 6)
AFFINE = np.array([[-1.0, 0, 0, 50], [0, -1.5, 0, 20], [0, 0, 3.0, -7], [0, 0, 0, 1]])  # LPS, away from the origin


class AlikeNetwork(torch.nn.Module):
    """What looks like the newest positive prompt is the structure."""

    def forward(self, channels: torch.Tensor) -> torch.Tensor:
        return 0.8 - channels[:, :1].abs()


class BoxNetwork(torch.nn.Module):
    """What a positive area covers is the structure."""

    def forward(self, channels: torch.Tensor) -> torch.Tensor:
        return channels[:, 2:3] - 0.25


def ball(radius: float = 9.0) -> np.ndarray:
    places = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    return np.linalg.norm((places - CENTRE) * SPACING, axis=-1) <= radius


@pytest.fixture
def scan(tmp_path):
    voxels = np.where(ball(), 200, 20) + np.random.default_rng(0).integers(-9, 10, SHAPE)
    nib.save(nib.Nifti1Image(voxels.astype(np.int16), AFFINE), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def segment(scan, **options):
    options.setdefault("output_dir", scan.parent / "eval")
    return correct_scan(AlikeNetwork(), SimpleInferer(), scan, size=32, **options)


def voxels_of(path):
    return np.asarray(nib.load(path).dataobj)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_mask_lies_on_the_scan(scan, caplog):
    caplog.set_level(logging.INFO)
    path = segment(scan, foreground=[list(CENTRE)], background=[[2, 2, 1]])
    written = nib.load(path)
    assert path.name == "scan_seg.nii.gz" and written.get_data_dtype() == np.uint8 and is_label_map_of_ours(path)
    np.testing.assert_allclose(written.affine, AFFINE)
    mask = voxels_of(path) > 0
    assert dice(mask, ball()) > 0.95 and mask[CENTRE] and not mask[2, 2, 1]
    assert (path.parent / "scan_seg.png").read_bytes().startswith(b"\x89PNG")
    assert f"found {mask.sum() * 4.5 / 1000:.4g} ml, {mask.sum()} voxels" in caplog.text
    assert "working grid of 32 voxels" in caplog.text


def test_background_corrects_what_foreground_found(scan):
    """As the simulated user of a training gives it: to networks, a negative prompt without a mask means nothing."""
    asked = []

    class Seen(AlikeNetwork):
        def forward(self, channels: torch.Tensor) -> torch.Tensor:
            asked.append(channels[0].amax((1, 2, 3)) > 0)
            return super().forward(channels)

    background = [[2, 2, 1]]
    correct_scan(
        Seen(), SimpleInferer(), scan, scan.parent / "eval", foreground=[list(CENTRE)], background=background, size=32
    )
    _, masks, _, negatives, _ = torch.stack(asked).T
    assert not negatives[0] and negatives[-1] and not (negatives & ~masks).any()


def test_positions_of_slicer(scan, tmp_path):
    by_voxel = voxels_of(segment(scan, foreground=[list(CENTRE)]))
    ras = nib.affines.apply_affine(AFFINE, CENTRE).tolist()
    by_ras = voxels_of(segment(scan, foreground=[ras], positions="ras", output_dir=tmp_path / "ras"))
    np.testing.assert_array_equal(by_voxel, by_ras)


def test_box(scan):
    """Its corners may come in any order."""
    masks = []
    for corners in ([[12, 9, 3], [28, 21, 9]], [[28, 9, 9], [12, 21, 3]]):
        path = correct_scan(BoxNetwork(), SimpleInferer(), scan, scan.parent / "eval", box=corners, size=32)
        masks.append(voxels_of(path) > 0)
    assert masks[0][20, 15, 6] and np.array_equal(*masks)


def test_a_box_of_slicer_holds_all_of_it_on_any_scan(scan, tmp_path):
    """Also where its corners lie on one slice of the scan, which is turned against it; and on a left-handed one."""
    turned = Rotation.from_euler("z", 45, degrees=True).as_matrix() @ np.diag([1, -1.5, 3])
    affine = nib.affines.from_matvec(turned, CENTRE)
    nib.save(nib.Nifti1Image(voxels_of(scan), affine), tmp_path / "turned.nii.gz")
    centre = nib.affines.apply_affine(affine, CENTRE)
    places = nib.affines.apply_affine(affine, np.moveaxis(np.indices(SHAPE), 0, -1))
    box = (centre + [[-6, 6, 7], [6, -6, -7]]).tolist()
    path = correct_scan(
        BoxNetwork(), SimpleInferer(), tmp_path / "turned.nii.gz", tmp_path, box=box, positions="ras", size=32
    )
    assert np.linalg.det(affine) < 0 and voxels_of(path)[(np.abs(places - centre) < (6, 6, 7)).all(-1)].all()


def test_what_is_taken_stays_so(scan, caplog):
    taken = ball() & (np.arange(SHAPE[0]) < 20)[:, None, None]
    nib.save(nib.Nifti1Image(taken.astype(np.uint8) * 7, AFFINE), scan.parent / "taken.nii.gz")
    mask = voxels_of(segment(scan, foreground=[[24, 15, 6], [16, 15, 6]], taken=scan.parent / "taken.nii.gz")) > 0
    assert not (mask & taken).any() and mask[24, 15, 6]
    assert "the point at voxel [16, 15, 6] has no effect: it lies in a taken voxel" in caplog.text


def test_a_previous_mask_is_corrected(scan):
    """And the file that holds it, which we wrote, is replaced."""
    path = segment(scan, foreground=[list(CENTRE)])
    far = voxels_of(path)[CENTRE]
    again = segment(scan, background=[[22, 15, 6]], previous=path)
    assert again == path and far == 1
    assert not voxels_of(again)[22, 15, 6]


def test_what_is_not_this_scans_mask_is_not_replaced(scan, tmp_path):
    """That of a scan of the same name from another folder, and a label map of all structures; nor does such a label map
    take the mask's place.
    """
    path = segment(scan, foreground=[list(CENTRE)])
    before = path.read_bytes()
    other = tmp_path / "other/scan.nii.gz"
    other.parent.mkdir()
    nib.save(nib.Nifti1Image(voxels_of(scan), AFFINE + np.eye(4, k=3)), other)
    with pytest.raises(
        ValueError, match=r"scan_seg.nii.gz is of another scan than .*other/scan.nii.gz \(affine .*another"
    ):
        segment(other, foreground=[list(CENTRE)], output_dir=path.parent)
    with pytest.raises(ValueError, match="scan_seg.nii.gz follows somebody's prompts, and so is not replaced: give"):
        write_marked(voxels_of(path), plain_geometry(SHAPE, AFFINE), path)  # as `rep3d predict` does
    nib.save(nib.Nifti1Image(voxels_of(scan) + 1, AFFINE), other)  # registered to the same template
    with pytest.raises(
        ValueError, match=r"scan_seg.nii.gz is of another scan than .*other/scan.nii.gz \(the scan that"
    ):
        segment(other, foreground=[list(CENTRE)], output_dir=path.parent)
    with pytest.raises(ValueError, match=r"scan_seg.nii.gz: is no mask of .*other/scan.nii.gz: the scan that it was"):
        segment(other, foreground=[list(CENTRE)], previous=path, output_dir=other.parent)
    path.with_name("scan_seg.json").write_text('{"labels": []}')
    with pytest.raises(ValueError, match="a label map whose labels scan_seg.json names, and so not replaced: give"):
        segment(scan, foreground=[list(CENTRE)])
    assert path.read_bytes() == before


def test_other_formats(scan, tmp_path):
    itk = pytest.importorskip("SimpleITK")
    nrrd = tmp_path / "scan.nrrd"
    itk.WriteImage(itk.ReadImage(str(scan)), str(nrrd))
    of_nifti = nib.load(segment(scan, foreground=[list(CENTRE)]))
    of_nrrd = nib.load(segment(nrrd, foreground=[list(CENTRE)], output_dir=tmp_path / "nrrd"))
    np.testing.assert_allclose(of_nifti.affine, of_nrrd.affine, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(of_nifti.dataobj), np.asarray(of_nrrd.dataobj))


def test_a_series(tmp_path):
    helpers = pytest.importorskip("dicom_helpers")
    folder = tmp_path / "series"
    helpers.write_series(folder)
    path = correct_scan(AlikeNetwork(), SimpleInferer(), folder, tmp_path / "eval", foreground=[[1, 1, 1]], size=16)
    assert path.name == "series_seg.nii.gz" and voxels_of(path)[1, 1, 1] == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "no prompt: expected --foreground"),
        ({"foreground": []}, "no prompt: expected --foreground"),
        ({"foreground": [1, 2, 3]}, r"foreground is \[1, 2, 3\], expected a list of positions, each of three numbers"),
        ({"foreground": [[1, 2]]}, r"foreground is \[\[1, 2\]\], expected a list of positions"),
        ({"foreground": [[1, 2, "x"]]}, "expected a list of positions"),
        ({"background": [[1, 2, float("nan")]]}, "expected a list of positions"),
        ({"background": True}, "background is True, expected a list of positions"),
        (
            {"foreground": [[20, 15, 12]]},
            r"foreground \[\[20, 15, 12\]\], a point at voxel \(20, 15, 12\), lies outside",
        ),
        ({"foreground": [[-1, 15, 1]]}, "lies outside the scan"),
        ({"foreground": [[1e9, 0, 0]], "positions": "ras"}, "lies outside the scan"),
        ({"box": [[1, 2, 3]]}, r"box is \[\[1, 2, 3\]\], expected two positions"),
        ({"box": [[50, 2, 3], [60, 9, 9]]}, "a box at voxels .* lies outside the scan"),
        ({"foreground": [[1, 2, 3]], "positions": "lps"}, "positions is 'lps', expected one of voxels, ras"),
    ],
)
def test_prompts_that_are_none(options, said, scan):
    with pytest.raises(ValueError, match=said) as raised:
        segment(scan, **options)
    assert "\n" not in str(raised.value)
    assert not (scan.parent / "eval").exists()


@pytest.mark.parametrize("option", ["previous", "taken"])
def test_masks_that_do_not_fit(option, scan):
    with pytest.raises(FileNotFoundError, match=f"{option} '.*gone.nii.gz' does not exist"):
        segment(scan, foreground=[list(CENTRE)], **{option: scan.parent / "gone.nii.gz"})
    moved = AFFINE.copy()
    moved[0, 3] += 5
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.uint8), moved), scan.parent / "moved.nii.gz")
    with pytest.raises(ValueError, match="moved.nii.gz: affine .* of its image .*scan.nii.gz"):
        segment(scan, foreground=[list(CENTRE)], **{option: scan.parent / "moved.nii.gz"})
    for value in (np.nan, -1, 0.5):
        nib.save(nib.Nifti1Image(np.full(SHAPE, value, np.float32), AFFINE), scan.parent / "odd.nii.gz")
        with pytest.raises(ValueError, match=r"odd.nii.gz: label value\(s\) .*, expected whole numbers"):
            segment(scan, foreground=[list(CENTRE)], **{option: scan.parent / "odd.nii.gz"})


def test_scans_that_cannot_be_used(scan, tmp_path):
    with pytest.raises(FileNotFoundError, match="image '.*gone.nii.gz' does not exist"):
        segment(tmp_path / "gone.nii.gz", foreground=[list(CENTRE)])
    voxels = voxels_of(scan).astype(np.float32)
    voxels[3, 3, 3] = np.nan
    nib.save(nib.Nifti1Image(voxels, AFFINE), tmp_path / "nan.nii.gz")
    with pytest.raises(ValueError, match="nan.nii.gz: 1 voxel.* NaN"):
        segment(tmp_path / "nan.nii.gz", foreground=[list(CENTRE)])
    with pytest.raises(ValueError, match="it holds no DICOM file"):
        segment(tmp_path, foreground=[list(CENTRE)])


def test_a_mask_that_was_changed_by_hand_stays(scan):
    path = segment(scan, foreground=[list(CENTRE)])
    nib.save(nib.Nifti1Image(np.full(SHAPE, 3, np.uint8), AFFINE), path)
    with pytest.raises(ValueError, match="not as rep3d wrote it, and so not replaced"):
        segment(scan, foreground=[list(CENTRE)])
    assert (voxels_of(path) == 3).all()
