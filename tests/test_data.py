import json
import os
import shutil
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from rep3d import data
from rep3d.data import check_datalist, load_datalist, load_inference_list, random_split, read_header
from rep3d.phantom import write_decathlon

NAMES = {1: "anterior", 2: "posterior"}
CLASSES = 3
AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])


def save(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def image_voxels(shape=(8, 9, 10)) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def label_voxels(shape=(8, 9, 10)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, CLASSES, shape).astype(np.uint8)


def make_item(folder: Path) -> dict[str, str]:
    """One good case."""
    image = save(folder / "image.nii.gz", image_voxels())
    label = save(folder / "label.nii.gz", label_voxels())
    return {"image": str(image), "label": str(label)}


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
    path = save(tmp_path / "scan 1.nii.gz", image_voxels())
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


# --- checks


def test_good_files_pass(tmp_path):
    check_datalist([make_item(tmp_path)], CLASSES)


def test_spaces_and_other_letters_in_paths(tmp_path):
    item = make_item(tmp_path / "Köpfe und Bäuche" / "画像 1")
    check_datalist([item], CLASSES, tmp_path / "mémoire" / "voxels é.json")
    assert load_inference_list(Path(item["image"]).parent)[0] == {"image": item["image"]}


def _absent(item):
    os.unlink(item["image"])


def _image_2d(item):
    save(Path(item["image"]), image_voxels((8, 9)))


def _image_4d(item):
    save(Path(item["image"]), image_voxels((8, 9, 10, 2)))


def _singular_affine(item):
    # nibabel does not write it: srow_z is at byte 312 of the header.
    path = Path(item["image"]).with_name("singular.nii")
    save(path, image_voxels())
    content = bytearray(path.read_bytes())
    content[312:328] = np.zeros(4, np.float32).tobytes()
    path.write_bytes(bytes(content))
    item["image"] = str(path)


def _zero_bytes(item):
    Path(item["image"]).write_bytes(b"")


def _no_nifti(item):
    Path(item["image"]).write_bytes(b"this is no NIfTI file")


def _truncated(item):
    path = Path(item["image"])
    path.write_bytes(path.read_bytes()[:-900])


def _nan_voxel(item):
    voxels = image_voxels()
    voxels[1, 2, 3] = np.nan
    save(Path(item["image"]), voxels)


def _infinite_voxel(item):
    voxels = image_voxels()
    voxels[1, 2, 3] = np.inf
    save(Path(item["image"]), voxels)


def _colours(item):
    save(Path(item["image"]), np.zeros((8, 9, 10), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]))


def _label_fraction(item):
    save(Path(item["label"]), label_voxels() * np.float32(0.5))


def _label_nan(item):
    save(Path(item["label"]), np.where(label_voxels() == 0, np.nan, label_voxels()).astype(np.float32))


def _label_outside(item):
    save(Path(item["label"]), label_voxels() + np.uint8(5))


def _label_negative(item):
    save(Path(item["label"]), label_voxels().astype(np.int16) - 1)


def _label_truncated(item):
    path = Path(item["label"])
    path.write_bytes(path.read_bytes()[:-60])


def _label_shape(item):
    save(Path(item["label"]), label_voxels((8, 9, 11)))


def _label_affine(item):
    save(Path(item["label"]), label_voxels(), np.diag([1.0, 1.5, 2.1, 1.0]))


BAD_FILES = {
    _absent: ("image", ("no such file",)),
    _image_2d: ("image", ("(8, 9)", "three dimensions")),
    _image_4d: ("image", ("(8, 9, 10, 2)", "three dimensions")),
    _singular_affine: ("image", ("singular", "invertible")),
    _zero_bytes: ("image", ("cannot be read as NIfTI", "0 bytes")),
    _no_nifti: ("image", ("cannot be read as NIfTI", "21 bytes")),
    _truncated: ("image", ("cannot be read",)),
    _nan_voxel: ("image", ("1 voxel(s) are NaN or infinite",)),
    _infinite_voxel: ("image", ("1 voxel(s) are NaN or infinite",)),
    _colours: ("image", ("expected numbers",)),
    _label_fraction: ("label", ("0.5", "whole numbers from 0 to 2")),
    _label_nan: ("label", ("nan", "whole numbers from 0 to 2")),
    _label_outside: ("label", ("[5.0, 6.0, 7.0]", "whole numbers from 0 to 2")),
    _label_negative: ("label", ("[-1.0]", "whole numbers from 0 to 2")),
    _label_truncated: ("label", ("cannot be read",)),
    _label_shape: ("label", ("(8, 9, 11)", "(8, 9, 10)", "image.nii.gz")),
    _label_affine: ("label", ("2.1", "image.nii.gz", "affine")),
}


@pytest.mark.parametrize("damage", BAD_FILES, ids=lambda damage: damage.__name__.strip("_"))
def test_bad_file_is_named(damage, tmp_path):
    item = make_item(tmp_path)
    damage(item)
    key, parts = BAD_FILES[damage]
    with pytest.raises(ValueError, match=r"^1 problem\(s\)") as raised:
        check_datalist([item], CLASSES)
    for part in (item[key], *parts):
        assert part in str(raised.value)


def test_affines_that_differ_by_rounding_pass(tmp_path):
    item = make_item(tmp_path)
    save(Path(item["label"]), label_voxels(), AFFINE + 1e-4)
    check_datalist([item], CLASSES)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
def test_label_types(dtype, tmp_path):
    item = make_item(tmp_path)
    save(Path(item["label"]), label_voxels().astype(dtype))
    check_datalist([item], CLASSES)


def test_all_problems_come_at_once(tmp_path):
    items = [make_item(tmp_path / str(case)) for case in range(4)]
    for damage, item in zip((_zero_bytes, _nan_voxel, _label_outside), items, strict=False):
        damage(item)
    with pytest.raises(ValueError, match=r"^3 problem\(s\)") as raised:
        check_datalist(items, CLASSES)
    assert items[0]["image"] in str(raised.value)
    assert items[1]["image"] in str(raised.value)
    assert items[2]["label"] in str(raised.value)
    assert str(tmp_path / "3") not in str(raised.value)


def test_many_problems_are_cut_short(tmp_path):
    items = [{"image": str(tmp_path / f"{i}.nii.gz"), "label": "x"} for i in range(data.SHOWN_PROBLEMS + 5)]
    with pytest.raises(ValueError, match=r"^25 problem\(s\)(.|\n)*and 5 more$"):
        check_datalist(items, CLASSES)


def test_read_header(tmp_path):
    shape, affine = read_header(make_item(tmp_path)["image"])
    assert shape == (8, 9, 10)
    np.testing.assert_array_equal(affine, AFFINE)


# --- the memory of checked voxels


@pytest.fixture
def reads(monkeypatch):
    """Paths whose voxels were read."""
    read, paths = data.read_voxels, []

    def counting(path):
        paths.append(Path(path).name)
        return read(path)

    monkeypatch.setattr(data, "read_voxels", counting)
    return paths


def test_voxels_are_read_once(tmp_path, reads):
    item, memory = make_item(tmp_path), tmp_path / "out" / "memory.json"
    check_datalist([item], CLASSES, memory)
    assert sorted(reads) == ["image.nii.gz", "label.nii.gz"]
    check_datalist([item], CLASSES, memory)
    assert len(reads) == 2
    assert [path.name for path in memory.parent.iterdir()] == ["memory.json"]


def test_without_memory_voxels_are_read_every_time(tmp_path, reads):
    item = make_item(tmp_path)
    for _ in range(2):
        check_datalist([item], CLASSES)
    assert len(reads) == 4


def test_changed_file_is_read_again(tmp_path, reads):
    item, memory = make_item(tmp_path), tmp_path / "memory.json"
    check_datalist([item], CLASSES, memory)
    _nan_voxel(item)
    with pytest.raises(ValueError, match="NaN"):
        check_datalist([item], CLASSES, memory)
    assert reads[2:] == ["image.nii.gz"]
    with pytest.raises(ValueError, match="NaN"):  # a bad file is never remembered as checked
        check_datalist([item], CLASSES, memory)


def test_other_number_of_classes_is_checked_again(tmp_path):
    item, memory = make_item(tmp_path), tmp_path / "memory.json"
    check_datalist([item], CLASSES, memory)
    with pytest.raises(ValueError, match="from 0 to 1"):
        check_datalist([item], 2, memory)


@pytest.mark.parametrize("content", [b"", b"{", b"5", b"[[1]]", b"\xff\xfe", b'{"a": 1}'])
def test_corrupt_memory_is_ignored(content, tmp_path, reads):
    item, memory = make_item(tmp_path), tmp_path / "memory.json"
    memory.write_bytes(content)
    for _ in range(2):
        check_datalist([item], CLASSES, memory)
    assert len(reads) == 2


def test_memory_that_cannot_be_written_is_survived(tmp_path, reads, caplog):
    item = make_item(tmp_path)
    (tmp_path / "file").touch()
    memory = tmp_path / "file" / "memory.json"  # no folder can be there, whoever we are
    for _ in range(2):
        check_datalist([item], CLASSES, memory)
    assert len(reads) == 4
    assert str(memory) in caplog.text


def test_memory_that_is_a_folder_is_survived(tmp_path, caplog):
    item = make_item(tmp_path / "data")
    (tmp_path / "memory.json" / "x").mkdir(parents=True)
    check_datalist([item], CLASSES, tmp_path / "memory.json")
    assert str(tmp_path / "memory.json") in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "memory.json"]
