"""One set of real scans in every layout: what `rep3d new` decides depends on the scans alone."""

import json
import os

import nibabel as nib
import numpy as np
import pytest
from bundle_helpers import ROOT
from monai.utils import ensure_tuple

from rep3d import installed
from rep3d.datasets import own_bundle
from rep3d.datasets.machine import Machine
from rep3d.datasets.own_bundle import new_bundle
from rep3d.files import read_json, write_json

ATRIA = (ROOT.parent / "shared/data/left_atrium").resolve()
CASES = [f"sub-{number:03d}" for number in range(5)]
LAPTOP = Machine(16e9, False, "a laptop", 16e9)
LABELS = {"background": 0, "left atrium": 1}

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not ATRIA.is_dir(), reason="the left atria are not here")]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """By case the scan, a second channel of it, both in one file, and the label map."""
    folder, found = tmp_path_factory.mktemp("files").resolve(), {}
    for case in CASES:
        name = f"la_{case[-3:]}.nii.gz"
        scan = nib.load(ATRIA / "imagesTr" / name)
        voxels = np.asarray(scan.dataobj, np.float32)
        second = np.exp(-np.abs(voxels) / np.abs(voxels).max())
        nib.save(nib.Nifti1Image(second, scan.affine), folder / f"{case}_second.nii.gz")
        nib.save(nib.Nifti1Image(np.stack([voxels, second], 3), scan.affine), folder / f"{case}_both.nii.gz")
        found[case] = {
            "first": ATRIA / "imagesTr" / name,
            "second": folder / f"{case}_second.nii.gz",
            "both": folder / f"{case}_both.nii.gz",
            "label": ATRIA / "labelsTr" / name,
        }
    return found


def put(folder, path, file):
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).symlink_to(file)


def in_order(channels):
    return {str(i): name for i, name in enumerate(channels)}


def ids_first(labels):
    return {str(i): name for name, i in labels.items()}


def decathlon(folder, files, channels):
    """Of two channels, in one file of four dimensions."""
    for case, of_case in files.items():
        put(folder, f"imagesTr/{case}.nii.gz", of_case["both" if len(channels) > 1 else "first"])
        put(folder, f"labelsTr/{case}.nii.gz", of_case["label"])
    training = [{"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in files]
    content = {"modality": in_order(channels), "labels": ids_first(LABELS), "training": training}
    write_json(folder / "dataset.json", content)


def listed_files(folder, files, channels):
    """A file for each channel, listed as MONAI does it."""
    for case, of_case in files.items():
        for name, kind in zip(channels, of_case, strict=False):
            put(folder, f"{case}/{name}.nii.gz", of_case[kind])
        put(folder, f"{case}/truth.nii.gz", of_case["label"])
    training = [
        {"image": [f"{case}/{name}.nii.gz" for name in channels], "label": f"{case}/truth.nii.gz", "case": case}
        for case in files
    ]
    content = {"modality": in_order(channels), "labels": ids_first(LABELS), "training": training}
    write_json(folder / "dataset.json", content)


def numbered(folder, files, channels, labels="labelsTr"):
    for case, of_case in files.items():
        for i, kind in zip(range(len(channels)), of_case, strict=False):
            put(folder, f"imagesTr/{case}_{i:04d}.nii.gz", of_case[kind])
        put(folder, f"{labels}/{case}.nii.gz", of_case["label"])


def nnunet_1(folder, files, channels):
    numbered(folder, files, channels)
    training = [{"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in files]
    content = {"modality": in_order(channels), "labels": ids_first(LABELS), "training": training}
    write_json(folder / "dataset.json", content)


def nnunet_2(folder, files, channels):
    numbered(folder, files, channels)
    content = {"channel_names": in_order(channels), "labels": LABELS, "numTraining": len(files)}
    write_json(folder / "dataset.json", content | {"file_ending": ".nii.gz"})


def two_folders(folder, files, channels):
    """Nothing tells names of channels there."""
    for case, of_case in files.items():
        put(folder, f"images/{case}.nii.gz", of_case["first"])
        put(folder, f"labels/{case}.nii.gz", of_case["label"])


def patients(folder, files, channels):
    for case, of_case in files.items():
        for name, kind in zip(channels, of_case, strict=False):
            put(folder, f"{case}/{name}.nii.gz", of_case[kind])
        put(folder, f"{case}/segmentation.nii.gz", of_case["label"])


def bids(folder, files, channels):
    for case, of_case in files.items():
        for name, kind in zip(channels, of_case, strict=False):
            put(folder, f"{case}/anat/{case}_{name}.nii.gz", of_case[kind])
        put(folder, f"derivatives/manual/{case}/anat/{case}_dseg.nii.gz", of_case["label"])


ONE, TWO = ["FLAIR"], ["FLAIR", "T1w"]
LAYOUTS = [listed_files, nnunet_1, nnunet_2, patients, bids]
PAIRS = [*((channels, layout) for channels in (ONE, TWO) for layout in LAYOUTS), (ONE, two_folders)]


def decide(source, bundles):
    """What a bundle is made of, but for the names that only some layouts tell; and the files of its cases."""
    labels = None if (source / "dataset.json").is_file() else ["left atrium"]
    made = new_bundle("atrium", source, bundles, root=installed.root(), machine=LAPTOP, label_names=labels)
    assert not made.problems
    content = read_json(made.folder / "atrium.json")
    del content["data"]["source"]
    if len(made.channel_names) == 1:
        del content["data"]["channel"]
    decisions = [decision for decision in made.plan.decisions if "modality" not in decision.what]
    listed = json.loads((made.folder / "data/dataset.json").read_text())["training"]
    files = {entry["case"]: [*map(os.path.realpath, ensure_tuple(entry["image"])), entry["label"]] for entry in listed}
    return content, decisions, json.loads((made.folder / "data/splits.json").read_text()), files


@pytest.fixture(scope="module")
def channels(request):
    return request.param


@pytest.fixture(scope="module", autouse=True)
def _quick_fingerprint():
    """Pictures take a second each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own_bundle, "write_fingerprint", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def expected(channels, files, tmp_path_factory):
    """Of the Decathlon's layout."""
    folder = tmp_path_factory.mktemp("expected")
    decathlon(folder / "source", files, channels)
    return decide(folder / "source", folder)


@pytest.mark.parametrize("channels", [ONE, TWO], indirect=True)
def test_what_is_decided(expected, channels):
    content, _, folds, files = expected
    common = content["common"]
    assert common["label_names"] == [*LABELS] and common["spacing"] == [1.25, 1.25, 1.25]
    assert common.get("channel_names", ONE) == channels and content["metadata"]["modality"] == "MR"
    assert sorted(files) == sorted(case for fold in folds for case in fold["val"]) == CASES


@pytest.mark.parametrize(("channels", "layout"), PAIRS, indirect=["channels"])
def test_every_layout_is_decided_alike(layout, expected, channels, files, tmp_path):
    layout(tmp_path / "source", files, channels)
    *decided, found = decide(tmp_path / "source", tmp_path)
    assert decided == [*expected[:3]]
    for case, of_case in files.items():
        *images, label = found[case]
        assert images == [str(of_case[kind]) for kind in ("first", "second")[: len(channels)]]
        assert os.path.realpath(label) == str(of_case["label"])
