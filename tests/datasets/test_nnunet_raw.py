"""A data set in nnU-Net's raw layout, which both systems of a comparison learn from."""

import json

import nibabel as nib
import numpy as np
import pytest

from rep3d import installed
from rep3d.data.lists import load_inference_list
from rep3d.datasets import own_bundle
from rep3d.datasets.machine import Machine
from rep3d.datasets.nnunet_raw import write_raw
from rep3d.datasets.own_bundle import new_bundle
from rep3d.datasets.sources import read_source

AFFINE = np.array([[0, -1.0, 0, 5], [-2.0, 0, 0, 7], [0, 0, 1.5, -3], [0, 0, 0, 1]])  # PLS
LABELS = {"0": "background", "1": "anterior", "2": "posterior"}
SHAPE = (12, 10, 8)


def make_decathlon(folder, *, channels=1, suffix=".nii.gz", labels=LABELS, **told):
    """Five cases of noise; their labels tell them apart."""
    entries = []
    for number in range(5):
        label = np.zeros(SHAPE, np.uint8)
        label[2 : 4 + number, 2:8, 2:6] = 1
        label[9:, 2:8, 2:6] = 2
        image = np.random.default_rng(number).normal(100, 9, (*SHAPE, channels)).astype(np.float32)
        for name, voxels in (("imagesTr", image if channels > 1 else image[..., 0]), ("labelsTr", label)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, AFFINE), folder / f"{name}/case{number}{suffix}")
        entries.append({"image": f"./imagesTr/case{number}{suffix}", "label": f"./labelsTr/case{number}{suffix}"})
    modality = {str(i): f"MR{i}" for i in range(channels)}
    content = {"modality": modality, "labels": labels, "training": entries, **told}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_same_voxels_at_the_same_place(tmp_path, channels, suffix):
    source = make_decathlon(tmp_path / "source", channels=channels, suffix=suffix)
    write_raw(read_source(source), source, tmp_path / "raw", ["case3"])
    raw = read_source(tmp_path / "raw")
    assert json.loads((tmp_path / "raw/dataset.json").read_text())["numTraining"] == 4
    assert [case.name for case in raw.cases] == ["case0", "case1", "case2", "case4"]
    assert raw.channels == tuple(f"MR{i}" for i in range(channels)) and raw.labels.names == {
        0: "background",
        1: "anterior",
        2: "posterior",
    }
    for number in range(5):
        part = "Ts" if number == 3 else "Tr"
        told = nib.load(source / f"imagesTr/case{number}{suffix}")
        for channel in range(channels):
            image = nib.load(tmp_path / f"raw/images{part}/case{number}_{channel:04d}.nii.gz")
            voxels = told.get_fdata() if channels == 1 else told.get_fdata()[..., channel]
            assert np.array_equal(image.get_fdata(), voxels) and np.array_equal(image.affine, told.affine)
            assert np.array_equal(image.get_sform(), told.get_sform()) and image.header["sform_code"] > 0
        label, told = (
            nib.load(path)
            for path in (
                tmp_path / f"raw/labels{part}/case{number}.nii.gz",
                source / f"labelsTr/case{number}{suffix}",
            )
        )
        assert np.array_equal(label.get_fdata(), told.get_fdata()) and np.array_equal(label.affine, told.affine)


def test_our_command_learns_from_it_and_predicts_what_is_held_out(tmp_path, monkeypatch):
    monkeypatch.setattr(own_bundle, "write_fingerprint", lambda *_: None)
    source = make_decathlon(tmp_path / "source", channels=2)
    write_raw(read_source(source), source, tmp_path / "raw", ["case3", "case1"])
    split = [{"train": ["case0", "case2"], "val": ["case4"]}]
    (tmp_path / "bundles/mine/data").mkdir(parents=True)
    (tmp_path / "bundles/mine/data/splits.json").write_text(json.dumps(split))
    laptop = Machine(16e9, False, "a laptop", 16e9)
    made = new_bundle("mine", tmp_path / "raw", tmp_path / "bundles", root=installed.root(), machine=laptop)
    assert (made.cases, made.channel_names, made.problems) == (3, ("MR0", "MR1"), {})
    assert json.loads((made.folder / "data/splits.json").read_text()) == split
    listed = load_inference_list(tmp_path / "raw", made.channel_names)
    assert [item["case"] for item in listed] == ["case1", "case3"]


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"labels": {"0": "background", "1": "one", "3": "three"}}, r"ids \[0, 1, 3\], expected .* 0, 1, 2"),
        (
            {"labels": {"background": 0, "all": [1, 2], "one": [1]}, "regions_class_order": [2, 1]},
            "regions or an ignore label",
        ),
        ({"labels": {"background": 0, "one": 1, "two": 2, "ignore": 3}}, "regions or an ignore label"),
        ({"labels": None}, "no file tells the labels"),
        ({"modality": {"0": "T1w", "1": "T2w"}}, "1 channel"),
    ],
)
def test_what_cannot_be_compared(tmp_path, told, message):
    source = make_decathlon(tmp_path / "source", **told)
    with pytest.raises(ValueError, match=message):
        write_raw(read_source(source), source, tmp_path / "raw", ["case3"])
    assert not (tmp_path / "raw/dataset.json").exists()


def test_label_maps_with_ids_of_their_own(tmp_path):
    """As labels of the label app's studies have them: linked as they are, their classes would be swapped."""
    source = make_decathlon(tmp_path / "source")
    found = read_source(source)
    swapped = found._replace(cases=[found.cases[0]._replace(ids={1: 2, 2: 1}), *found.cases[1:]])
    with pytest.raises(ValueError, match="its labels number their segments differently, expected one numbering"):
        write_raw(swapped, source, tmp_path / "raw", ["case3"])
