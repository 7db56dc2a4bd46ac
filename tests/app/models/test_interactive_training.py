"""Training the bundle that follows prompts on submitted labels: what it learns from, and which weights serve."""

import json
import shutil
import time

import nibabel as nib
import numpy as np
import pytest
import torch
from app_helpers import Server, small_bundle
from prompt_helpers import prompt_bundle, start_app

from monailabel_app.bundles import read_bundle
from monailabel_app.commands import run_command
from monailabel_app.dicomweb.synchronization import Synchronization
from monailabel_app.errors import RequestError
from monailabel_app.models.parameters import TrainingParameters
from monailabel_app.models.retraining import BundleTraining
from monailabel_app.models.retraining.phantoms import Phantoms
from monailabel_app.models.retraining.promotion import promote
from monailabel_app.models.retraining.record import TrainingRecord
from monailabel_app.models.retraining.scoring import Scores
from monailabel_app.models.versions import add_version, list_versions
from monailabel_app.studies.folder import StudiesFolder
from monailabel_app.tasks import Task

MODEL = "interactive"
FEW = {
    "monailabel_app.models.retraining.phantoms.TRAINING": 3,
    "monailabel_app.models.retraining.phantoms.HELD_OUT": 1,
    "monailabel_app.models.retraining.phantoms.SIZE": 32,
    "monailabel_app.models.retraining.task.EPOCH_LENGTH": 1,
}


def wait(server, seconds=240):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        status = server.request("GET", "/train/").json()
        if status["status"] in ("DONE", "ERROR", "STOPPED"):
            return status
        time.sleep(0.1)
    raise TimeoutError(json.dumps(status))


def click(server, image, label, voxel):
    params = {"label": label, "foreground": [voxel], "client_id": "slicer"}
    answer = server.request("POST", f"/infer/{MODEL}?image={image}", files={"params": (None, json.dumps(params))})
    assert answer.status_code == 200, answer.text


@pytest.mark.slow
def test_from_clicks_on_a_new_structure_to_a_new_version(material, studies, tmp_path):
    """No bundle has the structure; a label of another bundle teaches as well."""
    bundles = tmp_path / "bundles"
    small_bundle(bundles, MODEL)
    shutil.copytree(material.bundles / "msd_hippocampus", bundles / "msd_hippocampus")
    conf = {"bundles": str(bundles), "models": "msd_hippocampus", "warm_up": "false", "scoring": "false"}
    with Server(tmp_path, constants=FEW, **conf) as server:
        assert server.request("POST", f"/train/{MODEL}", json={}).status_code == 400
        for number, (file, label) in enumerate(sorted(material.labels.items())[:3]):
            image, names = file.removesuffix(".nii.gz"), []
            if number:
                click(server, image, "atrium", [10, 10, 5])
                names = [{"name": "atrium"}, {"name": "appendage"}]
            files = {"label": (file, label.read_bytes()), "params": (None, json.dumps({"label_info": names}))}
            answer = server.request("PUT", f"/datastore/label?image={image}", files=files)
            assert answer.status_code == 200, answer.text
        info = server.request("GET", f"/datastore/label/info?label={image}&tag=final").json()
        assert info["model"] == MODEL and info["label_names"] == {"atrium": 1, "appendage": 2}
        prompts = json.loads((server.studies / f"labels/versions/{image}/0001.prompts.json").read_text())
        assert len(prompts[0]["labels"]["atrium"][0]["positions"]) == 1

        started = server.request("POST", f"/train/{MODEL}", json={"max_epochs": 1, "val_split": 0.3, "device": "cpu"})
        assert started.status_code == 200, started.text
        status = wait(server)
        assert status["status"] == "DONE", status["details"]
        result = status["result"]
        assert {"new", "serving"} == set(result["dice"]) == set(result["phantoms"])
        versions = server.request("GET", f"/model/{MODEL}/versions").json()
        assert [version["version"] for version in versions] == [1, 2]
        assert len(sum(versions[1]["cases"].values(), [])) == 3 and versions[1]["phantoms"] == result["phantoms"]
        for number in (2, 1):
            assert server.request("POST", f"/model/{MODEL}/versions/{number}").json()["serving"]
            click(server, image, f"other {number}", [12, 10, 5])
        assert (server.app / "anatomy/held_out/dataset.json").is_file()


# --- rules, without a training


@pytest.fixture
def bundle(tmp_path):
    return read_bundle(prompt_bundle(tmp_path / "bundles"), prompts=True)


@pytest.mark.parametrize(
    ("of_cases", "of_phantoms", "serves"),
    [
        ((0.9, 0.8), (0.70, 0.71), True),
        ((0.9, 0.8), (0.6999, 0.71), False),
        ((0.8, 0.9), (0.9, 0.7), False),
        ((0.8, 0.8), (0.7, 0.7), True),
        ((0.9, 0.8), (float("nan"), 0.7), False),
    ],
)
def test_who_forgets_does_not_serve(bundle, tmp_path, of_cases, of_phantoms, serves):
    new = shutil.copy(bundle.weights, tmp_path / "new.pt")
    weights = torch.load(new)
    torch.save({**weights, "bias": weights["bias"] + 1}, new)
    known = {
        name: Scores(*both)
        for name, both in zip(("new", "serving"), zip(of_cases, of_phantoms, strict=True), strict=True)
    }
    record = TrainingRecord("RUNNING", "ann", {"training": ["a"], "validation": ["b"]})
    result = promote(Task({}), bundle, new, record, "not worse", lambda weights, name: known[name])
    assert result["serving"] is serves and result["phantoms"]["serving"] == of_phantoms[1]
    assert ("forgotten" in result["note"]) == (of_cases[0] >= of_cases[1] and not serves)
    assert [(one["version"], one["serving"]) for one in list_versions(bundle)] == [(1, not serves), (2, serves)]


def test_its_versions_on_the_command_line(bundle, tmp_path):
    add_version(bundle, bundle.weights, {"user": "ann", "note": "the first"})
    shown = run_command(["versions", "--model", MODEL], bundle.root.parent)
    assert "the first" in shown and shown.count("\n") == 1
    assert run_command(["serve_version", "--model", MODEL, "--version", "1"], bundle.root.parent).endswith("serves")


def save(store, name, label, folder, **info):
    affine = nib.load(store.image(name)).affine
    nib.save(nib.Nifti1Image(label.astype(np.uint8), affine), folder / f"{name}.nii.gz")
    store.save_label(name, str(folder / f"{name}.nii.gz"), "final", info)


def test_it_learns_from_the_labels_of_all_bundles(bundle, studies, material, tmp_path):
    """Also from those that were put there by hand; not from one that shows no structure."""
    store = StudiesFolder(studies)
    first, second, third, fourth = store.list_images()
    label = np.asarray(nib.load(material.labels[f"{first}.nii.gz"]).dataobj)
    save(store, first, label, tmp_path, model="msd_hippocampus")
    shutil.copy(material.labels[f"{second}.nii.gz"], store.root / "labels/final")
    shape = nib.load(store.image(third)).shape
    save(store, third, np.zeros(shape), tmp_path, model="interactive")
    save(store, fourth, np.indices(nib.load(store.image(fourth)).shape).sum(0) < 2, tmp_path, model="interactive")
    trainer = BundleTraining(bundle, phantoms=Phantoms(tmp_path / "anatomy"))
    for _ in range(2):  # the second time it is known
        items, left_out = trainer.check(store, TrainingParameters())
        assert list(items) == [first, second] and set(left_out) == {third, fourth}
        assert set(left_out.values()) == {"its label has no structure of at least 8 voxels"}
    assert store.get_label_info(third, "final")["largest_structure"] == 0


def test_what_it_needs(studies, tmp_path):
    store, options = StudiesFolder(studies), TrainingParameters()
    bundle = read_bundle(prompt_bundle(tmp_path / "bundles", weights=False), prompts=True)
    with pytest.raises(RequestError, match="model 'interactive' has no weights to go on from"):
        BundleTraining(bundle, phantoms=Phantoms(tmp_path / "anatomy")).check(store, options)
    with pytest.raises(RequestError, match="setting anatomy names a folder without dataset.json"):
        BundleTraining(bundle, phantoms=Phantoms(tmp_path / "anatomy", given=tmp_path)).check(store, options)


def test_names_that_nobody_showed_stay_refused(studies, material, tmp_path):
    """They are misspelt rather than new."""
    prompt_bundle(tmp_path / "bundles")
    small_bundle(tmp_path / "bundles", "msd_hippocampus")
    client = start_app(tmp_path, studies, tmp_path / "bundles")
    file, label = next(iter(material.labels.items()))
    params = json.dumps({"label_info": [{"name": "anterior hipocampus"}]})
    files = {"label": (file, label.read_bytes()), "params": (None, params)}
    answer = client.put(f"/datastore/label?image={file.removesuffix('.nii.gz')}", files=files)
    assert answer.status_code == 400 and "no model has all the segments" in answer.json()["detail"]


def test_a_new_structure_has_its_own_names_in_the_pacs(bundle, studies):
    synchronization = Synchronization(None, StudiesFolder(studies), {}, bundle, send=True)
    found = synchronization._bundle_of({"model": MODEL, "label_names": {"atrium": 1}})
    assert (found.name, found.labels) == (MODEL, {"atrium": 1})
    assert synchronization._bundle_of({"model": "other"}) is None
