import json
import shutil
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from rep3d.data import lists as data
from rep3d.data.checks import check_datalist
from rep3d.data.lists import load_datalist, load_inference_list, random_split
from rep3d.datasets.phantom import write_decathlon

NAMES = {1: "anterior", 2: "posterior"}
CLASSES = 3
AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])


def save(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def make_folders(folder: Path, **counts: int) -> Path:
    """The folder layout; empty files suffice where only names are listed."""
    for suffix, count in counts.items():
        for kind in ("images", "labels"):
            (folder / f"{kind}{suffix}").mkdir(parents=True)
            for case in range(count):
                (folder / f"{kind}{suffix}" / f"{suffix.lower()}_{case}.nii.gz").touch()
    return folder


def make_decathlon(folder: Path, **lists: list) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(lists), encoding="utf-8")
    return folder


def pairs(*names: str) -> list[dict[str, str]]:
    return [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names]


def names(items: list[dict[str, str]], key: str = "image") -> list[str]:
    return [Path(item[key]).name.removesuffix(".nii.gz") for item in items]


# --- lists


def test_decathlon_is_split_at_random(tmp_path):
    folder = write_decathlon(tmp_path / "set", labels=NAMES, count=10, shape=(8, 8, 8))
    parts = [load_datalist(folder, part) for part in data.PARTS]
    assert [len(part) for part in parts] == [7, 1, 2]
    assert len({item["image"] for part in parts for item in part}) == 10
    for item in (item for part in parts for item in part):
        assert Path(item["image"]).is_file() and Path(item["label"]).is_file()
        assert Path(item["image"]).name == Path(item["label"]).name
    check_datalist(sum(parts, []), classes=CLASSES)


def test_decathlon_split_does_not_depend_on_the_folder(tmp_path):
    first, second = (make_decathlon(tmp_path / name, training=pairs(*"abcdefghij")) for name in ("z", "a"))
    assert names(load_datalist(first, "test")) == names(load_datalist(second, "test"))


def test_decathlon_with_a_split_of_its_own(tmp_path):
    folder = make_decathlon(tmp_path, training=pairs("a", "b"), validation=pairs("c"), test=["./imagesTs/d.nii.gz"])
    assert [names(load_datalist(folder, part)) for part in data.PARTS] == [["a", "b"], ["c"], ["c"]]
    assert load_datalist(folder, "validation")[0]["label"] == str(tmp_path / "labelsTr/c.nii.gz")


def test_decathlon_with_test_pairs_of_its_own(tmp_path):
    folder = make_decathlon(tmp_path, training=pairs("a"), validation=pairs("c"), test=pairs("d", "e"))
    assert names(load_datalist(folder, "test")) == ["d", "e"]


def test_decathlon_with_test_pairs_but_no_validation(tmp_path):
    folder = make_decathlon(tmp_path, training=pairs(*"abcdefgh"), test=pairs("y", "z"))
    training, validation, test = (names(load_datalist(folder, part)) for part in data.PARTS)
    assert (len(training), len(validation), test) == (7, 1, ["y", "z"])
    assert sorted(training + validation) == list("abcdefgh")
    assert [Path(item["image"]).name[0] for item in load_inference_list(folder)] == ["y", "z"]


def test_folder_layout(tmp_path):
    folder = make_folders(tmp_path, Tr=3, Val=2, Ts=1)
    assert [names(load_datalist(folder, part)) for part in data.PARTS] == [
        ["tr_0", "tr_1", "tr_2"],
        ["val_0", "val_1"],
        ["ts_0"],
    ]
    assert names(load_datalist(folder, "training"), "label") == ["tr_0", "tr_1", "tr_2"]


def test_folder_layout_without_test_labels_tests_on_validation(tmp_path):
    folder = make_folders(tmp_path, Tr=1, Val=2, Ts=1)
    shutil.rmtree(folder / "labelsTs")
    assert names(load_datalist(folder, "test")) == ["val_0", "val_1"]


def test_folder_layout_pairs_by_name(tmp_path):
    folder = tmp_path
    for kind, files in {"images": ("b_0000.nii.gz", "a.nii"), "labels": ("a.nii.gz", "b.nii.gz", "c.nii.gz")}.items():
        (folder / f"{kind}Tr").mkdir()
        for file in (*files, ".a.nii.gz", "notes.txt"):
            (folder / f"{kind}Tr" / file).touch()
    items = load_datalist(folder, "training")
    assert [(Path(item["image"]).name, Path(item["label"]).name) for item in items] == [
        ("a.nii", "a.nii.gz"),
        ("b_0000.nii.gz", "b.nii.gz"),
    ]


def _no_folder(folder):
    return folder / "absent"


def _nothing(folder):
    return folder


def _image_without_label(folder):
    make_folders(folder, Tr=2)
    (folder / "labelsTr/tr_1.nii.gz").unlink()
    return folder


def _no_images(folder):
    return make_folders(folder, Tr=0)


def _empty_list(folder):
    return make_decathlon(folder, training=[])


def _only_strings(folder):
    return make_decathlon(folder, training=["./imagesTr/a.nii.gz"])


def _invalid_json(folder):
    (folder / "dataset.json").write_text('{"training": [', encoding="utf-8")
    return folder


def _json_list(folder):
    (folder / "dataset.json").write_text("[]", encoding="utf-8")
    return folder


def _null_list(folder):
    return make_decathlon(folder, training=None)


@pytest.mark.parametrize(
    "prepare, error, parts",
    [
        (_no_folder, FileNotFoundError, ("dataset_dir", "absent", "does not exist", "--dataset_dir")),
        (_nothing, FileNotFoundError, ("dataset_dir", "dataset.json", "imagesTr, labelsTr")),
        (_image_without_label, ValueError, ("labelsTr", "tr_1.nii.gz", "lacks the label")),
        (_no_images, ValueError, ("training list", "is empty", "at least one")),
        (_empty_list, ValueError, ("training list", "is empty", "at least one")),
        (_only_strings, ValueError, ("training list", "is empty", "at least one")),
        (_invalid_json, ValueError, ("dataset.json", "no valid JSON")),
        (_json_list, ValueError, ("dataset.json", "expected an object")),
        (_null_list, ValueError, ("training list", "is empty")),
    ],
)
def test_bad_data_set(prepare, error, parts, tmp_path):
    with pytest.raises(error) as raised:
        load_datalist(prepare(tmp_path), "training")
    for part in (*parts, str(tmp_path)):
        assert part in str(raised.value)


@pytest.mark.parametrize("part", ["train", "", None])
def test_unknown_part(part, tmp_path):
    with pytest.raises(ValueError, match=f"part must be one of .*training.* got {part!r}"):
        load_datalist(tmp_path, part)


# --- the random split


def test_random_split_of_200():
    items = pairs(*(f"hippocampus_{i:03d}" for i in range(200)))
    parts = random_split(items)
    assert [len(part) for part in parts] == [140, 20, 40]
    assert Counter(item["image"] for part in parts for item in part) == Counter(item["image"] for item in items)
    assert [names(part)[:3] for part in parts] == [  # pinned: trained weights must not meet their test cases
        ["hippocampus_131", "hippocampus_181", "hippocampus_022"],
        ["hippocampus_155", "hippocampus_114", "hippocampus_139"],
        ["hippocampus_133", "hippocampus_113", "hippocampus_190"],
    ]
    assert random_split(items[::-1]) == parts
    assert random_split(items, seed=1) != parts


@pytest.mark.parametrize(
    "count, sizes",
    [(0, [0, 0, 0]), (1, [1, 0, 0]), (2, [1, 1, 0]), (3, [1, 1, 1]), (4, [2, 1, 1]), (5, [3, 1, 1]), (6, [4, 1, 1])],
)
def test_random_split_of_tiny_sets(count, sizes):
    assert [len(part) for part in random_split(pairs(*map(str, range(count))))] == sizes


@pytest.mark.parametrize("count", range(3, 40))
def test_every_part_has_an_item(count):
    sizes = [len(part) for part in random_split(pairs(*map(str, range(count))))]
    assert min(sizes) >= 1
    assert sum(sizes) == count


# --- what to segment


def test_inference_of_one_file(tmp_path):
    path = save(tmp_path / "scan 1.nii.gz", np.zeros((8, 9, 10), np.float32))
    assert load_inference_list(path) == [{"image": str(path)}]


def test_inference_of_a_plain_folder(tmp_path):
    for name in ("b.nii.gz", "a.nii", ".hidden.nii.gz", "notes.txt"):
        (tmp_path / name).touch()
    assert [Path(item["image"]).name for item in load_inference_list(tmp_path)] == ["a.nii", "b.nii.gz"]


@pytest.mark.parametrize("test", [["./imagesTs/d.nii.gz"], [{"image": "imagesTs/d.nii.gz"}]])
def test_inference_of_the_test_list(test, tmp_path):
    folder = make_decathlon(tmp_path, training=pairs("a"), test=test)
    assert load_inference_list(folder) == [{"image": str(tmp_path / "imagesTs/d.nii.gz")}]


@pytest.mark.parametrize("lists", [{"test": []}, {}, {"test": None}])
def test_inference_of_the_test_part(lists, tmp_path):
    folder = make_decathlon(tmp_path, training=pairs(*"abcdefghij"), **lists)
    expected = [{"image": item["image"]} for item in load_datalist(folder, "test")]
    assert load_inference_list(folder) == expected
    assert len(expected) == 2


@pytest.mark.parametrize("counts, expected", [({"Ts": 2}, "ts"), ({}, "val")])
def test_inference_of_the_folder_layout(counts, expected, tmp_path):
    folder = make_folders(tmp_path, Tr=1, Val=2, **counts)
    assert names(load_inference_list(folder)) == [f"{expected}_0", f"{expected}_1"]


def test_inference_of_another_kind_of_file(tmp_path):
    path = tmp_path / "scan.dcm"
    path.touch()
    with pytest.raises(ValueError, match=r"dataset_dir .*scan.dcm.* ends with .nii.gz or .nii"):
        load_inference_list(path)


def test_inference_of_an_empty_folder(tmp_path):
    with pytest.raises(ValueError, match=r"dataset_dir .* holds no scans: expected .*\.nii\.gz or \.nii"):
        load_inference_list(tmp_path)


def test_inference_of_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="dataset_dir .*absent.* does not exist"):
        load_inference_list(tmp_path / "absent")


# --- what a folder holds instead, and what is not there


SEGMENT = "; images without labels are segmented with --config_file configs/inference.json"


def _bare_scans(folder):
    (folder / "scan.nii.gz").touch()


def _labels_forgotten(folder):
    make_folders(folder, Tr=2)
    shutil.rmtree(folder / "labelsTr")


def _test_images_only(folder):
    make_decathlon(folder, training=[])


@pytest.mark.parametrize("make", [_bare_scans, _labels_forgotten, _test_images_only])
def test_scans_without_labels(make, tmp_path):
    make(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError)) as raised:
        load_datalist(tmp_path, "training")
    assert str(raised.value).endswith(SEGMENT)


@pytest.mark.parametrize("names", [["1.dcm"], ["series/IM_0001"], ["notes.txt", "1/2/slice.ima"]])
def test_dicom(names, tmp_path):
    """By its content, whatever its name is."""
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"" if name.endswith(".txt") else bytes(128) + b"DICM")
    for source, read in (
        (tmp_path, load_inference_list),
        (tmp_path / names[-1], load_inference_list),
        (tmp_path, lambda folder: load_datalist(folder, "training")),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match="; DICOM is not read here: convert it to NIfTI"):
            read(source)


def test_no_hint_where_nothing_is_known(tmp_path):
    (tmp_path / "notes.txt").write_text("short")
    with pytest.raises(FileNotFoundError) as raised:
        load_datalist(tmp_path, "training")
    assert ";" not in str(raised.value)


def test_files_of_a_list_that_are_none(tmp_path, caplog):
    """The list is named before the first of them is missed."""
    make_decathlon(tmp_path, training=pairs("a", "b"), validation=pairs("c"), test=["./imagesTs/d.nii.gz"])
    for path in ("imagesTr/a.nii.gz", "labelsTr/a.nii.gz", "imagesTr/b.nii.gz"):
        save(tmp_path / path, np.zeros((2, 2, 2), np.uint8))
    load_datalist(tmp_path, "training")
    load_inference_list(tmp_path)
    assert [record.getMessage() for record in caplog.records] == [
        f"the training list of {tmp_path} names 1 missing file(s): {tmp_path / 'labelsTr/b.nii.gz'}",
        f"the test list of {tmp_path} names 1 missing file(s): {tmp_path / 'imagesTs/d.nii.gz'}",
    ]
