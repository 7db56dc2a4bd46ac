"""One image, one name: also through evaluation and inference."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_helpers import BUNDLES, EVALUATE, INFERENCE, TRAIN, run
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from rep3d.console.errors import root_cause
from rep3d.data.cases import case_name, case_names, file_name, find_case, name_cases, output_name
from rep3d.data.lists import load_datalist, load_inference_list
from rep3d.evaluation.scores import read_scores

BUNDLE = next(path for path in BUNDLES if path.name == "msd_hippocampus")


def images(*paths):
    return [{"image": path} for path in paths]


@pytest.mark.parametrize(
    "paths, names",
    [
        (["i/a.nii.gz", "i/b.nii"], ["a", "b"]),
        (["case_0/imaging.nii.gz", "case_1/imaging.nii.gz", "b.nii"], ["case_0/imaging", "case_1/imaging", "b"]),
        (["p1/s1/ct.nii", "p1/s2/ct.nii", "p2/s1/ct.nii"], ["p1/s1/ct", "s2/ct", "p2/s1/ct"]),
        (["i/a.nii", "i/a.nii.gz", "i/b.nii"], ["a.nii", "a.nii.gz", "b"]),
        (["i/a.nii", "j/a.nii.gz"], ["i/a", "j/a"]),
        (["/a/x.nii", "/b/a/x.nii"], ["a/x", "b/a/x"]),
        (["/d/a/b.nii", "/e/b.nii", "/f/a_b.nii"], ["d/a/b", "e/b", "f/a_b"]),  # a/b and a_b would be one file
        (["scan_0000.nii", "scan_0001.nii"], ["scan_0000", "scan_0001"]),
        (["v1.2.nii.gz", "v1.3.nii.gz"], ["v1.2", "v1.3"]),
    ],
)
def test_names(paths, names):
    assert case_names(images(*paths)) == names
    assert case_names(images(*paths[::-1])) == names[::-1]
    written = [output_name({"case": name, "filename_or_obj": "x.nii"})["subject"] for name in names]
    assert written == [f"{file_name(name)}.nii.gz" for name in names]
    assert len(set(written)) == len(written)


def test_the_channel_number_of_nnunet():
    """Goes where the label goes without it."""
    items = [
        {"image": "i/liver_0000.nii.gz", "label": "l/liver.nii.gz"},
        {"image": "i/scan_0000.nii.gz", "label": "l/scan_0000.nii.gz"},
        {"image": "i/scan.nii.gz", "label": "l/scan.nii.gz"},
    ]
    assert case_names(items) == ["liver", "scan_0000", "scan"]
    assert case_names([{"image": item["image"]} for item in items]) == ["liver_0000", "scan_0000", "scan"]


def test_two_images_of_one_name():
    with pytest.raises(ValueError, match=r"/d/a_b/c.nii and /d/a/b_c.nii are both case 'd/a_b/c'"):
        case_names(images("/d/a_b/c.nii", "/d/a/b_c.nii", "/e/c.nii", "/e/b_c.nii"))
    with pytest.raises(ValueError, match="d/a.nii is listed 2 times"):
        case_names(images("d/a.nii", "d/../d/a.nii"))
    with pytest.raises(ValueError, match="x/a.nii and x/b.nii are both case 'c'"):
        case_names([{"image": "x/a.nii", "case": "c"}, {"image": "x/b.nii", "case": "c"}])


def test_only_where_file_names_do_not_suffice():
    assert name_cases(images("i/a.nii", "i/b.nii")) == images("i/a.nii", "i/b.nii")
    assert [item["case"] for item in name_cases(images("i/a.nii", "j/a.nii", "b.nii"))] == ["i/a", "j/a", "b"]
    assert name_cases([{"image": "i/a.nii", "case": "x"}]) == [{"image": "i/a.nii", "case": "x"}]


@pytest.mark.parametrize(
    "name, found",
    [
        ("b", ["b"]),
        ("case_1/ct", ["case_1/ct"]),
        ("ct", ["case_0/ct", "case_1/ct"]),
        ("1/ct", []),
        ("a", ["a.nii", "a.nii.gz"]),
        ("scan", ["scan_0000"]),  # as it was called before
        ("c", []),
    ],
)
def test_names_as_people_write_them(name, found):
    assert find_case(name, ["case_0/ct", "case_1/ct", "b", "a.nii", "a.nii.gz", "scan_0000", "scan_0001"]) == found


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_name_of_a_file(name):
    assert case_name(f"x.y/{name}") == "a"


# --- through the bundle


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """A data set as hospitals export it, all images of one name, and weights that were trained on it."""
    folder = tmp_path_factory.mktemp("exports")
    pairs = []
    for i in range(6):
        case = folder / f"data/case_{i:05d}"
        case.mkdir(parents=True)
        grid = np.indices((20, 24, 20))
        label = (((grid - np.reshape([7 + i, 12, 10], (3, 1, 1, 1))) ** 2).sum(0) < 30).astype(np.uint8)
        image = 100 + 60.0 * label + np.random.default_rng(i).normal(0, 5, label.shape)
        nib.save(nib.Nifti1Image(image.astype(np.float32), np.eye(4)), case / "imaging.nii.gz")
        nib.save(nib.Nifti1Image(label, np.eye(4)), case / "segmentation.nii.gz")
        pairs.append({"image": f"{case.name}/imaging.nii.gz", "label": f"{case.name}/segmentation.nii.gz"})
    lists = {"training": pairs[:3], "validation": pairs[3:4], "test": pairs[4:]}
    (folder / "data/dataset.json").write_text(json.dumps(lists), encoding="utf-8")
    run(BUNDLE, TRAIN, folder / "data", folder, "training", batch_size=2)
    return folder


def test_equal_file_names_through_the_lists(exports):
    names = [
        item["case"] for part in ("training", "validation", "test") for item in load_datalist(exports / "data", part)
    ]
    assert names == [f"case_{i:05d}/imaging" for i in range(6)]
    assert [item["case"] for item in load_inference_list(exports / "data")] == names[4:]


@pytest.mark.parametrize("by_hand", [False, True])
def test_equal_file_names_through_evaluation_and_inference(by_hand, exports, tmp_path):
    """As many rows of scores and label maps as images, under their names; also of a list that has no names."""
    lists, ckpt_dir = {}, str(exports / "models")
    if by_hand:
        items = [{k: item[k] for k in ("image", "label")} for item in load_datalist(exports / "data", "test")]
        lists = {"validate#dataset#data": items}
    run(BUNDLE, EVALUATE, exports / "data", tmp_path, "evaluating", ckpt_dir=ckpt_dir, **lists)
    scores = read_scores(tmp_path / "eval")
    assert list(scores) == ["case_00004/imaging", "case_00005/imaging"]
    lists = {"dataset#data": [{"image": item["image"]} for item in items]} if by_hand else {}
    run(BUNDLE, INFERENCE, exports / "data", tmp_path, ckpt_dir=ckpt_dir, **lists)
    written = sorted(path.name for path in (tmp_path / "eval").glob("*.nii.gz"))
    assert written == ["case_00004_imaging_seg.nii.gz", "case_00005_imaging_seg.nii.gz"]
    maps = [np.asarray(nib.load(tmp_path / "eval" / name).dataobj) for name in written]
    assert (maps[0] != maps[1]).any()


def test_both_forms_of_a_name_in_a_folder(exports, tmp_path):
    scan = nib.load(exports / "data/case_00000/imaging.nii.gz")
    scans = tmp_path / "scans"
    scans.mkdir()
    for name, voxels in (
        ("a.nii", scan.get_fdata()),
        ("a.nii.gz", scan.get_fdata()[::-1]),
        ("b.1.nii", scan.get_fdata()),
    ):
        nib.save(nib.Nifti1Image(voxels.astype(np.float32), np.eye(4)), scans / name)
    run(BUNDLE, INFERENCE, scans, tmp_path, ckpt_dir=str(exports / "models"))
    written = {path.name for path in (tmp_path / "eval").glob("*.nii.gz")}
    assert written == {"a.nii_seg.nii.gz", "a.nii.gz_seg.nii.gz", "b.1_seg.nii.gz"}


def test_an_image_that_is_listed_twice_is_not_segmented_twice(exports, tmp_path):
    item = {"image": str(exports / "data/case_00000/imaging.nii.gz")}
    with pytest.raises(RuntimeError) as raised:
        run(
            BUNDLE,
            INFERENCE,
            exports / "data",
            tmp_path,
            ckpt_dir=str(exports / "models"),
            **{"dataset#data": [item] * 2},
        )
    assert "imaging.nii.gz is listed 2 times" in str(root_cause(raised.value))
    assert not list(tmp_path.glob("eval/*.nii.gz"))


def test_postprocessing_needs_no_data_set():
    """MONAI Label builds it for one image, whose item has no name."""
    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs/inference.json"))
    named, _ = parser.get_parsed_content("postprocessing").transforms[-2:]
    pred = MetaTensor(torch.zeros(1, 2, 2, 2), meta={"filename_or_obj": "x/scan.1.nii.gz"})
    assert output_name(named({"pred": pred})["pred"].meta)["subject"] == "scan.1.nii.gz"
    assert output_name(named({"pred": pred, "case": "x/scan"})["pred"].meta)["subject"] == "x_scan.nii.gz"
