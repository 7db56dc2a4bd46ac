"""A case that fails costs that case, and is named; in training the error names the file."""

import json
import re
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_helpers import EVALUATE, INFERENCE, ROOT, TRAIN, make_dataset, run, small_network, workflow
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rep3d.console.errors import describe, root_cause
from rep3d.data.lists import load_datalist
from rep3d.evaluation.scores import read_scores

BUNDLE = ROOT / "bundles/msd_hippocampus"


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A data set and weights; tests change copies."""
    folder = tmp_path_factory.mktemp("material")
    make_dataset(folder / "data", BUNDLE, count=5)
    torch.manual_seed(0)
    (folder / "models").mkdir()
    torch.save(small_network(BUNDLE).state_dict(), folder / "models/model.pt")
    return folder


@pytest.fixture
def folder(material, tmp_path):
    shutil.copytree(material, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def cases(folder):
    """Three cases to score."""
    return load_datalist(folder / "data", "training")[:3]


def spoil(path: str, change) -> None:
    volume = nib.load(path)
    nib.save(nib.Nifti1Image(change(np.asarray(volume.dataobj).copy()), volume.affine), path)


def with_nan(voxels):
    voxels = voxels.astype(np.float32)
    voxels[3, 3, 3] = np.nan
    return voxels


def evaluate(folder, cases, **override):
    return run(BUNDLE, EVALUATE, folder / "data", folder, "evaluating", **{"validate#dataset#data": cases}, **override)


@pytest.mark.parametrize("files", [TRAIN, EVALUATE, [*EVALUATE, "choose_refinement.json"]], ids=lambda files: files[-1])
def test_a_data_set_with_the_labels_in_another_order(files, folder):
    path = folder / "data/dataset.json"
    content = json.loads(path.read_text())
    content["labels"] |= {"1": content["labels"]["2"], "2": content["labels"]["1"]}
    path.write_text(json.dumps(content))
    with pytest.raises(RuntimeError) as refused:
        run(BUNDLE, files, folder / "data", folder, "training" if files == TRAIN else "evaluating")
    assert "\"labels\" has 'posterior hippocampus' as 1, expected 0 background, 1" in str(root_cause(refused.value))
    assert not (folder / "eval/scores.csv").exists()


@pytest.mark.parametrize(
    ("key", "change", "reason"),
    [
        ("image", with_nan, r"NaN"),
        ("label", lambda voxels: voxels[1:], "shape"),
        ("label", lambda voxels: voxels * 0 + 9, r"label value\(s\) \[9.0\]"),
    ],
)
def test_a_bad_file_costs_its_case(key, change, reason, folder, cases, caplog):
    caplog.set_level("INFO")
    spoil(cases[1][key], change)
    with pytest.raises(RuntimeError, match="Failed to evaluate") as raised:
        evaluate(folder, cases)
    message = str(root_cause(raised.value))
    assert message.startswith("1 of 3 case(s) could not be scored:\n") and cases[1]["image"] in message
    assert re.search(reason, message)
    assert sorted(read_scores(folder / "eval")) == sorted(Path(cases[i]["image"]).name[:-7] for i in (0, 2))
    summary = (folder / "eval/summary.md").read_text(encoding="utf-8")
    assert summary.startswith("Means over 2 case(s)") and f"- {cases[1]['image']}: " in summary
    assert f"skipped {cases[1]['image']}" in caplog.text and "mean Dice" in caplog.text


class FailsFor:
    """A transform that one file is too much for."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, item):
        if item["image"].endswith(self.name):
            raise MemoryError("too large")
        return item


def fails_for(item):
    return {"_target_": "test_failing_cases.FailsFor", "name": Path(item["image"]).name}


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_transform_that_fails_costs_its_case(num_workers, folder, cases):
    loading = [{"_target_": "LoadImaged", "keys": "label", "ensure_channel_first": True}]
    override = {"validate#label_loading": [fails_for(cases[1]), *loading], "num_workers": num_workers}
    with pytest.raises(RuntimeError) as raised:
        evaluate(folder, cases, **override)
    assert str(root_cause(raised.value)).splitlines()[1:] == [f"  {cases[1]['image']}: too large"]
    assert len(read_scores(folder / "eval")) == 2
    log = (folder / "eval/evaluation.log").read_text(encoding="utf-8")
    assert "MemoryError: too large" in log and "Traceback" in log


def test_a_network_that_fails_costs_its_case(folder, cases):
    created = workflow(BUNDLE, EVALUATE, folder / "data", folder, "evaluating", **{"validate#dataset#data": cases})
    evaluator = created.parser.get_parsed_content("validate#evaluator")
    whole = evaluator.network.forward

    def forward(x):
        if evaluator.state.batch["image"].meta["filename_or_obj"][0] == cases[0]["image"]:
            raise MemoryError("too large")
        return whole(x)

    evaluator.network.forward = forward
    with pytest.raises(RuntimeError) as raised:
        created.run()
    assert str(root_cause(raised.value)).splitlines()[1:] == [f"  {cases[0]['image']}: too large"]
    assert len(read_scores(folder / "eval")) == 2


def test_where_all_fail_earlier_scores_stay(folder, cases):
    evaluate(folder, cases[:1])
    before = (folder / "eval/scores.csv").read_bytes()
    spoil(cases[1]["image"], with_nan)
    with pytest.raises(RuntimeError) as raised:
        evaluate(folder, cases[1:2])
    assert "1 of 1 case(s) could not be scored" in str(root_cause(raised.value))
    assert (folder / "eval/scores.csv").read_bytes() == before


@pytest.mark.parametrize("num_workers", [0, 1])
def test_in_training_the_error_names_the_file(num_workers, folder):
    override = {
        "train#random_transforms": [{"_target_": "test_failing_cases.Fails"}],
        "num_workers": num_workers,
        "epochs": 1,
    }
    with pytest.raises(RuntimeError) as raised:
        run(BUNDLE, TRAIN, folder / "data", folder, "training", **override)
    assert describe(raised.value).endswith(": too large") and "imagesTr/phantom_" in describe(raised.value)


class Fails:
    """A transform of loaded volumes that fails."""

    def __call__(self, _):
        raise MemoryError("too large")


def test_what_a_training_leaves(folder, caplog):
    """A log, and in TensorBoard the learning rate and the Dice of each label; at the end, where all lies."""
    caplog.set_level("INFO")
    run(BUNDLE, TRAIN, folder / "data", folder, "training", epochs=2)
    log = (folder / "models/training.log").read_text(encoding="utf-8")
    assert "epoch 1/2, step 2/4, loss " in log and "epoch 2/2, step 4/4, loss " in log
    assert "best validation Dice" in log and str(folder / "models") in log
    values = {}
    for path in (folder / "eval/tensorboard").iterdir():
        events = EventAccumulator(str(path)).Reload()
        values |= {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    labels = ["val_dice/anterior hippocampus", "val_dice/posterior hippocampus"]
    assert sorted(values) == sorted(["learning_rate", "train_loss", "val_mean_dice", *labels])
    assert values["learning_rate"][0] == pytest.approx(0.002) and values["learning_rate"][1] < 0.002
    assert np.mean([values[label] for label in labels], axis=0) == pytest.approx(values["val_mean_dice"], abs=1e-5)


# --- inference among its own results


def segment(folder, source, output, **options):
    return run(BUNDLE, INFERENCE, source, folder, "evaluating", output_dir=str(output), **options)


@pytest.fixture
def scans(folder, cases):
    """A folder of two scans, the second called like a label map."""
    (folder / "scans").mkdir()
    shutil.copy(cases[0]["image"], folder / "scans/a.nii.gz")
    shutil.copy(cases[1]["image"], folder / "scans/x_seg.nii.gz")
    return folder / "scans"


def names(folder):
    return sorted(path.name for path in folder.glob("*.nii.gz"))


@pytest.mark.slow
def test_results_beside_their_scans_are_not_segmented(folder, scans, caplog):
    caplog.set_level("INFO")
    expected = ["a.nii.gz", "a_seg.nii.gz", "x_seg.nii.gz", "x_seg_seg.nii.gz"]
    for _ in range(2):
        segment(folder, scans, scans)
        assert names(scans) == expected
    assert "2 label map(s) of an earlier inference" in caplog.text
    assert f"2 label maps in {scans}" in caplog.text
    segment(folder, scans, folder / "elsewhere")
    assert names(folder / "elsewhere") == ["a_seg.nii.gz", "x_seg_seg.nii.gz"]


@pytest.mark.slow
def test_one_scan_ends_with_its_label_map_s_path(folder, scans, caplog):
    caplog.set_level("INFO")
    segment(folder, scans / "a.nii.gz", folder / "out")
    assert f"label map: {folder / 'out/a_seg.nii.gz'}" in caplog.text


def test_a_file_of_somebody_else_is_not_replaced(folder, scans, cases):
    """Such as a label map by hand of the same name."""
    by_hand = scans / "a_seg.nii.gz"
    shutil.copy(cases[0]["label"], by_hand)
    before = by_hand.read_bytes()
    with pytest.raises(RuntimeError) as raised:
        segment(folder, scans / "a.nii.gz", scans)
    assert f"{by_hand}: not as rep3d wrote it, and so not replaced" in str(root_cause(raised.value))
    assert by_hand.read_bytes() == before


def test_a_corrected_label_map_is_not_replaced(folder, scans):
    """Programs keep the mark when they save; it is still no scan."""
    segment(folder, scans / "a.nii.gz", scans)
    path = scans / "a_seg.nii.gz"
    label = nib.load(path)
    voxels = np.asarray(label.dataobj).copy()
    voxels[0, 0, 0] += 1
    nib.save(nib.Nifti1Image(voxels, None, label.header), path)
    before = path.read_bytes()
    with pytest.raises(RuntimeError) as raised:
        segment(folder, scans, scans)
    assert f"{path}: not as rep3d wrote it" in str(root_cause(raised.value))
    assert path.read_bytes() == before and not (scans / "a_seg_seg.nii.gz").exists()


def test_a_folder_of_nothing_but_results(folder, scans):
    segment(folder, scans / "a.nii.gz", folder / "out")
    with pytest.raises(RuntimeError) as raised:
        segment(folder, folder / "out", folder / "again")
    assert "holds only label maps of an earlier inference" in str(root_cause(raised.value))


def test_progress_within_a_scan(folder, cases, caplog, monkeypatch):
    """Without a terminal a line now and then, here at once."""
    caplog.set_level("INFO")
    monkeypatch.setattr("rep3d.console.progress.Progress.__init__.__kwdefaults__", {"leave": True, "seconds": 0})
    segment(folder, cases[1]["image"], folder / "out", **{"sliding_window#inferer#overlap": 0.5})
    windows = [line for line in caplog.messages if "windows: window" in line]
    assert len(windows) >= 2 and re.fullmatch(r"windows: window \d+ of \d+", windows[0])


def test_a_missing_extra_is_told_before_the_first_scan(folder, scans, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(RuntimeError) as raised:
        run(BUNDLE, [*INFERENCE, "refine.json"], scans, folder, "evaluating")
    assert describe(raised.value).endswith(': pip install "rep3d[refine]"')
    assert names(folder / "eval") == []
