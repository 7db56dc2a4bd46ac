import itertools
import json
from pathlib import Path

import pytest

from rep3d.data.lists import load_datalist, random_split
from rep3d.data.splits import cases_of, fold_folder, make_folds, make_splits, read_splits

CASES = [f"case_{i:03d}" for i in range(300)]
KITS = {"training": 240, "validation": 30, "test": 30}


def write(folder, splits):
    path = folder / "splits.json"
    path.write_text(splits if isinstance(splits, str) else json.dumps(splits), encoding="utf-8")
    return path


def test_sizes_of_the_paper():
    splits = make_splits(CASES, KITS, folds=5)
    assert [[len(split[part]) for part in ("train", "val", "test")] for split in splits] == [[240, 30, 30]] * 5


def test_no_case_in_two_parts():
    splits = make_splits(CASES, KITS, folds=5)
    for split in splits:
        assert sorted(split["train"] + split["val"] + split["test"]) == CASES
    assert len({tuple(split["test"]) for split in splits}) == 1
    validated = sum((split["val"] for split in splits), [])
    assert len(validated) == len(set(validated)) == 150


def test_seed_decides():
    assert make_splits(CASES[::-1], KITS) == make_splits(CASES, KITS)
    assert make_splits(CASES, KITS, seed=1) != make_splits(CASES, KITS)


def test_a_patient_stays_in_one_part():
    patients = {case: f"patient {i // 3}" for i, case in enumerate(CASES)}
    for split in make_splits(CASES, KITS, folds=5, patients=patients):
        parts = [{patients[case] for case in split[part]} for part in ("train", "val", "test")]
        assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
        assert [len(split[part]) for part in ("train", "val", "test")] == [240, 30, 30]


@pytest.mark.parametrize("count, sizes", [(30, [24, 3, 3]), (310, [250, 30, 30])])
def test_other_numbers_of_cases(count, sizes):
    (split,) = make_splits([str(i) for i in range(count)], KITS)
    assert [len(split[part]) for part in ("train", "val", "test")] == sizes


@pytest.mark.parametrize("count, sizes", [(3, [1, 1, 1]), (5, [3, 1, 1]), (16, [12, 2, 2]), (299, [239, 30, 30])])
def test_every_part_has_a_case(count, sizes):
    """And is of the nearest size: 16 cases ask for 1.6."""
    (split,) = make_splits([str(i) for i in range(count)], KITS)
    assert [len(split[part]) for part in ("train", "val", "test")] == sizes


def test_two_folds_train_with_each_others_validation():
    first, second = make_splits(["a", "b", "c"], {"training": 1, "validation": 1, "test": 1}, folds=2)
    assert (first["train"], second["train"]) == (second["val"], first["val"])
    assert first["test"] == second["test"]


def test_too_few_cases():
    with pytest.raises(ValueError, match=r"2 patient\(s\) are too few for 1 fold"):
        make_splits(["a", "b"], KITS)


def test_folds_without_test_cases():
    splits = make_folds(CASES, 7)
    assert all(set(split) == {"train", "val"} and split["train"] == sorted(split["train"]) for split in splits)
    assert all(sorted(split["train"] + split["val"]) == CASES for split in splits)
    assert sorted(sum((split["val"] for split in splits), [])) == CASES
    assert sorted(len(split["val"]) for split in splits) == [42] + [43] * 6
    assert make_folds(CASES[::-1], 7) == splits != make_folds(CASES, 7, seed=1)


def test_folds_by_patient():
    patients = {case: f"patient {i // 3}" for i, case in enumerate(CASES)}
    for split in make_folds(CASES, 5, patients=patients):
        assert not {patients[case] for case in split["train"]} & {patients[case] for case in split["val"]}
        assert len(split["val"]) == 60


@pytest.mark.parametrize("folds", [1, 4])
def test_folds_that_patients_cannot_fill(folds):
    assert [len(make_folds("abc", count)) for count in (2, 3)] == [2, 3]
    with pytest.raises(ValueError, match=f"folds is {folds}, expected 2 to 3, the number of patients"):
        make_folds("abc", folds)


def test_first_fold_is_the_split_that_needs_no_file():
    items = [{"image": f"imagesTr/{case}.nii.gz", "label": ""} for case in CASES[:200]]
    expected = [sorted(item["image"][9:17] for item in part) for part in random_split(items)]
    split = make_splits(CASES[:200], {"training": 140, "validation": 20, "test": 40}, folds=5)[0]
    assert [split["train"], split["val"], split["test"]] == expected


@pytest.mark.parametrize(
    "splits, message",
    [
        ("[", "no valid JSON"),
        ({}, "expected a list"),
        ([], "expected a list"),
        ([{"train": ["a"]}], "expected a list"),
        ([{"train": ["a"], "val": [1]}], "expected a list"),
        ([{"train": ["a"], "val": ["b"], "tset": []}], "expected a list"),
        ([{"train": ["a"], "val": ["x"]}], "fold 0 names 'x' in val, but there is no such case"),
        ([{"train": ["a"], "val": ["b", "a"]}], "fold 0 names 'a' in train and in val"),
        ([{"train": ["a", "a"], "val": ["b"]}], "fold 0 names 'a' in train and in train"),
    ],
)
def test_bad_files(splits, message, tmp_path):
    with pytest.raises(ValueError, match=rf"splits.json: .*{message}"):
        read_splits(write(tmp_path, splits), {"a", "b"})


def test_without_test_cases_validation_stands_in(tmp_path):
    path = write(tmp_path, [{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"], "test": []}])
    splits = read_splits(path, {"a", "b"})
    assert [cases_of(splits, "test", fold, path) for fold in (0, 1)] == [["b"], ["a"]]


@pytest.mark.parametrize("test", [[], ["c"]], ids=["validation stands in", "test"])
def test_it_is_said_that_validation_stands_in(test, tmp_path, caplog):
    pairs = [{"image": f"{case}.nii.gz", "label": f"labels/{case}.nii.gz"} for case in "abc"]
    (tmp_path / "dataset.json").write_text(json.dumps({"training": pairs}), encoding="utf-8")
    write(tmp_path, [{"train": ["a"], "val": ["b"], "test": test}])
    with caplog.at_level("INFO", "rep3d.data"):
        for part in ("training", "validation", "test"):
            load_datalist(tmp_path, part)
    told = f"{tmp_path} has no test cases: those of validation stand in, by which trainings choose weights"
    assert caplog.messages.count(told) == (not test)


@pytest.mark.parametrize("fold", [-1, 5, 7])
def test_no_such_fold(fold, tmp_path):
    splits = make_splits(CASES, KITS, folds=5)
    with pytest.raises(ValueError, match=rf"fold is {fold}, but .*splits.json holds fold 0 to 4"):
        cases_of(splits, "training", fold, tmp_path / "splits.json")


@pytest.mark.parametrize("layout", ["decathlon", "folders"])
def test_datalist_follows_the_file(layout, tmp_path):
    names = ("a", "b", "c")
    if layout == "decathlon":
        pairs = [{"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"} for name in names]
        (tmp_path / "dataset.json").write_text(json.dumps({"training": pairs}), encoding="utf-8")
    else:
        for kind in ("images", "labels"):
            (tmp_path / f"{kind}Tr").mkdir()
            for name in names:
                (tmp_path / f"{kind}Tr" / f"{name}.nii.gz").touch()
    write(tmp_path, [{"train": ["a"], "val": ["b"], "test": ["c"]}, {"train": ["c"], "val": ["a"], "test": ["b"]}])
    for fold, expected in enumerate(("abc", "cab")):
        for part, name in zip(("training", "validation", "test"), expected, strict=True):
            item = {kind: str(tmp_path / f"{kind}sTr/{name}.nii.gz") for kind in ("image", "label")}
            assert load_datalist(tmp_path, part, fold) == [item]


def test_a_fold_needs_the_file(tmp_path):
    (tmp_path / "imagesTr").mkdir()
    with pytest.raises(ValueError, match="fold is 2, but .* has no splits.json: write one, .*an entry for each fold"):
        load_datalist(tmp_path, "training", 2)


def test_results_of_folds_stay_apart():
    assert [fold_folder("models", fold) for fold in (0, 3)] == ["models", "models/fold3"]


# --- names of cases


def exports(folder, *extra):
    """A Decathlon set whose images share a name."""
    images = ["case_0/imaging.nii.gz", "case_1/imaging.nii.gz", "b/ct_0000.nii.gz", *extra]
    pairs = [{"image": image, "label": f"{image.partition('/')[0]}/label.nii.gz"} for image in images]
    (folder / "dataset.json").write_text(json.dumps({"training": pairs}), encoding="utf-8")


def images(folder, part):
    return [item["image"].removeprefix(f"{folder}/") for item in load_datalist(folder, part)]


@pytest.mark.parametrize("name", ["ct_0000", "ct"])
def test_short_names_that_fit_one_case(name, tmp_path):
    """Also one without what looked like a channel number, as it was read before."""
    exports(tmp_path)
    write(tmp_path, [{"train": ["case_1/imaging", name], "val": ["case_0/imaging"]}])
    assert images(tmp_path, "training") == ["case_1/imaging.nii.gz", "b/ct_0000.nii.gz"]
    assert images(tmp_path, "validation") == ["case_0/imaging.nii.gz"]


def test_a_short_name_that_fits_several_cases(tmp_path):
    exports(tmp_path)
    write(tmp_path, [{"train": ["imaging"], "val": ["ct"]}])
    with pytest.raises(ValueError, match="names 'imaging' in train, which may be case_0/imaging or case_1/imaging"):
        load_datalist(tmp_path, "training")


def test_two_names_of_one_case(tmp_path):
    exports(tmp_path)
    write(tmp_path, [{"train": ["ct_0000"], "val": ["ct"]}])
    with pytest.raises(ValueError, match="fold 0 names 'ct_0000' in train and in val"):
        load_datalist(tmp_path, "training")


def test_cases_in_no_part_are_said_once(tmp_path, caplog):
    exports(tmp_path, "new/scan.nii.gz")
    write(tmp_path, [{"train": ["case_0/imaging"], "val": ["ct"]}])
    for part in ("training", "validation", "test"):
        load_datalist(tmp_path, part)
    (record,) = [record for record in caplog.records if "in no part" in record.message]
    assert record.getMessage().endswith("splits.json: 2 case(s) are in no part of fold 0: case_1/imaging, scan")


@pytest.mark.parametrize("layout", ["decathlon", "folders", "nnunet"])
def test_the_test_cases_of_the_data_set_count_where_a_fold_has_none(layout, tmp_path, caplog):
    """As in nnU-Net's file; one that the fold names elsewhere is no test case."""
    names = {"Tr": ["a", "b", "c"], "Ts": ["t", "u", "v"]}
    for kind, suffix in itertools.product(("images", "labels"), names):
        (tmp_path / (kind + suffix)).mkdir()
        for name in names[suffix]:
            (tmp_path / f"{kind}{suffix}/{name}.nii.gz").touch()
    listed = [[{"image": f"images{s}/{n}.nii.gz", "label": f"labels{s}/{n}.nii.gz"} for n in names[s]] for s in names]
    contents = {"decathlon": dict(zip(("training", "test"), listed, strict=True)), "nnunet": {"file_ending": ".nii.gz"}}
    if layout in contents:
        (tmp_path / "dataset.json").write_text(json.dumps(contents[layout]))
    write(tmp_path, [{"train": ["a", "v"], "val": ["b"]}, {"train": ["a"], "val": ["b", "c"], "test": ["t"]}])
    found = {fold: [Path(item["image"]).name[0] for item in load_datalist(tmp_path, "test", fold)] for fold in (0, 1)}
    assert found == {0: ["t", "u"], 1: ["t"]}
    assert images(tmp_path, "validation") == ["imagesTr/b.nii.gz"]
    load_datalist(tmp_path, "training")
    assert caplog.messages == [f"{tmp_path / 'splits.json'}: 1 case(s) are in no part of fold 0: c"]


@pytest.mark.parametrize("part", ["training", "validation"])
def test_an_empty_list_takes_no_case_of_another(part, tmp_path):
    """Neither does the validation case train."""
    exports(tmp_path)
    lists = {"training": {"train": [], "val": ["ct"]}, "validation": {"train": ["ct"], "val": []}}
    write(tmp_path, [lists[part]])
    with pytest.raises(ValueError, match=f"the {part} list of .* is empty"):
        load_datalist(tmp_path, part)


def test_a_file_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "splits.json"
    path.write_text('[{"train": ["a"], "val": ["b"]}]', encoding="utf-8-sig")
    assert read_splits(path, {"a", "b"}) == [{"train": ["a"], "val": ["b"]}]
