"""Retraining through the server: the bundle's own training, versions, promotion, resuming."""

import importlib
import json
import os
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from app_helpers import Server, small_bundle
from bundle_helpers import small_network

import monailabel_app.__main__
from monailabel_app.bundles import read_bundle
from monailabel_app.errors import RequestError
from monailabel_app.models import retraining
from monailabel_app.models.parameters import TrainingParameters
from monailabel_app.models.retraining import BundleTraining
from monailabel_app.models.retraining.dataset import split_cases, write_dataset
from monailabel_app.models.retraining.process import run_watched
from monailabel_app.models.retraining.promotion import may_serve, promote
from monailabel_app.models.retraining.record import TrainingRecord, read_record, write_record
from monailabel_app.models.retraining.scoring import Scores
from monailabel_app.models.versions import add_version, keep_serving, list_versions, serve_version
from monailabel_app.studies.folder import StudiesFolder
from monailabel_app.studies.submission import Submission, submit_label
from monailabel_app.tasks import Task
from rep3d.console.status import StatusFile
from rep3d.data.cases import item_name
from rep3d.data.leakage import TrainingCases, image_digests
from rep3d.data.lists import load_datalist
from rep3d.shipped import settings_beside
from rep3d.study.run import BundleProcess, BundleRun
from rep3d.training.checkpoints import save_whole
from rep3d.training.cpu import SHARED_CORES

MODEL = "msd_hippocampus"


@pytest.fixture
def bundle(tmp_path):
    return read_bundle(small_bundle(tmp_path / "bundles", MODEL))


def weights(folder, bundle, seed):
    torch.manual_seed(seed)
    path = folder / f"{seed}.pt"
    torch.save(small_network(bundle.root).state_dict(), path)
    return path


def submit(server, material, names):
    data = {"params": json.dumps({"model": MODEL})}  # other bundles have its ids, too
    for name in names:
        label = {"label": (name, material.labels[name].read_bytes())}
        answer = server.request("PUT", f"/datastore/label?image={name.removesuffix('.nii.gz')}", files=label, data=data)
        assert answer.status_code == 200, answer.text


def wait(server, *, until=("DONE", "ERROR", "STOPPED"), seconds=300):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        status = server.request("GET", "/train/").json()
        if status["status"] in until:
            return status
        time.sleep(0.1)
    raise TimeoutError(json.dumps(status))


# --- rules


def test_split_stays_as_cases_join():
    cases = [f"case_{number}" for number in range(40)]
    _, before = split_cases(dict.fromkeys(cases[:20]), 0.3)
    training, after = split_cases(dict.fromkeys(cases), 0.3)
    assert set(before) < set(after) and not set(training) & set(after)
    assert 6 <= len(after) <= 18


@pytest.mark.parametrize(("count", "fraction", "sizes"), [(1, 0.2, (1, 0)), (2, 0.01, (1, 1)), (3, 0.0, (3, 0))])
def test_split_of_few_cases(count, fraction, sizes):
    training, validation = split_cases({str(number): None for number in range(count)}, fraction)
    assert (len(training), len(validation)) == sizes


@pytest.mark.parametrize("name", "abcdefgh")
def test_no_case_changes_its_part(name):
    """From the first label on, whatever the names."""
    known = {}
    for count in range(1, 15):
        cases = [f"{name}{number}" for number in range(count)]
        training, validation = split_cases(dict.fromkeys(cases), 0.2, known)
        parts = dict.fromkeys(training, "training") | dict.fromkeys(validation, "validation")
        assert sorted(parts) == sorted(cases) and known.items() <= parts.items()
        assert bool(validation) == (count > 1)
        known = parts


@pytest.mark.parametrize(
    ("cases", "fraction", "known", "expected"),
    [
        ("ab", 0.9, {"a": "training"}, ("a", "b")),
        ("ab", 0.9, {"a": "validation"}, ("b", "a")),
        ("ab", 0.2, {"a": "training", "b": "training"}, ("ab", "")),
        ("ab", 0.0, {"a": "validation"}, ("b", "a")),
        ("ab", 0.2, {"a": "validation", "b": "validation"}, ("ab", "")),
        ("a", 0.2, {"a": "validation"}, ("a", "")),
        ("a", 0.2, {"b": "training"}, ("a", "")),
    ],
)
def test_split_of_known_cases(cases, fraction, known, expected):
    assert split_cases(dict.fromkeys(cases), fraction, known) == tuple(list(part) for part in expected)


@pytest.mark.parametrize(
    ("known", "part"),
    [
        ({}, ""),
        ({"case_7": "training"}, "training"),
        ({"case_7": "validation"}, "validation"),
        ({"case_7": "validation", "case_3": "training"}, "training"),
    ],
)
def test_an_image_under_many_names_has_one_part(known, part, bundle, material, tmp_path):
    """Whatever the names, also where some of them have their parts already."""
    first, second, *_ = material.scans.values()
    copies = {f"case_{number}": shutil.copy(first, tmp_path / f"{number}.nii.gz") for number in range(12)}
    items = {case: {"image": str(path), "label": "-"} for case, path in copies.items()}
    items["other"] = {"image": str(second), "label": "-"}
    assert all(split_cases(dict.fromkeys(items), 0.4)), "by the names alone there are copies in both"
    if known:
        cases = {part: [case for case in known if known[case] == part] for part in ("training", "validation")}
        add_version(bundle, weights(tmp_path, bundle, 7), {"cases": cases})
    parts = write_dataset(bundle, items, 0.4, tmp_path, tmp_path / "digests.json")
    assert sorted(parts.values()) == [sorted(set(items) - {"other"}), ["other"]]
    assert not part or "case_0" in parts[part]


def test_who_was_trained_on_does_not_validate(bundle, studies, material, tmp_path):
    """Also by a version that does not serve, or that never came to its end."""
    store, trainer = StudiesFolder(studies), BundleTraining(bundle)
    names = store.list_images()
    for name in names:
        store.save_label(name, str(material.labels[f"{name}.nii.gz"]), "final", {"model": MODEL})
    cases = {"training": names[:1], "validation": names[1:2]}
    add_version(bundle, weights(tmp_path, bundle, 7), {"cases": cases})
    add_version(bundle, weights(tmp_path, bundle, 8), {"cases": {"training": names[1:2], "validation": []}})
    (trainer.folder / "models").mkdir(parents=True)
    shutil.copy(weights(tmp_path, bundle, 9), trainer.folder / "models/model.pt")
    unfinished = {"status": "FAILED", "user": "ann", "cases": {"training": names[2:3], "validation": []}}
    (trainer.folder / "run.json").write_text(json.dumps(unfinished))
    trainer.prepare(store, TrainingParameters(val_split=0.9), "ann")
    assert trainer.interrupted().cases == {"training": names[:3], "validation": names[3:]}


def test_what_the_serving_weights_were_trained_on_does_not_validate(bundle, studies, material):
    """Also where that was elsewhere, under another name."""
    store, trainer = StudiesFolder(studies), BundleTraining(bundle)
    names = store.list_images()
    for name in names:
        store.save_label(name, str(material.labels[f"{name}.nii.gz"]), "final", {"model": MODEL})
    options = TrainingParameters(val_split=0.9)
    trainer.prepare(store, options, "ann")
    validated = trainer.interrupted().cases["validation"]
    assert len(validated) == 3
    digests = image_digests([str(store.image(validated[0]))])
    trained = TrainingCases(dict.fromkeys(digests.values(), "of another hospital"), {})
    save_whole(trained.mark(small_network(bundle.root).state_dict()), bundle.weights)
    trainer.prepare(store, options, "ann")
    assert validated[0] in trainer.interrupted().cases["training"]


def test_the_lists_of_a_training_keep_the_ids(bundle, studies, material):
    """Whatever the files of images and labels are called; without a case to validate with there is no list of it."""
    scans = sorted(studies.iterdir())
    for scan, name in zip(scans, ("0001.nii.gz", "0001_0000.nii.gz"), strict=False):
        scan.rename(studies / name)
    store, trainer = StudiesFolder(studies), BundleTraining(bundle)
    ids = store.list_images()
    for name, label in zip(("0001", "0001_0000", *ids[2:]), material.labels.values(), strict=True):
        store.save_label(name, str(label), "final", {"model": MODEL})
    shutil.copy(store.image(ids[2]), studies / f"{ids[2]}.nii")
    for fraction, count in ((0.5, 3), (0, 3)):
        trainer.prepare(store, TrainingParameters(val_split=fraction), "ann")
        run = trainer.interrupted()
        assert "rename all but one" in run.left_out[ids[2]]
        assert len(run.cases["training"] + run.cases["validation"]) == count
        for part in ("training", "validation") if fraction else ("training",):
            assert [item_name(item) for item in load_datalist(trainer.folder / "data", part)] == run.cases[part]
    with pytest.raises(ValueError, match="the validation list of .* is empty"):
        load_datalist(trainer.folder / "data", "validation")


@pytest.mark.parametrize(
    ("new", "serving", "promotion", "serves"),
    [
        (0.8, 0.7, "not worse", True),
        (0.7, 0.7, "not worse", True),
        (0.7, 0.7, "better", False),
        (0.6, 0.7, "not worse", False),
        (0.8, 0.7, "never", False),
        (None, None, "not worse", False),
        (float("nan"), 0.5, "not worse", False),
    ],
)
def test_promotion(new, serving, promotion, serves):
    assert may_serve(new, serving, True, promotion)[0] is serves


def test_first_weights_serve():
    assert may_serve(None, None, False, "not worse") == (True, "serves: no weights did before")


def test_weights_of_other_labels_keep_no_new_ones_from_serving(bundle, tmp_path):
    """They are refused to clients, and cannot be scored on these labels."""
    settings_beside(bundle.weights).write_text('{"label_names": ["background", "tail", "head"]}')
    scored = []

    def score(path, name):
        scored.append(name)
        return Scores(0.4)

    record = TrainingRecord("RUNNING", "ann", {"training": ["a"], "validation": ["b"]})
    result = promote(Task({}), bundle, weights(tmp_path, bundle, 7), record, "not worse", score)
    assert (scored, result["serving"], result["note"]) == (["new"], True, "serves: no weights did before")
    assert not settings_beside(bundle.weights).exists()


def test_weights_that_came_to_serve_while_new_ones_were_scored_stay(bundle, tmp_path):
    """An administrator chose them."""
    keep_serving(bundle)
    serve_version(bundle, add_version(bundle, weights(tmp_path, bundle, 6), {"user": "ann", "note": ""}))

    def score(path, name):
        serve_version(bundle, 1)
        return Scores(0.4 if name == "serving" else 0.8)

    record = TrainingRecord("RUNNING", "ann", {"training": ["a"], "validation": ["b"]})
    result = promote(Task({}), bundle, weights(tmp_path, bundle, 7), record, "not worse", score)
    note = "kept, but does not serve: other weights serve since it was scored"
    assert (result["version"], result["serving"], result["note"]) == (3, False, note)
    known = list_versions(bundle)
    assert [one["serving"] for one in known] == [True, False, False] and known[2]["note"] == note


def test_a_training_goes_on_with_what_the_serving_weights_were_trained_with(bundle, studies, material, monkeypatch):
    """Such as another spacing; one that starts anew follows the bundle."""
    told, runs = settings_beside(bundle.weights), []
    told.write_text('{"spacing": [2.0, 2.0, 2.0]}')
    store, trainer = StudiesFolder(studies), BundleTraining(bundle)
    name = store.list_images()[0]
    store.save_label(name, str(material.labels[f"{name}.nii.gz"]), "final", {"model": MODEL})
    monkeypatch.setattr(retraining.task, "run_watched", lambda task, run, *_: runs.append(run))
    for pretrained in (True, False):
        trainer.prepare(store, TrainingParameters(pretrained=pretrained, val_split=0), "ann")
        trainer.run(Task({}))
    assert [told.resolve() in run.configs for run in runs] == [True, False]


def test_versions(bundle, tmp_path):
    before = bundle.weights.read_bytes()
    keep_serving(bundle)
    keep_serving(bundle)
    for _ in range(2):
        assert add_version(bundle, weights(tmp_path, bundle, 7), {"user": "ann", "note": "x"}) == 2
    assert [(v["version"], v["serving"]) for v in list_versions(bundle)] == [(1, True), (2, False)]
    assert serve_version(bundle, 2)["user"] == "ann"
    assert bundle.weights.read_bytes() == (tmp_path / "7.pt").read_bytes()
    serve_version(bundle, 1)
    assert bundle.weights.read_bytes() == before
    with pytest.raises(RequestError, match="has no version 3"):
        serve_version(bundle, 3)


def test_an_interrupted_addition_is_no_version(bundle, tmp_path, monkeypatch):
    keep_serving(bundle)
    monkeypatch.setattr("monailabel_app.history.write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        add_version(bundle, weights(tmp_path, bundle, 7), {})
    monkeypatch.undo()
    assert len(list_versions(bundle)) == 1
    assert add_version(bundle, tmp_path / "7.pt", {}) == 2


# --- labels that were put into the folder by hand


@pytest.fixture
def by_hand(studies, material):
    """A store, and its one image whose label nobody submitted."""
    store = StudiesFolder(studies)
    name = store.list_images()[0]
    shutil.copy(material.labels[f"{name}.nii.gz"], store.root / "labels/final")
    return store, name


def test_a_label_by_hand_of_the_only_model(by_hand, bundle):
    store, name = by_hand
    items, left_out = BundleTraining(bundle).check(store, TrainingParameters())
    assert list(items) == [name] and left_out == {}
    assert store.get_label_info(name, "final")["ids"] == [1, 2]


def test_a_label_by_hand_that_may_be_of_several_models(by_hand, bundle, material, caplog):
    """It trains none of them, and that is said; a submitted one trains its own."""
    store, name = by_hand
    other = store.list_images()[1]
    store.save_label(other, str(material.labels[f"{other}.nii.gz"]), "final", {"model": MODEL})
    served = [bundle, read_bundle(material.bundles / "amos_ct")]
    trainer = BundleTraining(bundle, served=served)
    reason = "its label was put there by hand, and may be of msd_hippocampus, amos_ct: serve one, or submit it"
    for _ in range(2):  # the second time the ids are known
        items, left_out = trainer.check(store, TrainingParameters())
        assert list(items) == [other] and left_out == {name: reason}
    assert f"training goes without {name}: {reason}" in caplog.text
    store.remove_label(other, "final")
    with pytest.raises(RequestError, match=f"no submitted label for .*; left out 1 image.*{reason}"):
        trainer.check(store, TrainingParameters())


@pytest.mark.parametrize("empty", [True, False])
def test_a_label_of_some_structures_is_named(empty, studies, material, bundle):
    """It is learned from: the scan may show no others. 3D Slicer names a segment also where it is empty."""
    store, served, trainer = StudiesFolder(studies), {bundle.name: bundle}, BundleTraining(bundle)
    (first, second), (anterior, posterior) = store.list_images()[:2], bundle.labels
    some = [anterior, posterior] if empty else [anterior]
    for image, names in ((first, some), (second, [posterior, anterior.title()])):
        label = Path(material.labels[f"{image}.nii.gz"])
        if image == first:
            label = shutil.copy(label, studies.parent / "first.nii.gz")
            volume = nib.load(label)
            nib.save(nib.Nifti1Image((volume.get_fdata() == 1).astype(np.uint8), volume.affine), label)
        submit_label(store, served, Submission(image, Path(label), {}, names=names))
    trainer.prepare(store, TrainingParameters(), "ann")
    record = read_record(trainer.folder)
    assert record.left_out == {} and sorted(sum(record.cases.values(), [])) == sorted([first, second])
    expected = "what a label does not show counts as background"
    assert record.remarks == f"{expected}: no {posterior} in 1 of 2 label(s), such as {first}"


@pytest.mark.parametrize("change", ["swapped", "renamed", "added", "spelt"])
def test_a_bundle_that_numbers_its_structures_otherwise_by_now(change, studies, material, bundle):
    """A label keeps the ids that it was stored with: as those of other structures it teaches nothing."""
    store = StudiesFolder(studies)
    image = store.list_images()[0]
    anterior, posterior = bundle.labels
    submit_label(store, {bundle.name: bundle}, Submission(image, Path(material.labels[f"{image}.nii.gz"]), {}))
    labels = {
        "swapped": {posterior: 1, anterior: 2},
        "renamed": {"head": 1, posterior: 2},
        "added": {anterior: 1, posterior: 2, "tail": 3},
        "spelt": {anterior.title(): 1, posterior.title(): 2},
    }[change]
    trainer = BundleTraining(replace(bundle, labels=labels))
    if change in ("swapped", "renamed"):
        others = {"swapped": {anterior: 1, posterior: 2}, "renamed": {anterior: 1}}[change]
        with pytest.raises(RequestError, match=re.escape(f"ids than those of the bundle by now, {others}: submit it")):
            trainer.prepare(store, TrainingParameters(), "ann")
    else:
        trainer.prepare(store, TrainingParameters(), "ann")
        told = f"no tail in 1 of 1 label(s), such as {image}"
        assert read_record(trainer.folder).remarks.partition("background: ")[2] == (told if change == "added" else "")


def test_an_image_that_was_exchanged_after_it_was_labelled(studies, material, bundle):
    """On the same grid, so that nothing else would tell. A file that was only touched is the same."""
    store, trainer = StudiesFolder(studies), BundleTraining(bundle)
    first, second, third = store.list_images()[:3]
    for image in (first, second):
        submit_label(store, {bundle.name: bundle}, Submission(image, Path(material.labels[f"{image}.nii.gz"]), {}))
    store.image(first).touch()
    scan, grid = nib.load(material.scans[f"{third}.nii.gz"]), nib.load(material.scans[f"{second}.nii.gz"])
    other = np.resize(scan.get_fdata(dtype=np.float32), grid.shape)
    nib.save(nib.Nifti1Image(other, grid.affine), store.image(second))
    trainer.prepare(store, TrainingParameters(), "ann")
    record = read_record(trainer.folder)
    assert record.left_out == {} and sorted(sum(record.cases.values(), [])) == [first, second]
    assert record.remarks == f"1 image(s) are other files than those that were labelled, check them: {second}"


def test_a_label_by_hand_of_another_model(by_hand, bundle, material):
    store, name = by_hand
    path = store.label(name, "final")
    label = nib.load(path)
    nib.save(nib.Nifti1Image((np.asarray(label.dataobj) > 0).astype(np.uint8) * 9, label.affine), path)
    served = [bundle, read_bundle(material.bundles / "amos_ct")]
    assert list(BundleTraining(served[1], served=served).check(store, TrainingParameters())[0]) == [name]
    with pytest.raises(RequestError, match=r"ids of another model: \[9\]"):
        BundleTraining(bundle, served=served).check(store, TrainingParameters())


def test_a_label_by_hand_that_is_no_label(by_hand, bundle):
    store, name = by_hand
    shutil.copy(store.image(name), store.label(name, "final"))
    with pytest.raises(RequestError, match=rf"{name}: \d+ other label value"):
        BundleTraining(bundle).check(store, TrainingParameters())


def test_stats_of_a_running_training(bundle):
    trainer = BundleTraining(bundle)
    assert trainer.stats() == {}
    trainer.models.mkdir(parents=True)
    write_record(trainer.folder, TrainingRecord("RUNNING", options={"max_epochs": 4}))
    assert trainer.stats() == {"epoch": 0, "total_epochs": 4}
    status = StatusFile(trainer.status_file)
    status.update({"epoch": 2, "loss": 0.1234})
    assert trainer.stats() == {"epoch": 2, "total_epochs": 4}
    status.update({"metric": 0.75049})
    status.end("finished")
    assert trainer.stats() == {"epoch": 2, "total_epochs": 4, "best_metric": 0.75}


def test_progress_reaches_the_task(bundle, tmp_path, monkeypatch):
    """Of a run that tells it, and the reason why it failed, without the paths of the server."""
    told = StatusFile(tmp_path / "status.json")
    told.update({"epoch": 1, "epochs": 2, "step": 3, "steps": 8, "loss": 0.12349, "metric": 0.5})
    told.end("failed", "ValueError: /home/ann/scans/a.nii.gz: expected labels")
    write = f"import sys; open({str(tmp_path / 'status.json')!r}, 'w').write({told.path.read_text()!r}); sys.exit(1)"
    monkeypatch.setattr(BundleProcess, "_module", ["-c", write])
    run, task = BundleRun(bundle.root, "training", ["train.json"]), Task({})
    with pytest.raises(RequestError, match="training failed: ValueError: a.nii.gz: expected labels$"):
        run_watched(task, run, tmp_path, told.path)
    assert list(task.details) == ["epoch 1 of 2, step 3 of 8, loss 0.123, validation Dice 0.500"]
    assert task.progress == {"epoch": 1, "epochs": 2, "step": 3, "steps": 8, "loss": "0.123", "val_dice": "0.500"}


def test_trainings_come_after_users(bundle, tmp_path, monkeypatch):
    wait = f"""
import os, pathlib, time
for _ in range(1000):
    if os.nice(0) == 19: break
    time.sleep(0.01)
pathlib.Path({str(tmp_path / "nice")!r}).write_text(str(os.nice(0)))
"""
    monkeypatch.setattr(BundleProcess, "_module", ["-c", wait])
    assert run_watched(Task({}), BundleRun(bundle.root, "training", ["train.json"]), tmp_path, tmp_path / "status.json")
    assert (tmp_path / "nice").read_text() == "19"


def test_a_training_leaves_cores_to_the_server(bundle, tmp_path, monkeypatch):
    tell = f"import os, pathlib; pathlib.Path({str(tmp_path / 'threads')!r}).write_text(os.environ['OMP_NUM_THREADS'])"
    monkeypatch.setattr(BundleProcess, "_module", ["-c", tell])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    run = BundleRun(bundle.root, "training", ["train.json"])
    for spared, threads in ((1, "3"), (0, "4"), (5, "1")):
        assert run_watched(Task({}), run, tmp_path, tmp_path / "status.json", spared)
        assert (tmp_path / "threads").read_text() == threads


def test_the_server_shares_its_cores_as_trainings_do(monkeypatch):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    importlib.reload(monailabel_app.__main__)
    assert {"GOMP_SPINCOUNT": os.environ["GOMP_SPINCOUNT"]} == SHARED_CORES


# --- the server


@pytest.fixture
def running(material, bundle, studies, tmp_path):
    with Server(tmp_path, bundles=str(bundle.root.parent), models=MODEL, warm_up="false") as server:
        yield server


@pytest.mark.slow
def test_from_labels_to_a_new_version(running, material, bundle):
    assert running.request("POST", f"/train/{MODEL}", json={}).status_code == 400
    names = sorted(material.labels)
    submit(running, material, names[:3])
    shutil.copy(material.scans[names[3]], running.studies / "labels/final")  # by hand, and no label
    started = running.request("POST", f"/train/{MODEL}", json={"max_epochs": 2, "val_split": 0.3, "device": "cpu"})
    assert started.status_code == 200 and started.json()["status"] in ("SUBMITTED", "RUNNING")
    assert running.request("POST", f"/train/{MODEL}", json={}).status_code == 429
    assert running.request("GET", "/train/?check_if_running=true").status_code == 200
    start = time.perf_counter()
    assert running.request("GET", "/info/").status_code == 200
    assert time.perf_counter() - start < 1
    status = wait(running)
    assert status["status"] == "DONE", status
    assert any(detail.startswith("left out 1 image(s): ") for detail in status["details"])
    assert status["progress"]["epochs"] == 2 and 0 <= status["result"]["dice"]["new"] <= 1
    shown = status["result"]["dice"]["new" if status["result"]["serving"] else "serving"]
    assert running.request("GET", "/info/").json()["train_stats"][MODEL]["best_metric"] == shown
    versions = running.request("GET", f"/model/{MODEL}/versions").json()
    assert [version["version"] for version in versions] == [1, 2]
    assert sorted(sum(versions[1]["cases"].values(), [])) == [name.removesuffix(".nii.gz") for name in names[:3]]
    assert versions[1]["user"] == "local" and versions[1]["serving"] is status["result"]["serving"]
    image = names[3].removesuffix(".nii.gz")
    for number in (2, 1):
        assert running.request("POST", f"/model/{MODEL}/versions/{number}").json()["serving"]
        assert running.request("POST", f"/infer/{MODEL}?image={image}&output=json").status_code == 200
    assert running.request("GET", "/train/?check_if_running=true").status_code == 404


@pytest.mark.slow
def test_one_label_for_several_models(material, studies, tmp_path):
    """What has labels is trained with its own parameters; what has none does not keep it from that.

    Without validation nothing shows that the new weights are good: they are kept, and serve on demand. A training that
    fails says why.
    """
    shutil.copytree(material.bundles, tmp_path / "bundles")
    conf = {"bundles": str(tmp_path / "bundles"), "models": f"{MODEL},amos_ct", "warm_up": "false", "scoring": "false"}
    with Server(tmp_path, **conf) as running:
        assert running.request("POST", "/train/", json={}).status_code == 400
        submit(running, material, sorted(material.labels)[:1])
        answer = running.request(
            "POST", "/train/", json={MODEL: {"max_epochs": "1"}, "amos_ct": {"max_epochs": 2}}
        ).json()
        assert answer[MODEL]["result"]["request"]["max_epochs"] == 1
        assert answer["amos_ct"]["result"] is None and "no submitted label" in answer["amos_ct"]["detail"]
        status = wait(running)
        assert status["status"] == "DONE", status
        assert not status["result"]["serving"] and "without validation" in status["result"]["note"]
        versions = running.request("GET", f"/model/{MODEL}/versions").json()

        config = tmp_path / f"bundles/{MODEL}/configs/train.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "learning_rate": "$1 / 0"}))
        running.request("POST", f"/train/{MODEL}", json={"max_epochs": 1})
        status = wait(running)
        assert status["status"] == "ERROR" and "training failed: ZeroDivisionError" in status["details"][-1]
        assert running.request("GET", f"/model/{MODEL}/versions").json() == versions


@pytest.mark.slow
def test_killed_server_goes_on(running, material, bundle):
    submit(running, material, sorted(material.labels)[:2])
    running.request("POST", f"/train/{MODEL}", json={"max_epochs": 400})
    last = bundle.root / "models/retraining/models/last.pt"
    deadline = time.monotonic() + 120
    while not last.is_file() and time.monotonic() < deadline:
        time.sleep(0.2)
    running.stop(kill=True)
    running.start()
    status = running.request("GET", "/train/").json()
    assert status["request"] == {"model": MODEL, "resumed": True}
    log = bundle.root / "models/retraining/training.log"
    deadline = time.monotonic() + 120
    while "resume: going on after epoch" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert "resume: going on after epoch" in log.read_text()
    while not running.request("GET", "/train/").json()["progress"] and time.monotonic() < deadline:
        time.sleep(0.2)
    stopped = running.request("DELETE", "/train/").json()
    assert stopped["status"] == "STOPPED" and stopped["details"][-1].startswith("stopped in epoch ")
    assert wait(running)["status"] == "STOPPED"
    running.stop()
    running.start()
    assert running.request("GET", "/train/").status_code == 404  # what was stopped stays so
