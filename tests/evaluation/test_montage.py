import nibabel as nib
import numpy as np
import pytest
from matplotlib.image import imread

from rep3d.datasets.phantom import make_phantom, write_decathlon
from rep3d.evaluation.montage import overlay_montage

NAMES = {1: "anterior", 2: "posterior"}


def save(path, volume, affine=None):
    nib.save(nib.Nifti1Image(volume, np.eye(4) if affine is None else affine), path)
    return path


@pytest.fixture
def cases(tmp_path):
    """Two phantoms whose prediction is the truth moved by a voxel."""
    data = write_decathlon(tmp_path / "data", labels=NAMES, count=2, spacing=(1, 1, 3), orientation="LPS")
    found = []
    for image in sorted((data / "imagesTr").iterdir()):
        truth = data / "labelsTr" / image.name
        file = nib.load(truth)
        moved = np.roll(np.asanyarray(file.dataobj), 1, axis=0)
        found.append((image.name, image, truth, save(tmp_path / image.name, moved[..., None], file.affine)))
    return found


def test_montage(tmp_path, cases, drawn):
    path = overlay_montage([cases[0], (*cases[1][:2], None, cases[1][3])], NAMES, tmp_path / "montage.png")
    height, width = imread(path).shape[:2]
    assert 1200 < width < 1400 and 400 < height < 2000
    axes = drawn[0].axes
    assert [a.get_title() for a in axes[:4]] == ["image", "truth", "prediction", "difference"]
    assert [text.get_text() for text in drawn[0].legends[0].texts] == ["anterior", "posterior", "difference"]
    truth, prediction = (np.asanyarray(nib.load(p).dataobj).squeeze() for p in cases[0][2:])
    dice = np.mean([2 * ((truth == i) & (prediction == i)).sum() / ((truth == i).sum() + (prediction == i).sum())
                    for i in NAMES])  # fmt: skip
    assert f"Dice {dice:.3f}" in axes[0].get_ylabel()
    assert "Dice" not in axes[4].get_ylabel()
    assert [text.get_text() for text in axes[5].texts] == ["no truth"]
    assert [name for name in tmp_path.iterdir() if name.name.startswith(".")] == []


def test_montage_is_upright_and_in_proportion(tmp_path, drawn):
    # Stored LPS: the bright voxel, at the end of each axis, is far left, back and up in the patient.
    volume = np.zeros((12, 10, 8), np.float32)
    volume[-1, -1, -1] = 1
    label = np.ones((12, 10, 8), np.uint8)
    affine = np.diag([-1.0, -2.0, 3.0, 1.0])
    image, truth = save(tmp_path / "i.nii.gz", volume, affine), save(tmp_path / "l.nii.gz", label, affine)
    label[:, :, :-1], label[:, :-1], label[:-1] = 0, 0, 0  # the slice to be shown holds that voxel
    truth = save(tmp_path / "l.nii.gz", label, affine)
    overlay_montage([("case", image, truth, truth)], {1: "all"}, tmp_path / "m.png")
    shown = drawn[0].axes[0].images[0]
    assert shown.get_array()[-1, -1] == 1
    assert drawn[0].axes[0].get_aspect() == 2


def test_montage_of_fifteen_labels(tmp_path, drawn):
    image, label = make_phantom(15, shape=(48, 40, 32), modality="CT")
    paths = [save(tmp_path / f"{name}.nii.gz", volume) for name, volume in (("image", image), ("label", label))]
    names = {i: f"organ number {i}" for i in range(1, 16)}
    overlay_montage([("abdomen", *paths, paths[1])], names, tmp_path / "m.png")
    legend = drawn[0].legends[0]
    assert len(legend.texts) == len({patch.get_facecolor() for patch in legend.get_patches()}) == 16
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= drawn[0].bbox.x1  # fits
    overlay_montage([("abdomen", *paths, paths[1])], {1: "spleen"}, tmp_path / "m.png")  # the others are gray


def test_montage_of_empty_and_full_labels(tmp_path):
    image = save(tmp_path / "image.nii.gz", make_phantom(2)[0])
    empty, full = (save(tmp_path / f"{i}.nii.gz", np.full((36, 50, 36), i, np.uint8)) for i in (0, 1))
    cases = [("full", image, empty, full), ("empty", image, None, empty), ("equal", image, full, full)]
    assert overlay_montage(cases, NAMES, tmp_path / "m.png").is_file()


def test_montage_errors(tmp_path, cases):
    name, image, truth, prediction = cases[0]
    png = tmp_path / "m.png"
    with pytest.raises(FileNotFoundError, match=r"gone.nii.gz: expected the prediction of phantom_000"):
        overlay_montage([(name, image, truth, tmp_path / "gone.nii.gz")], NAMES, png)
    small = save(tmp_path / "small.nii.gz", np.zeros((8, 8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"small.nii.gz: expected .* grid of .*phantom_000.*\(8, 8, 8\)"):
        overlay_montage([(name, image, truth, small)], NAMES, png)
    file = nib.load(prediction)
    moved = save(tmp_path / "moved.nii.gz", np.asanyarray(file.dataobj), file.affine @ np.diag([-1, 1, 1, 1]))
    with pytest.raises(ValueError, match="moved.nii.gz: expected .* mm away"):
        overlay_montage([(name, image, truth, moved)], NAMES, png)
    with pytest.raises(ValueError, match="imagesTr.*: expected label ids"):
        overlay_montage([(name, image, image, prediction)], NAMES, png)
    with pytest.raises(ValueError, match="labels"):
        overlay_montage(cases, {i: str(i) for i in range(1, 17)}, png)
    with pytest.raises(ValueError, match="expected cases"):
        overlay_montage([], NAMES, png)
    assert not png.exists()
