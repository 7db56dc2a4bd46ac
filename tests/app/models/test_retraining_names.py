"""Training on images whose files share a name in different folders, or have odd ones."""

import shutil
import subprocess
import sys

import psutil
import pytest
from app_helpers import small_bundle

from monailabel_app.bundles import read_bundle
from monailabel_app.models.parameters import TrainingParameters
from monailabel_app.models.retraining import BundleTraining
from monailabel_app.models.retraining.process import PROCESS
from monailabel_app.studies.folder import StudiesFolder
from monailabel_app.tasks import Task
from rep3d.data.cases import item_name
from rep3d.data.lists import load_datalist
from rep3d.files import write_json

MODEL = "msd_hippocampus"
NAMES = ["ann/T1", "bob/T1", "T1#2", "T1"]


@pytest.fixture
def store(studies, material):
    for scan, name in zip(sorted(studies.iterdir()), NAMES, strict=True):
        (studies / name).parent.mkdir(exist_ok=True)
        scan.rename(studies / f"{name}.nii.gz")
    store = StudiesFolder(studies)
    for name, label in zip(NAMES, material.labels.values(), strict=True):
        store.save_label(name, str(label), "final", {"model": MODEL})
    return store


@pytest.fixture
def trainer(tmp_path):
    return BundleTraining(read_bundle(small_bundle(tmp_path / "bundles", MODEL)))


def test_every_case_trains_under_its_id(store, trainer):
    trainer.prepare(store, TrainingParameters(val_split=0.5), "ann")
    run = trainer.interrupted()
    assert sorted(run.cases["training"] + run.cases["validation"]) == sorted(store.list_images()) and not run.left_out
    for part, cases in run.cases.items():
        items = load_datalist(trainer.folder / "data", part)
        assert [item_name(item) for item in items] == cases
        for item in items:
            assert item["image"] == str(store.image(item_name(item))) and item_name(item) in item["label"]


def test_labels_that_cannot_train_are_told(store, trainer):
    """And files that are no labels are not: they have nothing to do with a training."""
    final = store.root / "labels/final"
    shutil.copy(final / "T1.nii.gz", final / "gone.nii.gz")
    shutil.copy(store.image("T1"), store.root / "T1.nii")
    for name in ("labels/final/T2.nrrd", "dataset.json"):
        (store.root / name).touch()
    items, left_out = trainer.check(store, TrainingParameters())
    assert sorted(items) == sorted(image for image in store.list_images())
    assert left_out.keys() == {"T1", "labels/final/T2.nrrd", "labels/final/gone.nii.gz"}


def test_what_was_stopped_while_it_waited_does_not_begin(store, trainer):
    trainer.prepare(store, TrainingParameters(), "ann")
    task = Task({})
    task.stopping.set()
    assert trainer.run(task) == {"note": "stopped"}
    assert trainer.interrupted() is None and not (trainer.folder / PROCESS).exists()


def test_what_a_killed_server_left_running_writes_nothing_into_the_next_training(store, trainer):
    trainer.prepare(store, TrainingParameters(), "ann")
    (trainer.models / "last.pt").parent.mkdir()
    (trainer.models / "last.pt").touch()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as orphan:
        try:
            started = psutil.Process(orphan.pid).create_time()
            write_json(trainer.folder / PROCESS, {"pid": orphan.pid, "started": started})
            trainer.prepare(store, TrainingParameters(), "bob")
            orphan.wait(5)
            assert not (trainer.models / "last.pt").exists()
        finally:
            orphan.kill()
