"""Downloads as they come, imitated: what the bundles then read, and what is said about broken files."""

import csv
import json
import os
import re
import runpy
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from rep3d.commands import preparing
from rep3d.console.commands import run_command
from rep3d.data.checks import check_datalist
from rep3d.data.lists import load_datalist, load_inference_list
from rep3d.datasets import preparation
from rep3d.datasets.downloads import Scan, find_scans
from rep3d.datasets.fingerprint import PERCENTILES, examine, summary
from rep3d.datasets.preparation import Preparation, check_pairs, prepare, read_patients
from rep3d.io.geometry import VolumeError

ROOT = Path(__file__).parents[2]
CONFIGS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in ROOT.glob("configs/datasets/*.json")}
AFFINE = np.diag([-1.5, -1.5, 3.0, 1.0])


def save(path, voxels, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)


def save_pair(image, label, classes, seed):
    rng = np.random.default_rng(seed)
    save(image, rng.integers(-1000, 1000, (9, 8, 7)).astype(np.int16))
    save(label, rng.integers(0, classes, (9, 8, 7)).astype(np.uint8))


def amos(folder, classes=16):
    for number in (*range(1, 11), *range(500, 510)):
        name = f"amos_{number:04d}.nii.gz"
        save_pair(folder / "imagesTr" / name, folder / "labelsTr" / name, min(classes, 14), number)
    save_pair(folder / "imagesVa/amos_0011.nii.gz", folder / "labelsVa/amos_0011.nii.gz", classes, 11)
    save(folder / "imagesTs/amos_0012.nii.gz", np.zeros((4, 4, 4), np.int16))
    return folder


def kits(folder, segmentation="segmentation.nii.gz"):
    for number in range(10):
        case = folder / f"case_{number:05d}"
        save_pair(case / "imaging.nii.gz", case / segmentation, 4, number)
    return folder


def decathlon(folder, labels=("background", "Anterior", "Posterior")):
    names = [f"scan_{number:03d}.nii.gz" for number in range(10)]
    for number, name in enumerate(names):
        save_pair(folder / "imagesTr" / name, folder / "labelsTr" / name, len(labels), number)
    dataset = {
        "name": "Some task",
        "labels": {str(i): name for i, name in enumerate(labels)},
        "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names],
        "test": ["./imagesTs/scan_010.nii.gz"],
    }
    save(folder / "imagesTs/scan_010.nii.gz", np.zeros((4, 4, 4), np.int16))
    (folder / "dataset.json").write_text(json.dumps(dataset), encoding="utf-8")
    return folder


SOURCES = {
    "amos_ct": (amos, "amos_0001"),
    "amos_mri": (amos, "amos_0500"),
    "kits": (kits, "case_00000"),
    "msd_pancreas": (lambda folder: decathlon(folder, ("background", "pancreas", "cancer")), "scan_000"),
    "msd_hepatic_vessel": (lambda folder: decathlon(folder, ("background", "Vessel", "Tumour")), "scan_000"),
    "msd_hippocampus": (decathlon, "scan_000"),
}


def test_every_bundle_has_a_source_here():
    assert SOURCES.keys() == {name for name, config in CONFIGS.items() if "data" in config}


@pytest.mark.parametrize("name", SOURCES)
def test_bundles_read_what_is_prepared(name, tmp_path):
    make, case = SOURCES[name]
    source = make(tmp_path / "the download")
    before = sorted(source.rglob("*"))
    result = prepare(CONFIGS[name], source, tmp_path / "data")
    assert result.problems == {} and len(result.facts) == 10
    assert sorted(source.rglob("*")) == before
    folds = CONFIGS[name]["data"]["folds"]
    assert len(result.splits) == folds
    for fold in range(folds):
        parts = [load_datalist(tmp_path / "data", part, fold) for part in ("training", "validation", "test")]
        items = sum(parts, [])
        assert len(items) == len({item["image"] for item in items}) == 10
        check_datalist(items, len(CONFIGS[name]["common"]["label_names"]))
        assert f"{case}.nii.gz" in {Path(item["label"]).name for item in items}
    assert Path(items[0]["image"]).is_symlink()


def test_ct_and_mri_of_amos(tmp_path):
    source = amos(tmp_path / "amos")
    for name, numbers in (("amos_ct", range(1, 11)), ("amos_mri", range(500, 510))):
        prepare(CONFIGS[name], source, tmp_path / name)
        cases = {path.name for path in (tmp_path / name / "labelsTr").iterdir()}
        assert cases == {f"amos_{number:04d}.nii.gz" for number in numbers}
    images = [Path(item["image"]).name for item in load_inference_list(tmp_path / "amos_ct")]
    assert images == ["amos_0011.nii.gz", "amos_0012.nii.gz"]


def test_kits21(tmp_path):
    result = prepare(CONFIGS["kits"], kits(tmp_path / "kits", "aggregated_MAJ_seg.nii.gz"), tmp_path / "data")
    assert len(result.facts) == 10


@pytest.mark.parametrize("links", [(), ("link",)], ids=["copies", "hard links"])
def test_without_symbolic_links(links, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("not on this file system")

    for name in {"symlink", "link"} - set(links):
        monkeypatch.setattr(os, name, refuse)
    prepare(CONFIGS["msd_hippocampus"], decathlon(tmp_path / "task"), tmp_path / "data")
    path = tmp_path / "data/imagesTr/scan_003.nii.gz"
    assert not path.is_symlink() and nib.load(path).shape == (9, 8, 7)
    assert path.samefile(tmp_path / "task/imagesTr/scan_003.nii.gz") == bool(links)


def _empty(folder):
    (folder / "imagesTr/scan_004.nii.gz").write_bytes(b"")


def _gone(folder):
    (folder / "labelsTr/scan_004.nii.gz").unlink()


def _id_3(folder):
    save(folder / "labelsTr/scan_004.nii.gz", np.full((9, 8, 7), 3, np.uint8))


def _fraction(folder):
    save(folder / "labelsTr/scan_004.nii.gz", np.full((9, 8, 7), 0.5, np.float32))


def _shape(folder):
    save(folder / "labelsTr/scan_004.nii.gz", np.zeros((9, 8, 6), np.uint8))


def _affine(folder):
    save(folder / "labelsTr/scan_004.nii.gz", np.zeros((9, 8, 7), np.uint8), np.diag([1.5, 1.5, 3.0, 1.0]))


def _nan(folder):
    save(folder / "imagesTr/scan_004.nii.gz", np.full((9, 8, 7), np.nan, np.float32))


def _one_slice(folder):
    for kind in ("images", "labels"):
        save(folder / f"{kind}Tr/scan_004.nii.gz", np.zeros((9, 8, 1), np.uint8))


def _twin(folder):
    for kind in ("images", "labels"):
        (folder / f"{kind}Tr/scan_004.nii.gz").write_bytes((folder / f"{kind}Tr/scan_001.nii.gz").read_bytes())


def _spacing(folder):
    path = folder / "imagesTr/scan_004.nii.gz"
    volume = nib.load(path)
    image = nib.Nifti1Image(np.asarray(volume.dataobj), volume.affine)
    image.header["pixdim"][3] = 5.0
    image.header.set_qform(None, code=0)
    image.header.set_sform(volume.affine, code=1)
    image.header["pixdim"][3] = 5.0
    data = bytearray(image.to_bytes())
    path.unlink()
    (folder / "imagesTr/scan_004.nii").write_bytes(data)
    dataset = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    dataset["training"][4]["image"] = "./imagesTr/scan_004.nii"
    (folder / "dataset.json").write_text(json.dumps(dataset), encoding="utf-8")


PROBLEMS = {
    _empty: "scan_004.nii.gz: cannot be read as NIfTI",
    _gone: "scan_004.nii.gz: no such file",
    _id_3: r"scan_004.nii.gz: label value\(s\) \[3.0\], expected whole numbers from 0 to 2",
    _fraction: r"scan_004.nii.gz: label value\(s\) \[0.5\]",
    _shape: r"scan_004.nii.gz: shape \(9, 8, 6\) differs from \(9, 8, 7\)",
    _affine: "scan_004.nii.gz: affine .* differs",
    _nan: r"scan_004.nii.gz: 504 voxel\(s\) are NaN",
    _one_slice: "scan_004.nii.gz: .* a single slice is no volume",
    _twin: "scan_004: the same voxels as scan_001",
    _spacing: r"scan_004.nii: spacing \[1.5, 1.5, 5.0\] in the header, \[1.5, 1.5, 3.0\] in the affine",
}


@pytest.mark.parametrize("break_it", PROBLEMS, ids=lambda f: f.__name__.strip("_"))
def test_bad_files_are_left_out_and_reported(break_it, tmp_path):
    source = decathlon(tmp_path / "task")
    break_it(source)
    result = prepare(CONFIGS["msd_hippocampus"], source, tmp_path / "data")
    assert list(result.problems) == ["scan_004"] and len(result.facts) == 9
    assert re.search(PROBLEMS[break_it], "\n".join(result.problems["scan_004"]))
    listed = json.loads((tmp_path / "data/dataset.json").read_text(encoding="utf-8"))["training"]
    assert len(listed) == 9 and "scan_004" not in str(listed) + str(result.splits)


def test_a_repaired_file_moves_no_other_case(tmp_path):
    source = decathlon(tmp_path / "task")
    _nan(source)
    before = prepare(CONFIGS["msd_hippocampus"], source, tmp_path / "data").splits
    save_pair(source / "imagesTr/scan_004.nii.gz", source / "labelsTr/scan_004.nii.gz", 3, 4)
    after = prepare(CONFIGS["msd_hippocampus"], source, tmp_path / "data", new_splits=True).splits
    for old, new in zip(before, after, strict=True):
        assert {part: [case for case in new[part] if case != "scan_004"] for part in new} == old


def test_an_interrupted_run_goes_on(tmp_path, monkeypatch):
    source, checked = decathlon(tmp_path / "task"), []
    examine = preparation.examine

    def interrupted(case, *arguments):
        if len(checked) == 4:
            raise KeyboardInterrupt
        checked.append(case)
        return examine(case, *arguments)

    monkeypatch.setattr(preparation, "examine", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(CONFIGS["msd_hippocampus"], source, tmp_path / "data")
    assert not (tmp_path / "data/dataset.json").exists()
    again = []
    monkeypatch.setattr(preparation, "examine", lambda case, *rest: again.append(case) or examine(case, *rest))
    prepare(CONFIGS["msd_hippocampus"], source, tmp_path / "data")
    assert len(again) == 6 and not set(again) & set(checked)


def test_the_users_splits_stay(tmp_path):
    source = decathlon(tmp_path / "task")
    prepare(CONFIGS["msd_hippocampus"], source, tmp_path / "data")
    own = [{"train": ["scan_000"], "val": ["scan_001"]}]
    (tmp_path / "data/splits.json").write_text(json.dumps(own), encoding="utf-8")
    assert prepare(CONFIGS["msd_hippocampus"], source, tmp_path / "data").splits == own
    (tmp_path / "data/splits.json").write_text('[{"train": ["scan_000"], "val": ["scan_099"]}]', encoding="utf-8")
    with pytest.raises(ValueError, match="splits.json: fold 0 names 'scan_099' in val, but there is no such case"):
        prepare(CONFIGS["msd_hippocampus"], source, tmp_path / "data")


@pytest.mark.parametrize(
    ("words", "expected"), [([], False), (["--new_splits"], True), (["--new_splits", "false"], False)]
)
def test_splits_are_drawn_anew_where_that_is_said(words, expected, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(
        preparation, "prepare", lambda *_, new_splits, **__: told.append(new_splits) or Preparation([], {}, [])
    )
    run_command(preparing.prepare, ["kits", "source", str(tmp_path), *words], program="rep3d")
    assert told == [expected]
    with pytest.raises(ValueError, match="new_splits is 'no', expected nothing behind it, or true or false"):
        run_command(preparing.prepare, ["kits", "source", str(tmp_path), "--new_splits", "no"], program="rep3d")


# --- patients


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffcase,patient\na,p 1\nb,p 1\n",
        "\ufeffage;case;patient\r\n50;a;p 1\r\n50;b;p 1\r\n",
        "case, patient\na, p 1\n\nb ,p 1 \n",
    ],
    ids=["of Excel", "of a German Excel", "blanks"],
)
def test_patients_of_a_table(text, tmp_path):
    path = tmp_path / "patients.csv"
    path.write_bytes(text.encode())
    assert read_patients(path) == {"a": "p 1", "b": "p 1"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected the columns case and patient, found none"),
        ("Case;patient\na;1\n", "expected the columns case and patient, found Case, patient"),
        ("case,patient\n", "has no rows, expected one for each case"),
        ("case,patient\na,1\nb\n", "line 3 has case 'b' and patient '', expected both"),
        ("case,patient\n ,1\n", "line 2 has case '' and patient '1', expected both"),
        ("case,patient\na,1\na,2\n", "case 'a' is of the patients '1' and '2', expected one"),
    ],
)
def test_tables_without_patients(text, said, tmp_path):
    path = tmp_path / "patients.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(f"{path}: {said}")):
        read_patients(path)


def test_patients_of_no_case(tmp_path):
    """Scans without a label may be among them."""
    source = decathlon(tmp_path / "task")
    told = "patients has 2 name(s) of no case, such as 'scan_00', expected names such as 'scan_000'"
    with pytest.raises(ValueError, match=re.escape(told)):
        prepare(
            CONFIGS["msd_hippocampus"],
            source,
            tmp_path / "data",
            patients={"scan_000": "a", "scan_00": "a", "scan_01": "b"},
        )
    assert not (tmp_path / "data").exists()
    _nan(source)
    patients = {"scan_010": "a", "scan_004": "b"}
    assert prepare(CONFIGS["msd_hippocampus"], source, tmp_path / "data", patients=patients).splits


def test_patients_in_two_parts_of_splits_that_are_there(tmp_path):
    source, path = decathlon(tmp_path / "task"), tmp_path / "data/splits.json"
    before = prepare(CONFIGS["msd_hippocampus"], source, tmp_path / "data").splits
    case, other, beside = before[0]["train"][0], before[0]["val"][0], before[0]["test"][0]
    told = f"{path}: fold 0 has patient 'a' in train and in val, expected one part: mend it, or give --new_splits"
    with pytest.raises(ValueError, match=re.escape(told)):
        prepare(CONFIGS["msd_hippocampus"], source, tmp_path / "data", patients={case: "a", other: "a", beside: "b"})
    assert json.loads(path.read_text(encoding="utf-8")) == before
    kept = prepare(CONFIGS["msd_hippocampus"], source, tmp_path / "data", patients={case: "a", other: "b"}).splits
    assert kept == before
    patients = {case: "a", other: "a"}
    anew = prepare(CONFIGS["msd_hippocampus"], source, tmp_path / "data", patients=patients, new_splits=True).splits
    assert all(sum({case, other} <= set(cases) for cases in split.values()) == 1 for split in anew)


def test_wrong_sources(tmp_path):
    with pytest.raises(FileNotFoundError, match="source .*nowhere' does not exist"):
        prepare(CONFIGS["kits"], tmp_path / "nowhere", tmp_path / "data")
    source = decathlon(tmp_path / "task")
    with pytest.raises(ValueError, match=r"the labels of 'Some task' are .*, expected .*'cancer'\] of Task07_Pancreas"):
        prepare(CONFIGS["msd_pancreas"], source, tmp_path / "data")
    for name in ("kits", "amos_ct"):
        with pytest.raises(ValueError, match="holds no image with a label in the layout"):
            prepare(CONFIGS[name], tmp_path, tmp_path / "data")
    with pytest.raises(ValueError, match="dataset.json: no such file"):
        prepare(CONFIGS["msd_pancreas"], tmp_path, tmp_path / "data")
    for folder in (source, tmp_path):
        with pytest.raises(ValueError, match="output_dir .* holds the source"):
            prepare(CONFIGS["msd_hippocampus"], source, folder)


def test_kits_without_an_image_and_without_a_segmentation(tmp_path):
    source = kits(tmp_path / "kits")
    (source / "case_00002/imaging.nii.gz").unlink()
    (source / "case_00003/segmentation.nii.gz").unlink()
    result = prepare(CONFIGS["kits"], source, tmp_path / "data")
    assert len(result.facts) == 8
    assert "the images are downloaded apart" in result.problems["case_00002"][0]
    assert "no segmentation, expected one of" in result.problems["case_00003"][0]


@pytest.mark.parametrize("size", [2e-5, 0.00065, 0.7031250123])
def test_spacings_have_six_digits(size, tmp_path):
    save(tmp_path / "a.nii", np.arange(504, dtype=np.int16).reshape(9, 8, 7), np.diag([size, size, size, 1]))
    save(tmp_path / "b.nii", np.ones((9, 8, 7), np.uint8), np.diag([size, size, size, 1]))
    facts, _ = examine("a", [str(tmp_path / "a.nii")], str(tmp_path / "b.nii"), 2)
    assert facts.spacing == [float(f"{size:.6g}")] * 3


def test_facts(tmp_path):
    source = decathlon(tmp_path / "task")
    facts = {fact.case: fact for fact in prepare(CONFIGS["msd_hippocampus"], source, tmp_path / "data").facts}
    image = np.asarray(nib.load(source / "imagesTr/scan_002.nii.gz").dataobj)
    label = np.asarray(nib.load(source / "labelsTr/scan_002.nii.gz").dataobj)
    fact = facts["scan_002"]
    assert (fact.shape, fact.spacing, fact.orientation) == ([9, 8, 7], [1.5, 1.5, 3.0], "LPS")
    assert fact.voxels == [int((label == i).sum()) for i in range(3)]
    np.testing.assert_allclose(fact.percentiles[0], np.percentile(image, PERCENTILES), atol=1e-3)
    np.testing.assert_allclose(fact.foreground_percentiles[0], np.percentile(image[label > 0], PERCENTILES), atol=1e-3)
    text = summary(list(facts.values()), ["background", "anterior", "posterior"])
    assert "| spacing of axis 2 (mm) | 3 | 3 | 3 |" in text and "| anterior | 10 of 10 |" in text


@pytest.mark.slow
def test_script(tmp_path, capsys):
    main = runpy.run_path(str(ROOT / "scripts/prepare_data.py"))["main"]
    source = decathlon(tmp_path / "task")
    patients = tmp_path / "patients.csv"
    patients.write_text("case,patient\n" + "".join(f"scan_{i:03d},p{max(i, 1)}\n" for i in range(10)), encoding="utf-8")
    main("msd_hippocampus", str(source), str(tmp_path / "data"), patients=str(patients))
    assert "# 10 good case(s), 0 with problems" in capsys.readouterr().out
    with (tmp_path / "data/fingerprint.csv").open(encoding="utf-8") as file:
        assert [row["case"] for row in csv.DictReader(file)] == [f"scan_{i:03d}" for i in range(10)]
    assert (tmp_path / "data/fingerprint.png").read_bytes()[:4] == b"\x89PNG"
    for split in json.loads((tmp_path / "data/splits.json").read_text(encoding="utf-8")):
        assert sum({"scan_000", "scan_001"} <= set(split[part]) for part in split) == 1
    _nan(source)
    with pytest.raises(SystemExit, match=r"1 case\(s\) have problems and were left out, see .*report.md"):
        main("msd_hippocampus", str(source), str(tmp_path / "data"), new_splits=True)
    assert "NaN" in (tmp_path / "data/report.md").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="dataset is 'kidney', expected one of amos_ct, amos_mri, interactive, kits"):
        main("kidney", str(source), str(tmp_path / "data"))


# --- names


def test_images_that_share_a_name(tmp_path):
    """As hospitals export them: links, dataset.json and splits.json keep them apart."""
    source, pairs = tmp_path / "exports", []
    for number in range(10):
        pair = {"image": f"patient_{number}/ct.nii.gz", "label": f"patient_{number}/truth.nii.gz"}
        save_pair(source / pair["image"], source / pair["label"], 3, number)
        pairs.append(pair)
    labels = {"background": 0, "Anterior": 1, "Posterior": 2}  # as nnU-Net has them
    lists = {"labels": labels, "training": pairs}
    (source / "dataset.json").write_text(json.dumps(lists), encoding="utf-8")
    result = prepare(CONFIGS["msd_hippocampus"], source, tmp_path / "data")
    assert sorted(fact.case for fact in result.facts) == [f"patient_{number}_ct" for number in range(10)]
    items = [item for part in ("training", "validation", "test") for item in load_datalist(tmp_path / "data", part)]
    assert len({Path(item["image"]).resolve() for item in items}) == 10
    for item in items:
        image, label = (Path(item[key]).resolve() for key in ("image", "label"))
        assert image.parent == label.parent and Path(item["image"]).name == f"{image.parent.name}_ct.nii.gz"


def test_no_pair_of_a_list_is_lost(tmp_path):
    source = decathlon(tmp_path / "task")
    dataset = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    lists = {"training": dataset["training"][:6], "validation": dataset["training"][6:]}
    (source / "dataset.json").write_text(json.dumps({**dataset, **lists}), encoding="utf-8")
    assert len(prepare(CONFIGS["msd_hippocampus"], source, tmp_path / "data").facts) == 10


def test_two_scans_of_one_name(tmp_path):
    source = amos(tmp_path / "amos")
    save(source / "imagesTr/amos_0003.nii", np.zeros((9, 8, 7), np.int16))
    with pytest.raises(ValueError, match="amos_0003.nii and .*amos_0003.nii.gz are both case 'amos_0003'"):
        prepare(CONFIGS["amos_ct"], source, tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("labels", [None, ["background"], {"0": 0, "1": "Anterior"}, {"a": [1, 2], "b": 0}, {"a": "b"}])
def test_labels_of_another_form(labels, tmp_path):
    source = decathlon(tmp_path / "task")
    dataset = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    (source / "dataset.json").write_text(json.dumps({**dataset, "labels": labels}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"dataset.json: the labels of 'Some task' are .*, expected \['background'"):
        prepare(CONFIGS["msd_hippocampus"], source, tmp_path / "data")


# --- run again after the source changed


def written(folder):
    """What lies in a folder, but for what the checks remember."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "checked.json"}


@pytest.mark.parametrize("broken", ["damaged", "label gone"])
def test_a_file_that_broke_since(broken, tmp_path, caplog):
    """It is named, and leaves the splits, of which the earlier ones are kept."""
    source, folder = kits(tmp_path / "source"), tmp_path / "out"
    prepare(CONFIGS["kits"], source, folder)
    before = json.loads((folder / "splits.json").read_text(encoding="utf-8"))
    case = before[0]["train"][0]
    if broken == "damaged":
        (source / case / "imaging.nii.gz").write_bytes(b"cut")
    else:
        (source / case / "segmentation.nii.gz").unlink()
    result = prepare(CONFIGS["kits"], source, folder)
    assert list(result.problems) == [case]
    after = json.loads((folder / "splits.json").read_text(encoding="utf-8"))
    expected = [{part: [name for name in split[part] if name != case] for part in split} for split in before]
    assert after == result.splits == expected
    (kept,) = folder.glob("splits_*.json")
    assert json.loads(kept.read_text(encoding="utf-8")) == before
    assert f"splits.json: {case} have problems and are left out; what it was is kept as {kept}" in caplog.text
    assert {case_name for part in ("training", "validation", "test") for case_name in cases(folder, part)} == {
        name for part in after[0].values() for name in part
    }
    prepare(CONFIGS["kits"], source, folder)
    assert len(list(folder.glob("splits_*.json"))) == 1


@pytest.mark.parametrize("splits", [[{"train": ["case_00000"], "val": ["nobody"]}], {"train": []}, "broken"])
def test_splits_that_do_not_fit_change_nothing(splits, tmp_path):
    source, folder = kits(tmp_path / "source"), tmp_path / "out"
    prepare(CONFIGS["kits"], source, folder)
    text = splits if splits == "broken" else json.dumps(splits)
    (folder / "splits.json").write_text(text, encoding="utf-8")
    (source / "case_00003/imaging.nii.gz").write_bytes(b"cut")
    before = written(folder)
    with pytest.raises(ValueError, match=re.escape(f"{folder / 'splits.json'}: ")):
        prepare(CONFIGS["kits"], source, folder)
    assert written(folder) == before


def cases(folder, part):
    return [item["image"].rsplit("/", 1)[1].removesuffix(".nii.gz") for item in load_datalist(folder, part)]


def test_a_bundle_for_data_of_any_kind_has_nothing_to_prepare(tmp_path):
    (tmp_path / "source").mkdir()
    with pytest.raises(ValueError, match="Rep3D interactive segmentation has no download to prepare"):
        prepare(CONFIGS["interactive"], tmp_path / "source", tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


# --- what is remembered of a pair


def pair(folder):
    save_pair(folder / "a.nii", folder / "label.nii", 2, 0)
    return Scan("a", [folder / "a.nii"], folder / "label.nii")


def voxels_of(scan, folder, classes=3):
    facts, problems = check_pairs([scan], classes, folder / "checked.json")
    assert not problems
    return facts[0].voxels


@pytest.mark.parametrize("shape, later", [((9, 8, 7), 1), ((9, 8, 6), 0)], ids=["of its size", "of its time"])
def test_another_file_is_checked_again(shape, later, tmp_path):
    scan = pair(tmp_path)
    before, stats = voxels_of(scan, tmp_path), [path.stat() for path in (*scan.images, scan.label)]
    save(scan.images[0], np.zeros(shape, np.int16))
    save(scan.label, np.full(shape, 2, np.uint8))
    for path, stat in zip((*scan.images, scan.label), stats, strict=True):
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + later))
    assert voxels_of(scan, tmp_path) == [0, 0, np.prod(shape)] != before


def test_a_label_of_its_own_time_is_checked_again(tmp_path):
    scan = pair(tmp_path)
    before = voxels_of(scan, tmp_path)
    stat = scan.label.stat()
    save(scan.label, np.full((9, 8, 7), 2, np.uint8))
    os.utime(scan.label, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert voxels_of(scan, tmp_path) == [0, 0, 504] != before


def test_an_image_of_another_folder_is_checked(tmp_path):
    scan = pair(tmp_path)
    facts = check_pairs([scan], 3, tmp_path / "checked.json")[0]
    other = scan._replace(images=[tmp_path / "other/a.nii"])
    stat = scan.images[0].stat()
    save(other.images[0], np.zeros((9, 8, 7), np.int16))
    os.utime(other.images[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert check_pairs([other], 3, tmp_path / "checked.json")[0][0].digest != facts[0].digest


def test_a_label_of_another_name_is_checked(tmp_path):
    """Of equal size and time, as where the list names other labels by now."""
    scan = pair(tmp_path)
    before = voxels_of(scan, tmp_path)
    other = tmp_path / "other.nii"
    save(other, np.full((9, 8, 7), 2, np.uint8))
    stat = scan.label.stat()
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert other.stat().st_size == stat.st_size
    assert voxels_of(scan._replace(label=other), tmp_path) == [0, 0, 504] != before


def test_a_problem_that_has_passed(tmp_path, monkeypatch):
    """Such as of a disk, or of rights: the file's size and time are as before."""
    scan, check = pair(tmp_path), preparation.check_pair

    def refuse(*_):
        raise VolumeError(str(scan.images[0]), "cannot be opened (Permission denied)")

    monkeypatch.setattr(preparation, "check_pair", refuse)
    facts, problems = check_pairs([scan], 3, tmp_path / "checked.json")
    assert not facts and "Permission denied" in problems["a"][0]
    monkeypatch.setattr(preparation, "check_pair", check)
    assert len(voxels_of(scan, tmp_path)) == 3
    monkeypatch.setattr(preparation, "check_pair", refuse)
    assert len(voxels_of(scan, tmp_path)) == 3  # which is remembered


def test_other_classes_are_checked_again(tmp_path):
    scan = pair(tmp_path)
    assert len(voxels_of(scan, tmp_path, classes=3)) == 3
    assert len(voxels_of(scan, tmp_path, classes=2)) == 2
    _, problems = check_pairs([scan], 1, tmp_path / "checked.json")
    assert "expected whole numbers from 0 to 0" in problems["a"][0]


def test_other_ignored_voxels_are_checked_again(tmp_path):
    scan = pair(tmp_path)
    save(scan.label, np.arange(504, dtype=np.uint8).reshape(9, 8, 7) % 3)
    facts = [check_pairs([scan], 3, tmp_path / "checked.json", None, ignored)[0][0] for ignored in (None, 2)]
    assert facts[0] != facts[1]


# --- what is found in a download


def test_amos_without_a_label(tmp_path):
    """The images of imagesVa and imagesTs need none."""
    source = amos(tmp_path / "amos")
    for label in ("labelsTr/amos_0003.nii.gz", "labelsVa/amos_0011.nii.gz"):
        (source / label).unlink()
    save(source / "imagesTr/unnumbered.nii.gz", np.zeros((4, 4, 4), np.int16))
    scans, problems = find_scans(source, CONFIGS["amos_ct"]["data"])
    assert problems.keys() == {"amos_0003", "unnumbered"}
    assert "no label of this name in" in problems["amos_0003"][0]
    assert "no number in the name" in problems["unnumbered"][0]
    assert [scan.case for scan in scans if scan.label is None] == ["amos_0003", "amos_0011", "amos_0012"]


def test_kits_prefers_the_newer_segmentation(tmp_path):
    source = kits(tmp_path / "kits")
    kits(source, "aggregated_MAJ_seg.nii.gz")
    (source / "case_00001_old").mkdir()
    scans, problems = find_scans(source, CONFIGS["kits"]["data"])
    assert not problems
    assert [scan.case for scan in scans] == [f"case_{number:05d}" for number in range(10)]
    assert {scan.label.name for scan in scans} == {"segmentation.nii.gz"}


def test_more_than_ten_labels_go_by_their_numbers(tmp_path):
    names = [f"organ {number}" for number in range(12)]
    source = decathlon(tmp_path / "task", names)
    dataset = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    dataset["labels"] = dict(sorted(dataset["labels"].items()))  # "0", "1", "10", "11", "2", ...
    (source / "dataset.json").write_text(json.dumps(dataset), encoding="utf-8")
    scans, _ = find_scans(source, {"layout": "decathlon", "task": "Task", "task_labels": names})
    assert len(scans) == 11


def test_numbers_of_cases(tmp_path):
    prepare(CONFIGS["amos_ct"], amos(tmp_path / "amos"), tmp_path / "data")
    dataset = json.loads((tmp_path / "data/dataset.json").read_text(encoding="utf-8"))
    assert (dataset["numTraining"], dataset["numTest"]) == (len(dataset["training"]), len(dataset["test"])) == (10, 2)


@pytest.mark.parametrize("kind", ["type", "orientation", "channel"])
def test_copies_that_are_stored_otherwise_are_the_same_image(kind, tmp_path):
    """As a training sees it, which refuses a fold that both trains on it and validates with it."""
    voxels = np.random.default_rng(0).integers(0, 900, (9, 8, 7)).astype(np.int16)
    affine, label = np.eye(4), np.ones((9, 8, 7), np.uint8)
    if kind == "type":
        copy, turned, map_of_copy = voxels.astype(np.float32), affine, label
    elif kind == "orientation":
        copy, turned, map_of_copy = voxels[::-1], np.diag([-1.0, 1.0, 1.0, 1.0]), label
        turned[0, 3] = 8.0
    else:
        voxels = np.stack([voxels, voxels + 1], axis=-1)
        copy, turned, map_of_copy = voxels + np.array([0, 7], np.int16), affine, label
    for name, image, place, mask in (("a", voxels, affine, label), ("b", copy, turned, map_of_copy)):
        save(tmp_path / f"{name}.nii", image, place)
        save(tmp_path / f"{name}_seg.nii", mask, place)
    scans = [Scan(name, [tmp_path / f"{name}.nii"], tmp_path / f"{name}_seg.nii") for name in "ab"]
    facts, problems = check_pairs(scans, 2, tmp_path / "checked.json", None)
    assert [fact.case for fact in facts] == ["a"] and problems == {"b": ["b: the same voxels as a"]}
