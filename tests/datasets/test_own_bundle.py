"""`rep3d new`: from a folder of scans and labels to a bundle that trains."""

import json
import math
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import monai
import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_helpers import EVALUATE, INFERENCE, TRAIN, run, small_network
from monai.bundle import ConfigParser

from rep3d import installed
from rep3d.commands import creating, main
from rep3d.data.lists import load_datalist
from rep3d.datasets import own_bundle, own_cases, own_changes, own_data, own_splits
from rep3d.datasets.machine import Machine
from rep3d.datasets.own_bundle import new_bundle, report
from rep3d.datasets.own_changes import write_options
from rep3d.datasets.own_places import made_for, outdated
from rep3d.files import read_json, write_json
from rep3d.io.nifti import read_volume, write_marked
from rep3d.locks import lock_file
from rep3d.shipped import settings_beside
from rep3d.training.checkpoints import load_deployed

LAPTOP = Machine(16e9, False, "a laptop", 16e9)
AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])


@pytest.fixture(autouse=True)
def quick_fingerprint(monkeypatch, request):
    """Pictures take a second each; one test looks at them."""
    if request.node.name != "test_what_is_made":
        monkeypatch.setattr(own_bundle, "write_fingerprint", lambda *_: None)


def save(path, voxels, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)


def make_source(folder, count=6, ids=(1, 2), shape=(20, 18, 12)):
    """Images and labels in two folders; every id is a slab, brighter than the one before."""
    for number in range(count):
        label = np.zeros(shape, np.uint8)
        for place, i in enumerate(ids):
            label[4 + 4 * place : 8 + 4 * place, 5:15, 3:9] = i
        noise = np.random.default_rng(number).normal(0, 5, shape)
        save(folder / f"images/case{number}.nii.gz", (100 + 20.0 * label + noise).astype(np.float32))
        save(folder / f"labels/case{number}.nii.gz", label)
    return folder


def make(tmp_path, source=None, name="mine", **told):
    source = source or make_source(tmp_path / "source")
    return new_bundle(name, source, tmp_path / "bundles", root=installed.root(), machine=LAPTOP, **told)


def dataset_file(made):
    return made.folder / f"{made.folder.name}.json"


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_what_is_made(tmp_path):
    source = make_source(tmp_path / "source")
    before = {path: path.stat().st_mtime_ns for path in source.rglob("*")}
    made = make(tmp_path, source, label_names=["bone", "marrow"])
    assert {path: path.stat().st_mtime_ns for path in source.rglob("*")} == before
    assert {path.name for path in made.folder.iterdir()} == {"mine.json", "configs", "docs", "data", "LICENSE"}
    assert len(dataset_file(made).read_text().split()) < 120
    parts = {part: load_datalist(made.folder / "data", part, 4) for part in ("training", "validation")}
    images = [item["image"] for items in parts.values() for item in items]
    assert sorted(images) == sorted(map(str, source.glob("images/*")))
    assert {len(load_datalist(made.folder / "data", "validation", fold)) for fold in range(5)} == {1, 2}
    text = report(made)
    for said in (
        "6 case(s): the folders images and labels",
        "labels: 0 background, 1 bone, 2 marrow",
        "orientation RAS: all are turned to it; they are LPS (6)",
        "spacing 1.00 x 1.00 x 2.00 mm: median of 6 case(s)",
        "patch size 32x32x32: the median image has 20x18x12 voxels then",
    ):
        assert said in text, text
    assert text in (made.folder / "data/report.md").read_text()
    assert (made.folder / "data/fingerprint.png").is_file() and (made.folder / "data/fingerprint.csv").is_file()
    readme = (made.folder / "docs/README.md").read_text()
    assert "5 folds, each of 5 training and 1 validation cases; there are no test cases." in readme
    assert "Segmentation of bone, marrow in MR" in readme and "clipped at percentiles 0.05 and 99.95" in readme
    assert "rep3d new" in readme and "prepare" not in readme and str(tmp_path) not in readme


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
def test_it_trains_scores_and_segments(count, tmp_path):
    """One case, too, which nothing validates."""
    made = make(tmp_path, make_source(tmp_path / "source", count))
    data, out = made.folder / "data", tmp_path / "out"
    told = {"steps_per_epoch": 2} | ({"val_interval": 0} if count == 1 else {})
    run(made.folder, TRAIN, data, out, **told)
    assert (out / "models/model.pt").is_file()
    if count > 1:
        run(made.folder, EVALUATE, data, out)
        assert "label 2" in (out / "eval/summary.md").read_text()
    run(made.folder, INFERENCE, tmp_path / "source/images", out)
    assert len(list((out / "eval").glob("*_seg.nii.gz"))) == count


def test_a_ct_keeps_its_units(tmp_path):
    source = make_source(tmp_path / "source", 2)
    for path in source.glob("images/*"):
        image = nib.load(path)
        voxels = image.get_fdata()
        voxels[:, :4] = -1000
        save(path, voxels.astype(np.int16), image.affine)
    made = make(tmp_path, source)
    low, high = json.loads(dataset_file(made).read_text())["common"]["intensity_window"]
    assert 100 < low < 125 and 140 < high < 165
    assert json.loads((made.folder / "configs/train.json").read_text())["intensity_window"] == [low, high]


def test_what_a_person_changed_stays(tmp_path):
    made = make(tmp_path)
    change(dataset_file(made), lambda content: content["common"].update(spacing=[2.0, 2.0, 2.0]))
    change(dataset_file(made), lambda content: content["train"].update(seed=7))
    again = make(tmp_path, tmp_path / "source", label_names=["bone", "marrow"])
    assert again.kept == {"common.spacing": [2.0, 2.0, 2.0], "train.seed": 7}
    assert "train.seed is 7, yours, from mine.json" in report(again)
    assert "spacing 2.00 x 2.00 x 2.00 mm: yours; the data say" in report(again)
    content = json.loads(dataset_file(made).read_text())
    assert content["common"]["spacing"] == [2.0, 2.0, 2.0]
    assert content["common"]["label_names"] == ["background", "bone", "marrow"]
    train = json.loads((made.folder / "configs/train.json").read_text())
    assert train["spacing"] == [2.0, 2.0, 2.0] and train["seed"] == 7
    assert set(make(tmp_path, tmp_path / "source").kept) == {"common.spacing", "train.seed"}


def test_keys_that_a_person_took_out_of_the_file(tmp_path):
    """They are decided anew, which is said; null stays."""
    source, regions = make_source(tmp_path / "source", 3), ["regions", "regions_class_order"]
    pairs = [{"image": f"images/case{i}.nii.gz", "label": f"labels/case{i}.nii.gz"} for i in range(3)]
    told = {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2], "training": pairs}
    (source / "dataset.json").write_text(json.dumps(told))
    made, keys = make(tmp_path, source), [f"common.{key}" for key in regions]
    before = dataset_file(made).read_text()
    assert made.removed == []
    change(dataset_file(made), lambda content: [content["common"].pop(key) for key in regions])
    again = make(tmp_path, source)
    assert again.removed == keys and not again.kept and dataset_file(made).read_text() == before
    assert "common.regions was removed from mine.json, and is decided anew: write null there to do" in report(again)
    change(dataset_file(made), lambda content: content["common"].update(dict.fromkeys(regions)))
    again = make(tmp_path, source)
    assert again.removed == [] and list(again.kept) == keys
    assert read_json(made.folder / "configs/train.json")["regions"] is None
    change(dataset_file(made), lambda content: content.pop("train"))
    assert make(tmp_path, source).removed == ["train"]


def test_a_window_in_place_of_the_z_score(tmp_path):
    """That of a person, for images without units."""
    made = make(tmp_path)
    change(dataset_file(made), lambda content: content["common"].update(intensity_window=[90, 140]))
    make(tmp_path)
    assert "window 90 to 140 to 0-1" in (made.folder / "docs/README.md").read_text()
    parser = ConfigParser({**read_json(made.folder / "configs/inference.json"), "bundle_root": str(made.folder)})
    scan = load_datalist(made.folder / "data", "training")[0]["image"]
    image = parser.get_parsed_content("preprocessing")({"image": scan})["image"]
    assert image.min() == 0 and image.max() == 1


@pytest.mark.parametrize("window", [[140, 90], [90, 90], [90, "140"], [[90, 140], None]])
def test_a_window_that_is_none(window, tmp_path):
    made = make(tmp_path)
    change(dataset_file(made), lambda content: content["common"].update(intensity_window=window))
    with pytest.raises(ValueError, match="mine.json: intensity_window is .*, expected "):
        make(tmp_path, tmp_path / "source")


def test_the_patch_is_of_the_spacing_that_a_person_wants(tmp_path):
    made = make(tmp_path)
    fine = [spacing / 4 for spacing in made.plan.spacing]
    change(dataset_file(made), lambda content: content["common"].update(spacing=fine))
    for _ in range(2):
        again = make(tmp_path, tmp_path / "source")
        assert list(again.kept) == ["common.spacing"]
        assert math.prod(again.plan.patch_size) > math.prod(made.plan.patch_size)
        common = json.loads(dataset_file(made).read_text())["common"]
        assert common["spacing"] == fine and common["patch_size"] == list(again.plan.patch_size)
    change(dataset_file(made), lambda content: content["common"].update(spacing=[1, 0, 2]))
    with pytest.raises(ValueError, match=r"mine.json: spacing is \[1, 0, 2\], expected three numbers above 0, in mm"):
        make(tmp_path, tmp_path / "source")


@pytest.mark.slow
def test_folds_of_a_person(tmp_path):
    made = make(tmp_path)
    for folds, said in ((3, "3 folds: yours; the number of patients says 5"), (1, "no validation: yours; the number")):
        change(dataset_file(made), lambda content, folds=folds: content["data"].update(folds=folds))
        for _ in range(2):
            again = make(tmp_path, tmp_path / "source")
            text, splits = report(again), json.loads((made.folder / "data/splits.json").read_text())
            assert (
                list(again.kept) == ["data.folds"] and said in text and "5 folds" not in text and len(splits) == folds
            )
        sizes = {part: len(splits[0][key]) for part, key in (("training", "train"), ("validation", "val"))}
        assert read_json(dataset_file(made))["data"]["split"] == sizes | {"test": 0}
        assert validates(again) == (folds > 1)
        told = f"{sizes['training']} training and {sizes['validation']} validation cases; there are no test cases"
        readme = (made.folder / "docs/README.md").read_text()
        assert told in readme and ("3 folds, each of" in readme) == ("`--fold 1` (to 2)" in readme) == (folds == 3)


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("data", "folds", 7, "folds is 7, expected a whole number from 1 to 6, the number of patients"),
        ("data", "folds", 2.5, "folds is 2.5, expected a whole number from 1 to 6, the number of patients"),
        ("data", "folds", 0, "folds is 0, expected a whole number from 1 to 6, the number of patients"),
        ("data", "folds", None, "folds is null, expected a whole number from 1 to 6, the number of patients"),
        ("data", "folds", True, "folds is true, expected a whole number from 1 to 6, the number of patients"),
        (
            *("data", "split", {"training": 4, "validation": 2, "test": 0}),
            'split is {"training": 4, "validation": 2, "test": 0}, expected {"training": 5, "validation": 1, "test": 0}'
            ": who trains and who validates stands in data/splits.json, which is yours to edit",
        ),
        ("data", "channel", "T1w", 'channel is "T1w", expected "image": `rep3d new` with --channel decides anew'),
        ("data", "layout", "AMOS", 'layout is "AMOS", expected "own"'),
        ("metadata", "modality", "CT", 'modality is "CT", expected "MR": intensities go by it; `rep3d new` with --mod'),
        ("metadata", "modality", None, 'modality is null, expected "MR"'),
    ],
)
def test_changes_that_would_be_of_no_effect(section, key, value, said, tmp_path):
    made = make(tmp_path)
    change(dataset_file(made), lambda content: content[section].update({key: value}))
    with pytest.raises(ValueError, match=f"mine.json: {re.escape(said)}"):
        make(tmp_path, tmp_path / "source")


def test_folds_are_those_of_a_split_of_a_person(tmp_path):
    made = make(tmp_path)
    own = [{"train": ["case0", "case1"], "val": ["case2"]}] * 2
    (made.folder / "data/splits.json").write_text(json.dumps(own))
    change(dataset_file(made), lambda content: content["data"].update(folds=3))
    with pytest.raises(ValueError, match="mine.json: folds is 3, expected 2, as data/splits.json has, which is yours"):
        make(tmp_path, tmp_path / "source")
    change(dataset_file(made), lambda content: content["data"].update(folds=2))
    assert "2 fold(s): yours, from data/splits.json" in report(make(tmp_path, tmp_path / "source"))


def test_a_modality_in_other_words(tmp_path):
    """Which has no units either; and the one that is typed may stand in the file."""
    made = make(tmp_path, make_source(tmp_path / "source", 2))
    change(dataset_file(made), lambda content: content["metadata"].update(modality="PET"))
    assert make(tmp_path, tmp_path / "source").kept == {"metadata.modality": "PET"}
    assert (
        read_json(made.folder / "configs/metadata.json")["network_data_format"]["inputs"]["image"]["modality"] == "PET"
    )
    change(dataset_file(made), lambda content: content["metadata"].update(modality="CT"))
    assert make(tmp_path, tmp_path / "source", modality="CT").plan.modality == "CT"


def test_a_folder_for_each_patient(tmp_path):
    """As BIDS has them: two sessions of one patient, two runs of another, and one without a label."""
    make_source(tmp_path / "flat", 6)
    files = [f"sub-{i}/ses-a/anat/sub-{i}_ses-a" for i in (1, 2)] + ["sub-1/ses-b/anat/sub-1_ses-b"]
    files += [f"sub-3/anat/sub-3_run-{i}" for i in (1, 2)] + ["sub-4/anat/sub-4"]
    for number, file in enumerate(files):
        for kind, place in (("images", f"{file}_T2w.nii.gz"), ("labels", f"derivatives/truth/{file}_dseg.nii.gz")):
            (tmp_path / "source" / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(tmp_path / f"flat/{kind}/case{number}.nii.gz", tmp_path / "source" / place)
    (tmp_path / "source/derivatives/truth/sub-4/anat/sub-4_dseg.nii.gz").unlink()
    shutil.copy(
        tmp_path / "source/sub-2/ses-a/anat/sub-2_ses-a_T2w.nii.gz", tmp_path / "source/sub-4/anat/sub-4_PD.nii"
    )
    made = make(tmp_path, tmp_path / "source")
    assert made.cases == 5 and not made.problems and made.channel_names == ("T2w",)
    assert "1 image(s) have no label and train nothing, such as sub-4" in made.notes
    items = {item["case"]: item for item in read_json(made.folder / "data/dataset.json")["training"]}
    names = [*("sub-1_ses-a", "sub-1_ses-b", "sub-2_ses-a", "sub-3_run-1", "sub-3_run-2")]
    assert sorted(items) == names
    for name, item in items.items():
        assert os.path.basename(item["image"]) == f"{name}_T2w.nii.gz"
        assert os.path.basename(item["label"]) == f"{name}_dseg.nii.gz"
    splits = json.loads((made.folder / "data/splits.json").read_text())
    assert sorted(split["val"] for split in splits) == [names[:2], names[2:3], names[3:]]
    assert load_datalist(made.folder / "data", "validation")


def test_monai_loads_what_was_trained_in_the_folder(tmp_path):
    """As the docs have it."""
    made = make(tmp_path)
    weights = made.folder / "models/trained/model.pt"
    weights.parent.mkdir(parents=True)
    torch.save(small_network(made.folder, {}).state_dict(), weights)
    loaded = monai.bundle.load(
        "mine", bundle_dir=str(made.folder.parent), model_file="models/trained/model.pt", workflow_type="inference"
    )
    x = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        expected = load_deployed(small_network(made.folder, {}), weights)(x)
        torch.testing.assert_close(loaded.eval()(x), expected, rtol=1e-4, atol=1e-4)


def put_weights(bundle, path, told=None):
    """A checkpoint that nobody reads here, and what its training was told."""
    (bundle / path).parent.mkdir(parents=True, exist_ok=True)
    (bundle / path).touch()
    if told is not None:
        settings_beside(bundle / path).write_text(json.dumps(told))


def read_settings(bundle, path):
    return json.loads(settings_beside(bundle / path).read_text())


def test_weights_segment_as_they_were_trained(tmp_path):
    """Whatever `new` makes of their bundle later: what earlier versions left beside them is completed before."""
    made = make(tmp_path)
    before = json.loads((made.folder / "configs/inference.json").read_text())
    places = ["models/trained/model.pt", "models/trained/fold1/last.pt", "models/trained/model_20260101-101010.pt"]
    put_weights(made.folder, places[0])
    put_weights(made.folder, places[1], {"patch_size": [48, 48, 48]})
    put_weights(made.folder, places[2])
    change(dataset_file(made), lambda content: content["common"].update(spacing=[2.0, 2.0, 2.0]))
    again = make(tmp_path, tmp_path / "source", label_names=["bone", "marrow"])
    assert json.loads((made.folder / "configs/inference.json").read_text())["spacing"] == [2.0, 2.0, 2.0]
    for place in places:
        told = read_settings(made.folder, place)
        names = {"spacing", "label_names", "network_def", "preprocessing"}
        assert {name: told[name] for name in names} == {name: before[name] for name in names}
    assert read_settings(made.folder, places[1])["patch_size"] == [48, 48, 48]
    told = "models/trained/model.pt was trained with other label_names, spacing, and goes on to segment with those"
    assert [note for note in again.notes if "was trained" in note] == [f"{told}; train anew for what stands here"]
    times = [settings_beside(made.folder / place).stat().st_mtime_ns for place in places]
    make(tmp_path, tmp_path / "source")
    assert [settings_beside(made.folder / place).stat().st_mtime_ns for place in places] == times


@pytest.mark.parametrize("place", ["models/trained/fold1", "eval/tensorboard", "eval/fold1/tensorboard"])
def test_a_bundle_that_trains_is_left_as_it_is(place, tmp_path):
    """Its training reads the data all along, also one whose weights go elsewhere."""
    made = make(tmp_path)
    folder = made.folder / place
    folder.mkdir(parents=True)
    hold = "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(flush=True); input()"
    command = [sys.executable, "-c", hold, lock_file(folder, "training")]
    before = (made.folder / "data/dataset.json").read_bytes()
    make_source(tmp_path / "source", 3, ids=(2, 7))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as training:
        training.stdout.readline()
        with pytest.raises(
            ValueError, match=f"mine is not made anew while it trains: another training works on .*{place}"
        ):
            make(tmp_path, tmp_path / "source")
        training.communicate(b"\n")
    assert (made.folder / "data/dataset.json").read_bytes() == before
    assert make(tmp_path, tmp_path / "source").labels.have_holes


def test_splits_of_a_person_stay(tmp_path):
    path = make(tmp_path).folder / "data/splits.json"
    own = [{"train": ["case0", "case1"], "val": ["case2"]}]
    path.write_text(json.dumps(own))
    assert "data/splits.json is yours, and stays" in make(tmp_path, tmp_path / "source").notes
    assert json.loads(path.read_text()) == own
    for name in ("images", "labels"):
        (tmp_path / f"source/{name}/case2.nii.gz").unlink()
    with pytest.raises(ValueError, match="splits.json: fold 0 names 'case2' in val, but there is no such case"):
        make(tmp_path, tmp_path / "source")


def test_what_a_split_of_a_person_holds_out_validates(tmp_path):
    """Also where all cases are of one patient, and nothing validates by itself; and nothing does where it says so."""
    source, cases = make_source(tmp_path / "source", 4), [f"case{i}" for i in range(4)]
    pairs = [{"image": f"images/{case}.nii.gz", "label": f"labels/{case}.nii.gz", "patient": "p"} for case in cases]
    (source / "dataset.json").write_text(json.dumps({"training": pairs}))
    made = make(tmp_path, source)
    assert "no validation: there is 1 patient" in report(made) and not validates(made)
    path = made.folder / "data/splits.json"
    path.write_text(json.dumps([{"train": cases[:3], "val": cases[3:]}]))
    made = make(tmp_path, source)
    assert validates(made) and "1 fold(s): yours, from data/splits.json" in report(made)
    assert "3 training and 1 validation cases; there are no test cases" in (made.folder / "docs/README.md").read_text()
    path.write_text(json.dumps([{"train": cases[:3], "val": []}]))
    made = make(tmp_path, source)
    assert not validates(made) and "no validation: data/splits.json is yours, and holds no case out" in report(made)


def test_a_person_may_hold_nothing_out(tmp_path):
    made = make(tmp_path)
    assert validates(made)
    (made.folder / "data/splits.json").write_text(json.dumps([{"train": ["case0", "case1"], "val": []}]))
    assert not validates(make(tmp_path, tmp_path / "source"))


def validates(made):
    """Whether a training of the bundle does."""
    parser = ConfigParser()
    parser.read_config(made.folder / "configs/train.json")
    return parser["val_interval"] > 0 and parser["validate#dataset#data"] != []


def test_a_split_of_the_source_is_not_dropped_without_a_word(tmp_path):
    source = make_source(tmp_path / "source", 3)
    (source / "splits_final.json").write_text(json.dumps([{"train": ["case0", "case1"], "val": ["case2"]}]))
    made = make(tmp_path, source)
    told = f"the source's own split is not used, {source / 'splits_final.json'}: cases that it holds out train here"
    assert told in report(made)
    shutil.copy(source / "splits_final.json", made.folder / "data/splits.json")
    assert told not in report(make(tmp_path, source))
    assert load_datalist(made.folder / "data", "validation")[0]["image"] == str(source / "images/case2.nii.gz")


@pytest.mark.slow
@pytest.mark.parametrize("writes", range(10))
def test_what_was_decided_is_nobodys_change_after_a_kill(writes, tmp_path, monkeypatch):
    """Wherever `new` was stopped, twice, and whatever it would decide by now; what a person changed is theirs."""
    made = make(tmp_path)
    change(dataset_file(made), lambda content: content["train"].update(seed=7))
    for count, names in ((7, ["bone", "marrow"]), (8, ["bone", "nerve"])):
        make_source(tmp_path / "source", count)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            one_after_another = until(writes)
            patch.setattr(own_changes, "write_json", one_after_another)
            for module in (own_data, own_splits):
                patch.setattr(module, "write_json", one_after_another)
            patch.setattr(own_bundle, "write_text", until(0))
            make(tmp_path, tmp_path / "source", label_names=names)
    made = make(tmp_path, tmp_path / "source", label_names=["bone", "tendon"])
    assert list(made.kept) == ["train.seed"] and not any("is yours" in note for note in made.notes)
    content = json.loads(dataset_file(made).read_text())
    assert content["common"]["label_names"] == ["background", "bone", "tendon"] and content["train"]["seed"] == 7
    folds = json.loads((made.folder / "data/splits.json").read_text())
    assert sorted(sum((fold["val"] for fold in folds), [])) == [f"case{number}" for number in range(8)]
    change(dataset_file(made), lambda content: content["common"].update(label_names=["background", "bone", "nerve"]))
    assert list(make(tmp_path, tmp_path / "source").kept) == ["common.label_names", "train.seed"]


def until(count):
    """Writes that many files; then the process is killed."""
    left = iter(range(count))

    def write(path, content):
        if next(left, None) is None:
            raise KeyboardInterrupt
        write_json(path, content)

    return write


def test_a_typing_mistake_in_the_file_is_named(tmp_path):
    made = make(tmp_path)
    change(dataset_file(made), lambda content: content["train"].update(epoch=3))
    with pytest.raises(ValueError, match="mine.json: nothing uses the key 'epoch', did you mean 'epochs'"):
        make(tmp_path, tmp_path / "source")


@pytest.mark.parametrize("name", ["mine.json", "data/splits.json"])
def test_a_file_that_is_no_json_is_named(name, tmp_path):
    path = make(tmp_path).folder / name
    path.write_text(path.read_text().rstrip()[:-1])
    with pytest.raises(ValueError, match=f"{name}: no valid JSON"):
        make(tmp_path, tmp_path / "source")


def test_ids_with_holes(tmp_path):
    made = make(tmp_path, make_source(tmp_path / "source", 3, ids=(2, 7)))
    assert made.labels.names == ["background", "label 2", "label 7"]
    assert any("2 becomes 1, 7 becomes 2" in note for note in made.notes)
    for item in load_datalist(made.folder / "data", "training"):
        label, image = nib.load(item["label"]), nib.load(item["image"])
        assert np.unique(label.dataobj).tolist() == [0, 1, 2] and np.allclose(label.affine, image.affine)
        original = np.asarray(nib.load(tmp_path / "source/labels" / os.path.basename(item["image"])).dataobj)
        assert np.array_equal(np.asarray(label.dataobj) == 2, original == 7)
    assert np.unique(nib.load(tmp_path / "source/labels/case0.nii.gz").dataobj).tolist() == [0, 2, 7]


def test_copies_of_label_maps_follow_their_source(tmp_path):
    source = make_source(tmp_path / "source", 3, ids=(2, 7))
    made = make(tmp_path, source)
    data = made.folder / "data"
    assert {path.name for path in (data / "labels").iterdir()} == {f"case{i}.nii.gz" for i in range(3)}
    label = nib.load(source / "labels/case1.nii.gz")
    save(source / "labels/case1.nii.gz", np.asarray(label.dataobj)[::-1].copy())
    with pytest.raises(
        ValueError, match="label was made of .*labels/case1.nii.gz, which has changed since: run `rep3d"
    ):
        load_datalist(data, "training")
    (source / "labels/case2.nii.gz").unlink()
    (source / "images/case2.nii.gz").unlink()
    make(tmp_path, source)
    assert {path.name for path in (data / "labels").iterdir()} == {"case0.nii.gz", "case1.nii.gz"}
    copy = np.asarray(nib.load(data / "labels/case1.nii.gz").dataobj)
    assert np.array_equal(copy == 2, np.asarray(nib.load(source / "labels/case1.nii.gz").dataobj) == 7)
    make_source(source, 3)
    make(tmp_path, source)
    assert not list((data / "labels").iterdir()) and len(load_datalist(data, "training")) == 2


def test_copies_of_two_numberings_train_nothing(tmp_path, monkeypatch):
    """A command that ends while it writes copies leaves no data set behind."""
    source = make_source(tmp_path / "source", 3, ids=(2, 4))
    data, renumbered = make(tmp_path, source).folder / "data", own_data.renumbered
    make_source(tmp_path / "new", 4, ids=(1,))
    for name in ("images", "labels"):
        shutil.copy(tmp_path / f"new/{name}/case3.nii.gz", source / name)

    def until_the_second(voxels, geometry, new_ids, folder, case):
        if case == "case1":
            raise KeyboardInterrupt
        return renumbered(voxels, geometry, new_ids, folder, case)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(own_data, "renumbered", until_the_second)
        make(tmp_path, source)
    copies = [np.unique(nib.load(data / f"labels/case{i}.nii.gz").dataobj).tolist() for i in range(2)]
    assert copies == [[0, 2, 3], [0, 1, 2]]
    with pytest.raises(FileNotFoundError, match="data' holds no data set: expected a dataset.json"):
        load_datalist(data, "training")
    make(tmp_path, source)
    assert len(load_datalist(data, "training")) == 3


def test_what_is_refused_changes_no_data(tmp_path):
    source = make_source(tmp_path / "source", 3, ids=(2, 7))
    made = make(tmp_path, source)
    before = {
        path: path.read_bytes() for path in (made.folder / "data").rglob("*.*") if path.suffix in (".gz", ".json")
    }
    change(dataset_file(made), lambda content: content["train"].update(epoch=3))
    make_source(source, 3, ids=(3, 7))
    with pytest.raises(ValueError, match="nothing uses the key 'epoch'"):
        make(tmp_path, source)
    names = ("dataset.json", "splits.json", "case0.nii.gz")
    assert all(path.read_bytes() == content for path, content in before.items() if path.name in names)


def test_names_of_a_person_fit_the_ids(tmp_path):
    """Names that were given to other ids are not taken for these."""
    source = make_source(tmp_path / "source", 3, ids=(1, 2))
    made = make(tmp_path, source)
    change(dataset_file(made), lambda content: content["common"].update(label_names=["background", "bone", "bone"]))
    with pytest.raises(ValueError, match="mine.json: label_names has 'bone' for 2 ids, expected a name for each; ids"):
        make(tmp_path, source)
    names = ["background", "bone", "marrow"]
    change(dataset_file(made), lambda content: content["common"].update(label_names=names))
    make(tmp_path, source)
    assert list(json.loads((made.folder / "data/dataset.json").read_text())["labels"].values()) == names
    make_source(source, 3, ids=(2, 3))
    told = (
        "yours, made for the labels 0 background, 1 label 1, 2 label 2, and they are 0 background, 1 label 2, 2 label"
    )
    with pytest.raises(ValueError, match=f"mine.json: label_names is .*{told}"):
        make(tmp_path, source)
    change(dataset_file(made), lambda content: content["common"].update(label_names=["background", "marrow", "nerve"]))
    assert "common.label_names" in make(tmp_path, source).kept
    make_source(source, 3, ids=(2,))
    with pytest.raises(ValueError, match="expected a name for each, or no label_names"):
        make(tmp_path, source)


def describe(source, count, **told):
    """A dataset.json for the two folders of `make_source`."""
    pairs = [{"image": f"images/case{i}.nii.gz", "label": f"labels/case{i}.nii.gz"} for i in range(count)]
    (source / "dataset.json").write_text(json.dumps({**told, "training": pairs}))


def test_regions_of_a_person_are_of_the_labels_that_they_were_made_for(tmp_path):
    """Until they are changed, or taken out; whether `new` had seen them before the labels changed or not."""
    source = make_source(tmp_path / "source", 3, ids=(1, 3))
    path = dataset_file(make(tmp_path, source))
    own = {"regions": {"whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]}
    change(path, lambda content: content["common"].update(own))
    before = path.read_text()
    make_source(source, 3, ids=(1, 2, 3))
    told = "1 label 1, 2 label 3, and they are 0 background, 1 label 1, 2 label 2, 3 label 3 now: change it, or take"
    for _ in range(2):
        with pytest.raises(ValueError, match=f"mine.json: regions is .*yours, made for the labels .*{told} it out"):
            make(tmp_path, source)
        assert path.read_text() == before
    right = {"regions": {"whole": [1, 3], "core": [3]}, "regions_class_order": [1, 3]}
    change(path, lambda content: content["common"].update(right))
    for _ in range(2):
        assert "common.regions.core" in make(tmp_path, source).kept
    make_source(source, 3, ids=(1, 3))
    with pytest.raises(ValueError, match="mine.json: regions is .*: change it, or take it out"):
        make(tmp_path, source)
    change(path, lambda content: [content["common"].pop(key) for key in right])
    assert not make(tmp_path, source).kept
    change(path, lambda content: content["common"].update(own))
    assert "common.regions.core" in make(tmp_path, source).kept


def test_regions_of_a_person_where_the_data_set_swaps_its_names(tmp_path):
    source = make_source(tmp_path / "source", 3)
    describe(source, 3, labels={"background": 0, "liver": 1, "tumor": 2})
    path = dataset_file(make(tmp_path, source))
    own = {"regions": {"all": [1, 2], "lesion": [2]}, "regions_class_order": [1, 2]}
    change(path, lambda content: content["common"].update(own))
    make(tmp_path, source)
    describe(source, 3, labels={"background": 0, "liver": 2, "tumor": 1})
    told = "made for the labels 0 background, 1 liver, 2 tumor, and they are 0 background, 1 tumor, 2 liver now"
    with pytest.raises(ValueError, match=told):
        make(tmp_path, source)
    change(path, lambda content: content["common"]["regions"].update(lesion=[1]))
    change(path, lambda content: content["common"].update(regions_class_order=[2, 1]))
    assert make(tmp_path, source).kept["common.regions.lesion"] == [1]


def test_names_for_labels_that_had_none_change_no_regions(tmp_path):
    source = make_source(tmp_path / "source", 3)
    path = dataset_file(make(tmp_path, source))
    own = {"regions": {"all": [1, 2], "core": [2]}, "regions_class_order": [1, 2]}
    change(path, lambda content: content["common"].update(own))
    make_source(source, 3, ids=(1, 2, 3))
    assert "common.regions.core" in make(tmp_path, source, label_names=["bone", "marrow", "nerve"]).kept


LIVER = {"ids": [0, 1, 2], "labels": ["background", "liver", "tumor"], "channels": ["ct", "mr"]}
UNNAMED = {**LIVER, "labels": ["background", "label 1", "label 2"]}


@pytest.mark.parametrize(
    ("own", "then", "now", "is_outdated"),
    [
        ({"label_names": ["background", "a", "b"]}, LIVER, {**LIVER, "labels": ["background", "tumor", "liver"]}, True),
        ({"label_names": ["background", "a", "b"]}, UNNAMED, LIVER, False),
        ({"label_names": ["background", "a", "b"]}, UNNAMED, {**UNNAMED, "ids": [0, 1, 3]}, False),  # of equal names
        ({"label_names": ["background", "a", "b"]}, UNNAMED, {**LIVER, "ids": [0, 1, 3]}, True),
        ({"regions_class_order": [1, 2]}, LIVER, {**LIVER, "labels": ["background", "liver", "cyst"]}, True),
        ({"regions": {"a": [1]}}, LIVER, {**LIVER, "labels": ["background", "liver", "cyst"]}, False),
        ({"regions": {"a": [2]}}, LIVER, {**LIVER, "ids": [0, 1], "labels": ["background", "liver"]}, True),
        ({"regions": None}, LIVER, {**LIVER, "labels": ["background", "tumor", "liver"]}, False),
        ({"channel_names": ["CT", "MR"]}, LIVER, {**LIVER, "channels": ["mr", "ct"]}, True),
        ({"intensity_window": [[0, 1], None]}, LIVER, {**LIVER, "channels": ["ct", "pet"]}, True),
        ({"intensity_window": [0, 1]}, LIVER, {**LIVER, "channels": ["mr", "ct"]}, False),
        ({"spacing": [1, 1, 1]}, LIVER, {**LIVER, "channels": ["mr", "ct"]}, False),
    ],
)
def test_what_entries_were_made_for(own, then, now, is_outdated):
    made = made_for(own, {"shown": then}, now)
    assert bool(outdated(made, now)) == is_outdated and not outdated(made_for(own, {}, now), now)


def make_two_channels(folder, channels=("ct", "mr"), count=3):
    """A folder for each patient."""
    make_source(folder / "flat", count)
    for number in range(count):
        for channel in channels:
            path = folder / f"source/p{number}/{channel}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = nib.load(folder / f"flat/images/case{number}.nii.gz")
            save(path, np.asarray(image.dataobj) * (1 + len(channels) * (channel == channels[0])))
        shutil.copy(folder / f"flat/labels/case{number}.nii.gz", folder / f"source/p{number}/seg.nii.gz")
    return folder / "source"


def test_windows_of_a_person_are_of_the_channels_that_they_were_made_for(tmp_path):
    source = make_two_channels(tmp_path)
    path = dataset_file(make(tmp_path, source, channels=["ct", "mr"], modality="CT,MR"))
    change(path, lambda content: content["common"].update(intensity_window=[[-100.0, 200.0], None]))
    make(tmp_path, source, channels=["ct", "mr"], modality="CT,MR")
    told = "yours, made for the channels 0 ct, 1 mr, and they are 0 mr, 1 ct now: change it, or take it out"
    with pytest.raises(ValueError, match=rf"intensity_window is \[\[-100.0, 200.0\], null\], {told}"):
        make(tmp_path, source, channels=["mr", "ct"], modality="MR,CT")
    change(path, lambda content: content["common"].update(intensity_window=[None, [-100.0, 200.0]]))
    assert "common.intensity_window" in make(tmp_path, source, channels=["mr", "ct"], modality="MR,CT").kept


def test_names_of_channels_of_a_person(tmp_path):
    """Others than those of the data set, in its order."""
    source = make_two_channels(tmp_path, ("FLAIR", "T1w"))
    path = dataset_file(make(tmp_path, source))
    for names, said in (
        (["T1w", "FLAIR"], "with 'T1w' as 0, expected it as 1, or another name"),
        (["FLAIR", "flair"], "with 'flair' as 1, expected it as 0, or another name"),
        (["FLAIR", "T1w", "T2w"], "expected 2 different name(s), in the order of FLAIR, T1w"),
        (["a", "a"], "expected 2 different name(s)"),
        ("FLAIR", "expected a list of names"),
        (None, "expected a list of names"),
    ):
        change(path, lambda content, names=names: content["common"].update(channel_names=names))
        with pytest.raises(ValueError, match="mine.json: channel_names is .*" + re.escape(said)):
            make(tmp_path, source)
    change(path, lambda content: content["common"].update(channel_names=["FLAIR", "T1"]))
    assert make(tmp_path, source).kept == {"common.channel_names": ["FLAIR", "T1"]}
    with pytest.raises(ValueError, match="channel_names is .*made for the channels 0 FLAIR, 1 T1w, and they are 0 T1w"):
        make(tmp_path, source, channels=["T1w", "FLAIR"])


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["tumor", "liver"], "labels are tumor, liver, with 'tumor' as 1, expected it as 2, or another name"),
        (["Tumor", "cyst"], "labels are Tumor, cyst, with 'Tumor' as 1, expected it as 2, or another name"),
        (["a", "b", "c"], "labels are a, b, c, and the label 'ignore' has the id 3: expected 2 name(s)"),
    ],
)
def test_names_that_the_data_set_has_for_other_ids(names, said, tmp_path):
    source = make_source(tmp_path / "source", 2)
    describe(source, 2, labels={"background": 0, "liver": 1, "tumor": 2, "ignore": 3})
    with pytest.raises(ValueError, match=re.escape(said)):
        make(tmp_path, source, label_names=names)
    made = make(tmp_path, source, name="renamed", label_names=["liver", "cyst"])
    assert made.labels.names == ["background", "liver", "cyst"]
    if len(names) == 2:
        path = dataset_file(make(tmp_path, source))
        change(path, lambda content: content["common"].update(label_names=["background", *names]))
        told = re.escape(f"with {names[0]!r} as 1, expected it as 2, or another name")
        with pytest.raises(ValueError, match=f"mine.json: label_names is .*, yours, {told}"):
            make(tmp_path, source)


def test_what_is_said_of_the_split_of_a_person(tmp_path):
    """Cases that were added since, and patients that both train and validate."""
    source, names = make_source(tmp_path / "source", 6), [f"P{i}_ses-{j}" for i in range(3) for j in range(2)]
    for kind in ("images", "labels"):
        for number, name in enumerate(names):
            (source / f"{kind}/case{number}.nii.gz").rename(source / f"{kind}/{name}.nii.gz")
    path = make(tmp_path, source).folder / "data/splits.json"
    path.write_text(json.dumps([{"train": names[:4], "val": names[4:]}]))
    notes = make(tmp_path, source).notes
    assert "data/splits.json is yours, and stays" in notes and not any("part" in note for note in notes)
    own = [{"train": names[:3], "val": names[3:]}, {"train": names[:2], "val": names[4:5], "test": names[5:]}]
    path.write_text(json.dumps(own))
    make_source(tmp_path / "more", 7)
    for kind in ("images", "labels"):
        shutil.copy(tmp_path / f"more/{kind}/case6.nii.gz", source / kind)
    notes = make(tmp_path, source).notes
    for told in (
        "cases that stand in no part of data/splits.json, and neither train nor validate: "
        "1 case(s) in fold 0, such as case6; 3 case(s) in fold 1, such as P1_ses-0",
        "patients that train and are held out, so that scores are too good: 1 patient(s) in fold 0, such as P1",
    ):
        assert told in notes


def test_a_data_set_that_a_person_changed_is_not_written_anew(tmp_path):
    made = make(tmp_path)
    path = made.folder / "data/dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text())))  # another editor's lines
    make(tmp_path, tmp_path / "source")
    change(path, lambda content: content["training"].pop())
    before = path.read_text()
    with pytest.raises(
        ValueError, match="data/dataset.json: has changed since `rep3d new` wrote it, .* in mine.json, and"
    ):
        make(tmp_path, tmp_path / "source")
    assert path.read_text() == before
    path.unlink()
    make(tmp_path, tmp_path / "source")
    assert len(json.loads(path.read_text())["training"]) == 6


def test_a_bundle_whose_memory_is_gone(tmp_path):
    """What a person changed is not known then, which is said; what is decided as before is so again."""
    made = make(tmp_path)
    change(dataset_file(made), lambda content: content["train"].update(seed=7))
    (made.folder / "data/decided.json").unlink()
    told = "data/decided.json is gone, by which your changes and options are known: all of mine.json and data/splits"
    again = make(tmp_path, tmp_path / "source")
    assert any(note.startswith(told) for note in again.notes) and "common.spacing" in again.kept
    again = make(tmp_path, tmp_path / "source")
    assert not any(note.startswith(told) for note in again.notes) and list(again.kept) == ["train.seed"]


def test_ids_that_no_label_has(tmp_path):
    source = make_source(tmp_path / "source", 3, ids=(1, 3))
    label = np.asarray(nib.load(source / "labels/case1.nii.gz").dataobj).copy()
    label[0, 0, 0] = 2
    save(source / "labels/case1.nii.gz", label)
    pairs = [{"image": f"images/case{i}.nii.gz", "label": f"labels/case{i}.nii.gz"} for i in range(3)]
    labels = {"0": "background", "1": "bone", "3": "marrow"}
    (source / "dataset.json").write_text(json.dumps({"labels": labels, "training": pairs}))
    made = make(tmp_path, source)
    assert list(made.problems) == ["case1"] and "case1.nii.gz: label value(s) [2], expected those of" in report(made)


def test_broken_files_are_left_out_and_named(tmp_path):
    source = make_source(tmp_path / "source")
    (source / "images/case1.nii.gz").write_bytes(b"none")
    save(source / "labels/case2.nii.gz", np.ones((20, 18, 11), np.uint8))
    save(source / "images/case3.nii.gz", np.zeros((20, 18, 12, 2), np.float32))
    made = make(tmp_path, source)
    assert made.cases == 3 and set(made.problems) == {"case1", "case2", "case3"}
    text = report(made)
    assert "Left out: 3 case(s)" in text and "case1.nii.gz: cannot be read" in text
    assert {item["case"] for item in json.loads((made.folder / "data/dataset.json").read_text())["training"]} == {
        *("case0", "case4", "case5")
    }


def test_a_folder_of_which_most_is_broken_is_refused(tmp_path):
    source = make_source(tmp_path / "source", 5)
    for number in range(3):
        (source / f"images/case{number}.nii.gz").write_bytes(b"none")
    with pytest.raises(ValueError, match="3 of 5 cases cannot be used, expected half of them at most; .*case0.nii.gz"):
        make(tmp_path, source)
    assert not (tmp_path / "bundles/mine/mine.json").exists()


def test_predictions_that_nobody_has_changed_are_named(tmp_path):
    source = make_source(tmp_path / "source", 3)
    for number in range(3):
        path = source / f"labels/case{number}.nii.gz"
        voxels, geometry = read_volume(path)
        path.unlink()
        write_marked(voxels, geometry, path)
    label = nib.load(source / "labels/case0.nii.gz")
    voxels = np.asarray(label.dataobj).copy()
    voxels[5, 6, 4] = 2
    nib.save(nib.Nifti1Image(voxels, label.affine, label.header), source / "labels/case0.nii.gz")
    told = f"2 label map(s) are as `rep3d predict` wrote them, such as {source / 'labels/case1.nii.gz'}: nobody has"
    assert [note for note in make(tmp_path, source).notes if note.startswith(told)]
    make_source(source, 3)
    assert not [note for note in make(tmp_path, source).notes if "rep3d predict" in note]


def test_labels_that_no_validation_case_shows(tmp_path):
    """Of a person's split, too; a label of one case is told otherwise."""
    source = make_source(tmp_path / "source", 4)
    for number in (2, 3):
        save(source / f"labels/case{number}.nii.gz", np.pad(np.ones((4, 4, 4), np.uint8), ((8, 8), (7, 7), (4, 4))))
    told = "labels that no validation case shows, so that none judges them: "
    notes = [note for note in make(tmp_path, source).notes if note.startswith(told)]
    splits = json.loads((tmp_path / "bundles/mine/data/splits.json").read_text())
    folds = [str(fold) for fold, split in enumerate(splits) if not {"case0", "case1"} & {*split["val"]}]
    assert notes == [f"{told}'label 2' in fold {', '.join(folds)}"]
    own = [{"train": ["case0", "case2"], "val": ["case1", "case3"]}, {"train": ["case0", "case1"], "val": []}]
    (tmp_path / "bundles/mine/data/splits.json").write_text(json.dumps(own))
    assert not [note for note in make(tmp_path, source).notes if note.startswith("labels that no")]


def test_labels_that_no_training_case_shows(tmp_path):
    source = make_source(tmp_path / "source", 4)
    for number in (2, 3):
        save(source / f"labels/case{number}.nii.gz", np.pad(np.ones((4, 4, 4), np.uint8), ((8, 8), (7, 7), (4, 4))))
    make(tmp_path, source)
    own = [
        {"train": cases[:2], "val": cases[2:]} for cases in (["case0", "case2", "case1"], ["case2", "case3", "case0"])
    ]
    (tmp_path / "bundles/mine/data/splits.json").write_text(json.dumps(own))
    notes = [note for note in make(tmp_path, source).notes if note.startswith("labels that no")]
    assert notes == ["labels that no training case shows, so that none teaches them: 'label 2' in fold 1"]


def test_a_label_of_one_patient(tmp_path):
    """All its cases go into one part of a split."""
    source = make_source(tmp_path / "flat", 4)
    for number in (2, 3):
        save(source / f"labels/case{number}.nii.gz", np.pad(np.ones((4, 4, 4), np.uint8), ((8, 8), (7, 7), (4, 4))))
    for kind in ("images", "labels"):
        for number, name in enumerate(("sub-1_ses-a", "sub-1_ses-b", "sub-2", "sub-3")):
            (source / f"{kind}/case{number}.nii.gz").rename(source / f"{kind}/{name}.nii.gz")
    made = make(tmp_path, source)
    splits = json.loads((made.folder / "data/splits.json").read_text())
    (fold,) = (i for i, split in enumerate(splits) if {*split["val"]} == {"sub-1_ses-a", "sub-1_ses-b"})
    told = "label 'label 2' occurs in the cases of one patient, sub-1: it can be learned or judged, not both"
    assert told in made.notes
    assert f"labels that no training case shows, so that none teaches them: 'label 2' in fold {fold}" in made.notes


def test_a_drawing_among_the_channels(tmp_path):
    """Its name has no word for labels: it is named, and hides no image that is there twice."""
    flat, source = make_source(tmp_path / "flat", 4), tmp_path / "source"
    for number in range(4):
        label = f"labels/case{number}.nii.gz"
        files = {"t1": f"images/case{number % 3}.nii.gz", "brain_mask": label, "lesion": label}
        (source / f"p{number}").mkdir(parents=True)
        for name, file in files.items():
            shutil.copy(flat / file, source / f"p{number}/{name}.nii.gz")
    for _ in range(2):
        made = make(tmp_path, source)
        assert made.channel_names == ("lesion", "t1") and made.problems == {"p3": ["p3: the same voxels as p0"]}
        told = "channel 'lesion' has fewer than 16 values, all of them whole numbers, in 3 case(s), such as p0: is it a"
        assert [note for note in made.notes if note.startswith("channel")] == [f"{told} drawing?"]
    assert not [note for note in make(tmp_path, flat, name="flat").notes if note.startswith("channel")]


def test_labels_that_are_rare(tmp_path):
    source = make_source(tmp_path / "source", 4)
    for number in (1, 2, 3):
        save(source / f"labels/case{number}.nii.gz", np.pad(np.ones((4, 4, 4), np.uint8), ((8, 8), (7, 7), (4, 4))))
    made = make(tmp_path, source, label_names=["bone", "marrow", "nerve"])
    assert "label 'marrow' occurs in one case, case0: it can be learned or judged, not both" in made.notes
    assert "label 'nerve' occurs in no case: nothing can be learned of it" in made.notes


@pytest.mark.parametrize(
    ("shape", "said"),
    [((20, 18, 1), "a single slice is no volume"), ((20, 18), "expected three dimensions")],
)
def test_slices(shape, said, tmp_path):
    for name in ("images", "labels"):
        save(tmp_path / f"source/{name}/a.nii.gz", np.ones(shape, np.uint8))
    with pytest.raises(ValueError, match=f"no case can be used: .*{said}"):
        make(tmp_path, tmp_path / "source")


def test_empty_label_maps(tmp_path):
    with pytest.raises(ValueError, match="source': all label maps are empty: no image has a label: segment with"):
        make(tmp_path, make_source(tmp_path / "source", 2, ids=()))


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"name": "kits"}, "name is 'kits', which is a bundle that comes with the package: choose another"),
        ({"name": "../mine"}, "name is '../mine', expected letters, digits"),
        ({"label_names": ["bone", "bone"]}, "labels are bone, bone, expected a name for each of the ids 1, 2"),
        ({"label_names": ["bone"]}, "no case can be used: .*expected whole numbers from 0 to 1"),
        ({"channels": ["T1"]}, "channel is 'T1', expected some of image"),
        ({"label_names": ["bone", "lesion #1"]}, "labels: the name 'lesion #1' means something else in a config"),
    ],
)
def test_what_is_refused(told, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        make(tmp_path, **told)


EXPRESSION = "$__import__('pathlib').Path('ran').touch()"


@pytest.mark.parametrize(
    ("labels", "channels", "name"),
    [
        ({"background": 0, EXPRESSION: 1, "b": 2}, [], EXPRESSION),
        ({"0": "background", "1": "@seed", "2": "b"}, [], "@seed"),
        ({"background": 0, "%fat": [1, 2], "b": 2}, [], "%fat"),
        ({"background": 0, "lesion #1": 1, "b": 2}, [], "lesion #1"),
        ({"background": 0, "a::b": 1, "b": 2}, [], "a::b"),
        ({"background": 0, "a": 1, "b": 2}, ["T1", " $T2"], " $T2"),
    ],
)
def test_names_that_a_config_would_evaluate(labels, channels, name, tmp_path, monkeypatch):
    """They come with downloads: they are refused before any file is read, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(own_cases, "check_pairs", None)
    source = make_source(tmp_path / "source", 2)
    pairs = [{"image": f"images/case{i}.nii.gz", "label": f"labels/case{i}.nii.gz"} for i in range(2)]
    told = {"labels": labels, "regions_class_order": [1, 2], "channel_names": dict(enumerate(channels))}
    (source / "dataset.json").write_text(json.dumps({**told, "training": pairs}))
    with pytest.raises(ValueError, match="dataset.json: the name .* means something else in a config") as error:
        make(tmp_path, source)
    assert repr(name) in str(error.value)
    assert not (tmp_path / "ran").exists() and not (tmp_path / "bundles/mine/mine.json").exists()


def test_one_channel_may_be_called_anything(tmp_path):
    """Its name goes into no config."""
    source = make_source(tmp_path / "source", 2)
    pairs = [{"image": f"images/case{i}.nii.gz", "label": f"labels/case{i}.nii.gz"} for i in range(2)]
    told = {"labels": {"0": "background", "1": "100 % fat", "2": "b@home"}, "modality": {"0": "%T1"}}
    (source / "dataset.json").write_text(json.dumps({**told, "training": pairs}))
    made = make(tmp_path, source)
    assert made.labels.names == ["background", "100 % fat", "b@home"]
    assert not any("%T1" in path.read_text() for path in made.folder.glob("configs/*.json"))


@pytest.mark.parametrize(
    ("change_it", "said"),
    [
        (lambda content: content.update(common=3), "mine.json: common is 3, expected an object"),
        (lambda content: content.update(data=[]), r"mine is of the source None, got"),
        (lambda content: content["common"].update(label_names=None), "mine.json: label_names is null, expected a list"),
        (
            lambda content: content["common"].update(label_names=["background", "@seed", "b"]),
            "mine.json: the name '@seed' means something else in a config, expected it without # and ::, and",
        ),
    ],
)
def test_sections_of_another_kind(change_it, said, tmp_path):
    change(dataset_file(make(tmp_path)), change_it)
    with pytest.raises((ValueError, FileExistsError), match=said):
        make(tmp_path, tmp_path / "source")


def test_nothing_is_written_into_the_source(tmp_path):
    make_source(tmp_path, 2)
    with pytest.raises(
        ValueError, match="bundles', which lies in the source '.*', where nothing is to be written: give"
    ):
        make(tmp_path, tmp_path)
    assert not (tmp_path / "bundles").exists()


@pytest.mark.parametrize("place", ["bundles/mine/data", "bundles/mine/data/knees", "bundles/mine/knees"])
@pytest.mark.parametrize("is_linked", [False, True])
def test_a_source_in_the_folder_of_the_bundle_is_left_alone(place, is_linked, tmp_path):
    """There `new` writes, and removes label maps of its own; by whichever path the source is given."""
    source = make_source(tmp_path / place, 2, ids=(2, 7))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    if is_linked:
        (tmp_path / "link").symlink_to(source)
        source = tmp_path / "link"
    with pytest.raises(ValueError, match=f"source is '{source}', which lies in the bundle's folder .*: move it"):
        make(tmp_path, source)
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize(
    ("place", "said"), [("source", "which lies in the bundle's folder"), ("source/images", "lies in the source")]
)
def test_data_of_a_bundle_that_are_a_link_to_the_source(place, said, tmp_path):
    source = make_source(tmp_path / "source", 2, ids=(2, 7))
    (tmp_path / "bundles/mine").mkdir(parents=True)
    (tmp_path / "bundles/mine/data").symlink_to(tmp_path / place)
    before = {path: path.read_bytes() for path in source.rglob("*.*")}
    with pytest.raises(ValueError, match=said):
        make(tmp_path, source)
    assert {path: path.read_bytes() for path in source.rglob("*.*")} == before


def test_names_that_exist_already(tmp_path):
    made = make(tmp_path)
    before = dataset_file(made).read_text()
    with pytest.raises(FileExistsError, match="mine is of the source '.*source', got '.*other': choose another name"):
        make(tmp_path, make_source(tmp_path / "other", 2))
    assert dataset_file(made).read_text() == before
    (tmp_path / "bundles/theirs/configs").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="theirs is there already, and no bundle of `rep3d new`"):
        make(tmp_path, tmp_path / "source", name="theirs")


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_source_that_nobody_can_write_to(tmp_path):
    source = make_source(tmp_path / "source", 2, ids=(1, 3))
    folders = [source, *(path for path in source.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert make(tmp_path, source).cases == 2
    finally:
        for folder in folders:
            folder.chmod(stat.S_IRWXU)


def test_the_command(tmp_path, monkeypatch, capsys):
    make_source(tmp_path / "2024_01_05", 2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "argv", ["rep3d", "new", "1e3", "--source", "2024_01_05", "--labels", "bone, 007"])
    main()
    shown = capsys.readouterr().out
    assert "labels: 0 background, 1 bone, 2 007" in shown
    assert shown.splitlines()[-3:] == [
        "  rep3d train 1e3",
        "or",
        "  python -m monai.bundle run training --config_file bundles/1e3/configs/train.json --bundle_root bundles/1e3",
    ]


def test_options_stay(tmp_path, monkeypatch, capsys):
    make_source(tmp_path / "source", 2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    def labels(*words):
        monkeypatch.setattr(sys, "argv", ["rep3d", "new", "mine", "--source", "source", *words])
        main()
        common = json.loads(Path("bundles/mine/mine.json").read_text())
        return common["common"]["label_names"][1:], common["metadata"]["modality"], capsys.readouterr().out

    assert labels("--labels", "bone, marrow", "--modality", "CT")[:2] == (["bone", "marrow"], "CT")
    names, modality, shown = labels()
    assert (names, modality) == (["bone", "marrow"], "CT")
    assert "as before: --labels 'bone, marrow' --modality CT" in shown
    assert labels("--modality", "MR")[:2] == (["bone", "marrow"], "MR")
    with pytest.raises(ValueError, match="channel is 'T1,T2', expected some of image"):
        labels("--channel", "T1, T2")
    with pytest.raises(ValueError, match="modality is 'CT,MR', expected one, or 1: there are so many channels"):
        labels("--modality", "CT, MR")
    names, modality, shown = labels("--labels", "")
    assert (names, modality) == (["label 1", "label 2"], "MR")
    assert shown.partition("as before: ")[2].startswith("--modality MR\n")


def test_the_command_ends_with_what_was_left_out_and_trains(tmp_path, monkeypatch, capsys):
    source, trained = make_source(tmp_path / "source", 3), []
    (source / "images/case1.nii.gz").write_bytes(b"none")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(creating, "run_line", trained.append)
    for words in ([], ["--train"]):
        monkeypatch.setattr(sys, "argv", ["rep3d", "new", "mine", "--source", "source", *words])
        main()
        end = f"1 of 3 case(s) were left out, see {Path('bundles/mine/data/report.md')}"
        assert capsys.readouterr().out.splitlines()[-1] == end
    assert [line[:2] for line in trained] == [["run", "training"]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--train", "now"], "train is 'now', expected nothing behind it"),
        (["--modality", "CR"], "modality is 'CR', expected one of CT, MR"),
        (["--gpu_memory", "-1"], "gpu_memory is '-1', expected a number above 0"),
        (["--hours", "two"], "hours is 'two', expected a number above 0"),
        (["--hours", "2", "--gpu_memory", "24"], "hours are measured on this computer"),
    ],
)
def test_options_that_are_refused(words, said, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "argv", ["rep3d", "new", "x", "--source", str(tmp_path), *words])
    with pytest.raises(ValueError, match=said):
        main()


@pytest.mark.parametrize("channel", ["mr,ct", "ct"])
def test_modalities_of_other_channels(channel, tmp_path, monkeypatch):
    """They are told by their order."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    (tmp_path / "bundles/x/data").mkdir(parents=True)
    write_options(tmp_path / "bundles/x", {"channel": "ct,mr", "modality": "CT,MR"})
    monkeypatch.setattr(sys, "argv", ["rep3d", "new", "x", "--source", str(tmp_path), "--channel", channel])
    told = f"channel is {channel!r}, and --modality CT,MR was told for 'ct,mr': give --modality as well"
    with pytest.raises(ValueError, match=told):
        main()


def test_a_case_that_no_training_takes_is_left_out(tmp_path):
    source = make_source(tmp_path / "source", 4)
    for kind in ("images", "labels"):
        voxels = np.asarray(nib.load(source / f"{kind}/case1.nii.gz").dataobj)
        save(source / f"{kind}/case1.nii.gz", voxels, np.diag([-4.9, -4.9, 9.8, 1.0]))
        for other in (0, 2, 3):
            voxels = np.asarray(nib.load(source / f"{kind}/case{other}.nii.gz").dataobj)
            save(source / f"{kind}/case{other}.nii.gz", voxels, np.diag([-1.0, -1.0, 2.0, 1.0]))
    made = make(tmp_path, source)
    assert made.cases == 4 and not made.problems
    made = make(tmp_path, source, name="fine")
    change(dataset_file(made), lambda content: content["common"].update(spacing=[0.02, 0.02, 0.5]))
    again = make(tmp_path, source, name="fine")
    assert [*again.problems] == ["case1"] and "become 4656 x 4166 x 217 of 0.02 x 0.02 x 0.5 mm" in report(again)


def test_headers_that_readers_see_differently_are_told_every_time(tmp_path):
    source = make_source(tmp_path / "source", 3)
    for kind in ("images", "labels"):
        image = nib.load(source / f"{kind}/case1.nii.gz")
        moved = image.affine.copy()
        moved[0, 3] += 69.0
        image.set_qform(moved, code=1)
        image.set_sform(image.affine, code=2)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), source / f"{kind}/case1.nii.gz")
    for _ in range(2):
        made = make(tmp_path, source)
        assert [note for note in made.notes if note.startswith("case1: ")], made.notes
