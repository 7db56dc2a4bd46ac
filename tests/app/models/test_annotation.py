"""A simulated user annotates drawn phantoms, with networks that a test can afford."""

import json
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from app_helpers import small_bundle
from filelock import FileLock
from simulate_annotation import main

from monailabel_app.history import digest
from monailabel_app.models.annotation import learners, loop, plan, user
from monailabel_app.models.retraining import phantoms, task
from monailabel_app.models.retraining.phantoms import Phantoms
from rep3d.datasets.phantom import write_decathlon
from rep3d.files import read_json, write_json
from rep3d.study.run import run_here

pytestmark = pytest.mark.slow

WAYS = ["clicks alone", "clicks that learn", "random", "entropy"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("annotation")
    write_decathlon(folder / "data", labels={1: "left", 2: "right"}, count=4, shape=(28, 26, 24), orientation="LPS")
    return {
        "dataset_dir": str(folder / "data"),
        "output_dir": str(folder / "output"),
        "bundle": str(small_bundle(folder, "interactive")),
        "ways": ",".join(WAYS),
        "scans": 3,
        "rounds": 1,
        "automatic_steps": 2,
        "interactive_epochs": 1,
        "spacing": (1.5, 1.5, 1.5),
    }


@pytest.fixture(scope="module")
def runs():
    """All runs, which are small and take place in this process."""
    known = []

    def run_and_tell(watching, run, folder, status_file, spared=1):
        assert spared == (run.run_id != "training")  # nobody clicks meanwhile
        known.append(run)
        told = {name: str(value) if isinstance(value, Path) else value for name, value in run.overrides.items()}
        told.pop("logging_file", None)  # `run_here` has none
        run_here(replace(run, overrides=told))
        return True

    with pytest.MonkeyPatch.context() as patch:
        for module in (task, phantoms):
            patch.setattr(module, "run_watched", run_and_tell)
        for name, value in (("TRAINING", 2), ("HELD_OUT", 1), ("SIZE", 32)):
            patch.setattr(phantoms, name, value)
        patch.setattr(task, "EPOCH_LENGTH", 1)
        patch.setattr(user, "MOST", 3)
        for module in (plan, learners):
            patch.setattr(module, "EPOCHS", 2)
        yield known


@pytest.fixture(scope="module")
def output(settings, runs):
    main(**settings, seeds=0)
    return Path(settings["output_dir"])


def read_cells(output):
    return {cell["way"]: cell for cell in (json.loads(path.read_text()) for path in output.glob("cells/*.json"))}


def test_all_ways_annotate_the_same_scans(output, runs):
    cells = read_cells(output)
    alone, learning, by_random, entropy = ([scan["case"] for scan in cells[way]["scans"]] for way in WAYS)
    assert set(alone) == set(entropy) and len(set(alone)) == 3 and alone == learning == by_random
    assert [len(cells[way]["seconds"]) for way in WAYS] == [0, 1, 1, 1]
    assert all(cells[way]["scans"][0] == cells["clicks alone"]["scans"][0] for way in WAYS)
    assert cells["clicks that learn"]["scans"][1:] != cells["clicks alone"]["scans"][1:]
    proposals = [[scan["proposal"] is not None for scan in cells[way]["scans"]] for way in WAYS]
    assert proposals == [[False] * 3, [False] * 3, [False, True, True], [False, True, True]]
    assert [run.run_id for run in runs] == ["drawing", *["training"] * 3]  # cells share the trainings
    rates = [run.overrides.get("learning_rate") for run in runs[1:]]  # the network of clicks goes on gently
    assert rates == [task.LEARNING_RATE, None, task.LEARNING_RATE]
    assert "| entropy | 1 |" in (output / "table.md").read_text()
    config = json.loads((output / "automatic/configs/inference.json").read_text())
    assert (config["spacing"], config["label_names"]) == ([1.5] * 3, ["background", "left + right"])


def test_the_strategy_chooses_by_its_scores(output):
    first, second, third = (scan["case"] for scan in read_cells(output)["entropy"]["scans"])
    (path,) = output.glob("networks/*/uncertainty.json")
    scores = json.loads(path.read_text())
    assert set(scores) == {second, third} and scores[second]["entropy"] > scores[third]["entropy"]


def test_what_is_learned_from(output, settings):
    """What the clicks reached; where that is too little, the truth, on the image's grid."""
    scans = read_cells(output)["clicks alone"]["scans"]
    for scan in scans:
        label = nib.load(output / f"networks/shipped/scans/{scan['case']}.nii.gz")
        truth = nib.load(Path(settings["dataset_dir"]) / f"labelsTr/{scan['case']}.nii.gz")
        assert scan["dice"][-1] < 0.85 and np.allclose(label.affine, truth.affine)
        assert np.array_equal(label.get_fdata(), truth.get_fdata() > 0)


def test_goes_on_where_it_was_interrupted(output, settings, runs, capsys):
    before, began = read_cells(output), len(runs)
    (output / "cells/seed0_random.json").unlink()
    path = output / f"networks/shipped/scans/{before['random']['scans'][0]['case']}.json"
    path.unlink()
    half = output / "cells/.1.2.part.seed0_entropy.json"  # as another process writes it, or a kill has left it
    half.write_text("{")
    main(**settings, seeds=[0, 1], hours=0)
    assert "5 cell(s) are missing" in capsys.readouterr().out and not path.exists()
    main(**settings, seeds=0)
    half.unlink()
    assert read_cells(output) == before and len(runs) == began


def changed_bundle(settings, folder, path, **entries):
    """A copy of the bundle that follows prompts, with other entries in one of its files."""
    bundle = Path(shutil.copytree(settings["bundle"], folder / "interactive"))
    write_json(bundle / path, {**read_json(bundle / path), **entries})
    return bundle


@pytest.fixture
def two(output, settings, tmp_path):
    """Both networks, and the folder of weights that the loop has left."""
    (trained,) = (path.parent for path in output.glob("networks/*/automatic.pt"))
    made = Phantoms(output / "phantoms")
    return learners.Learners(output / "automatic", Path(settings["bundle"]), made, tmp_path / "both", 2, 1), trained


def test_networks_that_serve_stay_in_memory(two, settings):
    both, trained = two
    both.serve(trained)
    stamp = both.proposing.networks.stamp()
    both.serve(trained)
    assert both.proposing.is_valid() and both.proposing.networks.stamp() == stamp
    for name, bundle in both.bundles.items():
        assert digest(bundle.weights) == digest(trained / f"{name}.pt")
    both.serve(None)
    assert not both.proposing.is_valid()
    assert digest(both.bundles["interactive"].weights) == digest(Path(settings["bundle"]) / "models/model.pt")


def test_weights_that_are_gone_are_not_taken_for_those_that_ship(two, tmp_path):
    with pytest.raises(FileNotFoundError, match="automatic.pt"):
        two[0].serve(tmp_path)


def test_all_labels_are_learned_from_or_none(two, output, settings, runs, tmp_path):
    item = json.loads((output / "data/dataset.json").read_text())["training"][0]
    label = nib.load(item["label"])
    small = np.zeros(label.shape, np.uint8)
    small[:2, :2, 0] = 1
    nib.save(nib.Nifti1Image(small, label.affine), tmp_path / "small.nii.gz")
    labelled = learners.Labelled(Path(item["image"]), tmp_path / "small.nii.gz")
    began = len(runs)
    with pytest.raises(
        ValueError, match="interactive network cannot learn from all labels: left out 1 image.s.: one: "
    ):
        two[0].train({"one": labelled, "two": labelled._replace(label=Path(item["label"]))}, 0, tmp_path / "new")
    assert len(runs) == began and not (tmp_path / "new").exists()


def test_one_process_a_seed(settings, output):
    with FileLock(output / ".seed1.lock"), pytest.raises(ValueError, match="another process annotates seed 1 in "):
        main(**settings, seeds=(0, 1))
    main(**settings, seeds=0)


def test_what_ends_it_ends_its_trainings(settings, output, monkeypatch):
    def run(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr(loop.Loop, "run", run)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        main(**settings, seeds=0)
    assert signal.getsignal(signal.SIGTERM) == before


def test_another_way_to_train_is_another_bundle(settings, output, tmp_path):
    bundle = changed_bundle(settings, tmp_path, "configs/train.json", weight_decay=0.01)
    with pytest.raises(ValueError, match="give another folder"):
        main(**{**settings, "bundle": str(bundle)}, seeds=0)


def test_weights_of_other_settings_than_their_bundle(settings, runs, tmp_path):
    bundle = changed_bundle(settings, tmp_path, "models/as_trained.json", patch_size=[1, 1, 1])
    with pytest.raises(ValueError, match=r"model.pt was trained with other patch_size than its bundle has"):
        main(**{**settings, "bundle": str(bundle), "output_dir": str(tmp_path / "output")}, seeds=0)


def test_a_scan_that_cannot_be_trained_on(settings, runs, tmp_path):
    """It is refused before anybody clicks."""
    data = Path(shutil.copytree(settings["dataset_dir"], tmp_path / "data"))
    path = sorted((data / "imagesTr").glob("*.nii.gz"))[1]
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.full(image.shape, np.nan, np.float32), image.affine), path)
    with pytest.raises(ValueError, match=f"1 scan.s. cannot be trained on, expected none: .*{path.name}"):
        main(**{**settings, "dataset_dir": str(data), "output_dir": str(tmp_path / "output")}, seeds=0)
    assert not (tmp_path / "output/automatic").exists()


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"ways": "entropie"}, "ways is .'entropie',., expected some of clicks alone, clicks that learn, random"),
        ({"rounds": (1, 1)}, "rounds is .1, 1., expected whole numbers, ascending, between 0 and 3"),
        ({"rounds": 3}, "rounds is .3,., expected"),
        ({"automatic_steps": 15}, "automatic_steps is 15, expected a multiple of 2"),
        ({"interactive_epochs": 0}, "interactive_epochs is 0, expected"),
        ({"seeds": (0, -1)}, "seeds is .0, -1., expected whole numbers from 0 on"),
        ({"spacing": (1, 1)}, "spacing is .1, 1., expected three numbers"),
        ({"labels": 3, "output_dir": "other"}, "labels is .3,., expected .* some of .1, 2."),
        ({"scans": 5, "output_dir": "other"}, "scans is 5, but .*data has 4 scans with the structure"),
        ({"automatic_steps": 4}, "give another folder"),
        ({"dataset_dir": "nowhere", "output_dir": "other"}, "nowhere.* holds no data set"),
        ({"bundle": "nowhere"}, "nowhere.*no metadata of a segmentation bundle"),
    ],
)
def test_bad_arguments(settings, output, tmp_path, monkeypatch, told, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        main(**{**settings, "seeds": 0, **told})
