import json
import re

import nibabel as nib
import numpy as np
import pytest
from monai.data import load_decathlon_datalist

from rep3d.datasets.phantom import make_phantom, write_decathlon

NAMES = {1: "anterior", 2: "posterior"}


def test_same_seed_same_phantom():
    first, again, other = (make_phantom(2, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1])


@pytest.mark.parametrize("modality", ["MRI", "CT"])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 13, 15])
@pytest.mark.parametrize("shape", [(8, 8, 8), (32, 32, 32), (20, 41, 9)])
def test_every_label_is_present(count, modality, shape):
    image, label = make_phantom(count, shape=shape, spacing=(1.0, 0.8, 3.0), modality=modality)
    assert (image.dtype, label.dtype) == (np.float32, np.uint8)
    assert image.shape == label.shape == shape
    assert np.isfinite(image).all()
    assert np.bincount(label.ravel(), minlength=count + 1)[: count + 1].min() >= 8
    assert label.max() == count


@pytest.mark.parametrize("labels", [[1, 2], [7, 3], (255,), [1, 2, 3, 4, 6]])
def test_label_ids_are_the_callers(labels):
    assert np.unique(make_phantom(labels)[1]).tolist() == [0, *sorted(labels)]


def test_labels_keep_their_places():
    labels = [make_phantom(2, seed=seed)[1] for seed in range(6)]
    centres = np.array([[np.argwhere(label == i).mean(axis=0) for i in (1, 2)] for label in labels])
    assert (centres[:, 0, 1] > centres[:, 1, 1] + 8).all()  # 1 lies in front of 2
    assert np.ptp(centres, axis=0).max() < 12


def test_ct_is_in_hounsfield_units():
    image, label = make_phantom(15, shape=(64, 64, 48), modality="CT")
    assert -1024 <= image.min() < -1000 < 300 < image.max() <= 3071
    assert image[0, 0].mean() == pytest.approx(-1000, abs=15)
    assert image[label == 6].mean() == pytest.approx(105, abs=15)  # liver
    assert 10 < image[label == 6].std() < 40


def test_mri_scale_varies():
    maxima = [make_phantom(2, seed=seed)[0].max() for seed in range(20)]
    assert min(maxima) > 0
    assert max(maxima) > 100 * min(maxima)
    assert 200 < make_phantom(13, modality="MRI")[0].max() < 3000  # the window of AMOS MRI ends at 1000


def test_decathlon_layout(tmp_path):
    folder = write_decathlon(tmp_path / "set", labels=NAMES, count=3, spacing=(1.0, 1.5, 2.0), name="Toy")
    dataset = json.loads((folder / "dataset.json").read_text())
    assert dataset["labels"] == {"0": "background", "1": "anterior", "2": "posterior"}
    assert dataset["modality"] == {"0": "MRI"}
    assert (dataset["name"], dataset["numTraining"], dataset["test"]) == ("Toy", 3, [])
    assert dataset["training"][0] == {"image": "./imagesTr/toy_000.nii.gz", "label": "./labelsTr/toy_000.nii.gz"}
    cases = load_decathlon_datalist(folder / "dataset.json", True, "training")
    shapes = set()
    for case in cases:
        image, label = nib.load(case["image"]), nib.load(case["label"])
        assert image.shape == label.shape
        np.testing.assert_array_equal(image.affine, label.affine)
        np.testing.assert_allclose(image.header.get_zooms(), (1.0, 1.5, 2.0))
        assert (image.get_data_dtype(), label.get_data_dtype()) == (np.float32, np.uint8)
        assert np.abs(image.affine[:3, 3]).max() > 0
        assert np.abs(np.subtract(image.shape, (36, 50, 36))).max() <= 4
        shapes.add(image.shape)
    assert len(shapes) == len(cases) == 3


@pytest.mark.parametrize("orientation", ["LPS", "LAS", "IPL"])
def test_orientation_keeps_the_anatomy(tmp_path, orientation):
    grid = {"labels": NAMES, "count": 1, "shape": (12, 20, 16), "spacing": (1.0, 1.5, 2.0)}
    write_decathlon(tmp_path / "ras", **grid)
    write_decathlon(tmp_path / "turned", **grid, orientation=orientation)
    for part in ("imagesTr", "labelsTr"):
        expected = nib.load(tmp_path / "ras" / part / "phantom_000.nii.gz")
        turned = nib.load(tmp_path / "turned" / part / "phantom_000.nii.gz")
        assert nib.aff2axcodes(expected.affine) == tuple("RAS")
        assert nib.aff2axcodes(turned.affine) == tuple(orientation)
        canonical = nib.as_closest_canonical(turned)
        np.testing.assert_allclose(canonical.affine, expected.affine, atol=1e-4)
        np.testing.assert_array_equal(canonical.get_fdata(), expected.get_fdata())


def test_own_data_set_is_replaced(tmp_path):
    grid = {"labels": NAMES, "shape": (8, 8, 8)}
    write_decathlon(tmp_path, **grid, count=3)
    (tmp_path / "notes.txt").write_text("keep me")
    write_decathlon(tmp_path, **grid, count=1, name="other")
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert files == ["dataset.json", "imagesTr/other_000.nii.gz", "labelsTr/other_000.nii.gz", "notes.txt"]


@pytest.mark.parametrize("content", ['{"name": "real"}', "[]", "not json"])
def test_foreign_data_set_is_left_alone(tmp_path, content):
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(FileExistsError, match=re.escape(str(tmp_path))):
        write_decathlon(tmp_path, labels=NAMES)
    assert [path.name for path in tmp_path.iterdir()] == ["dataset.json"]
    assert (tmp_path / "dataset.json").read_text() == content


def test_interrupted_call_leaves_no_data_set(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    write_decathlon(tmp_path, labels=NAMES, count=2, shape=(8, 8, 8))
    monkeypatch.setattr(nib, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        write_decathlon(tmp_path, labels=NAMES, count=2, shape=(8, 8, 8))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("labels", value) for value in ([], 0, 16, [0, 1], [256], [1, 1], ["1"], [1.5])),
        *(("shape", value) for value in ((8, 8), (8, 8, 7), (8.0, 8, 8))),
        *(("spacing", value) for value in ((1, 1), (1, 0, 1), (1, 1, -1), (1, 1, float("nan")))),
        ("modality", "PET"),
    ],
)
def test_bad_phantom_argument(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be .* got "):
        make_phantom(**{"labels": 2, name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("labels", value) for value in ({}, {0: "background"}, {300: "x"})),
        *(("orientation", value) for value in ("RA", "RLS", "ras", "RASX", "XYZ")),
        *(("name", value) for value in ("", "../up")),
        ("count", 0),
        ("shape_jitter", -1),
        ("shape", (4, 8, 8)),
        ("spacing", (0, 1, 1)),
        ("modality", "PET"),
    ],
)
def test_bad_data_set_argument(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"^{name} must .* got "):
        write_decathlon(tmp_path / "set", **{"labels": NAMES, name: value})
    assert not (tmp_path / "set").exists()
