"""Training the bundle that follows prompts on submitted labels: what it learns from, and which weights serve."""

import gzip
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
from monailabel_app.models.retraining import BundleTraining, task
from monailabel_app.models.retraining.averaging import save_half_way
from monailabel_app.models.retraining.phantoms import Phantoms
from monailabel_app.models.retraining.promotion import promote
from monailabel_app.models.retraining.record import TrainingRecord
from monailabel_app.models.retraining.scoring import Scores
from monailabel_app.models.versions import add_version, list_versions
from monailabel_app.studies.folder import StudiesFolder
from monailabel_app.tasks import Task
from rep3d.training.checkpoints import read_weights

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
        trainers = server.request("GET", "/info/").json()["trainers"]
        epochs = {name: trainer["config"]["max_epochs"] for name, trainer in trainers.items()}
        assert epochs == {MODEL: 2, "msd_hippocampus": 50}
        assert server.request("POST", f"/train/{MODEL}", json={}).status_code == 400
        for number, (file, label) in enumerate(sorted(material.labels.items())[:3]):
            image, names = file.removesuffix(".nii.gz"), []
            if number:
                names = [{"name": "atrium"}, {"name": "appendage"}]
                for one in names:
                    click(server, image, one["name"], [10, 10, 5])
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
    folder = bundles / MODEL / "models/retraining"
    began, ended, new = (read_weights(folder / name) for name in ("began.pt", "ended.pt", "models/model.pt"))
    weights = [name for name in new if new[name].is_floating_point()]
    assert any((began[name] != ended[name]).any() for name in weights)
    for name in weights:
        torch.testing.assert_close(new[name], (began[name] + ended[name]) / 2)


# --- rules, without a training


@pytest.mark.parametrize(("width", "expected"), [(2, [2.0, 3.0]), (3, [3.0, 5.0])])
def test_weights_half_way(width, expected, tmp_path):
    """In half precision as they may ship; counters, and the weights of another network, are as they were trained."""
    torch.save({"w": torch.ones(width, dtype=torch.float16), "count": torch.tensor(1)}, tmp_path / "began.pt")
    torch.save({"network": {"w": torch.tensor([3.0, 5.0]), "count": torch.tensor(9)}}, tmp_path / "ended.pt")
    save_half_way(tmp_path / "began.pt", tmp_path / "ended.pt", tmp_path / "new.pt")
    found = torch.load(tmp_path / "new.pt", weights_only=True)
    assert found["w"].dtype == torch.float32 and found["w"].tolist() == expected and found["count"] == 9


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


@pytest.mark.parametrize(("drawn", "serves"), [("the same", False), ("others", True)])
def test_what_trainings_forget_does_not_add_up(bundle, tmp_path, drawn, serves):
    """Each is a little worse than the one before it: what counts is the best that has served on the same phantoms."""
    record, results = TrainingRecord("RUNNING", "ann", {"training": ["a"], "validation": ["b"]}), []
    phantoms = [0.71, 0.705, 0.701, 0.695]
    for number, volumes in enumerate(("the same", "the same", drawn)):
        new, weights = tmp_path / f"{number}.pt", torch.load(bundle.weights)
        torch.save({**weights, "bias": weights["bias"] + 1}, new)
        known = {
            "new": Scores(0.9, phantoms[number + 1], volumes),
            "serving": Scores(0.8, phantoms[number], volumes),
        }
        results.append(promote(Task({}), bundle, new, record, "not worse", lambda _, name, known=known: known[name]))
    assert [result["serving"] for result in results] == [True, True, serves]
    assert ("phantoms 0.6950, of the best weights that have served 0.7100" in results[-1]["note"]) is not serves


def test_half_way_from_the_weights_that_a_training_really_began_with(bundle, tmp_path, monkeypatch):
    """Others may serve when one begins anew after a kill; one that goes on from its own checkpoint has begun before."""
    monkeypatch.setattr(task, "run_watched", lambda *_: False)
    monkeypatch.setattr(BundleTraining, "_mixed", lambda *_: {})
    trainer = BundleTraining(bundle, phantoms=Phantoms(tmp_path / "anatomy"))
    trainer.models.mkdir(parents=True)
    for serving, expected in ((1.0, 1.0), (2.0, 2.0), (3.0, 2.0)):
        torch.save({**torch.load(bundle.weights), "bias": torch.tensor([serving])}, bundle.weights)
        trainer._train(Task({}), TrainingParameters(), "cpu", validated=False)
        assert read_weights(trainer.folder / "began.pt")["bias"].item() == expected
        if serving == 2:
            (trainer.models / "last.pt").touch()


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


@pytest.fixture
def client(studies, tmp_path):
    """The app with two bundles and the one that takes prompts."""
    prompt_bundle(tmp_path / "bundles")
    for name in ("amos_ct", "msd_hippocampus"):
        small_bundle(tmp_path / "bundles", name)
    return start_app(tmp_path, studies, tmp_path / "bundles")


def submit(client, material, *names):
    """A label of the first scan whose voxels are of the named segments, the first and the last half of its own ones.

    As 3D Slicer does it: with an empty segment for each label of all models besides.
    """
    file, path = next(iter(material.labels.items()))
    segments = list(dict.fromkeys(("background", *client.get("/info/").json()["labels"], *names)))
    volume = nib.load(path)
    drawn = np.asarray(volume.dataobj).astype(np.uint8)
    values = np.array([0, segments.index(names[0]), segments.index(names[-1])], np.uint8)
    label = gzip.compress(nib.Nifti1Image(values[drawn], volume.affine).to_bytes())
    params = json.dumps({"label_info": [{"name": name} for name in segments]})
    files = {"label": ("label.nii.gz", label), "params": (None, params)}
    image = file.removesuffix(".nii.gz")
    return image, client.put(f"/datastore/label?image={image}", files=files)


def point_at(client, label, model=MODEL):
    image = client.services.studies.list_images()[0]
    params = {"label": label, "foreground": [[10, 10, 5]], "client_id": "slicer"}
    answer = client.post(f"/infer/{model}?image={image}", files={"params": (None, json.dumps(params))})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("clicked", [None, "atrium", "anterior hippocampus"])
@pytest.mark.parametrize("bundle", ["msd_hippocampus", "amos_ct"])
def test_empty_segments_take_no_label_from_its_bundle(bundle, clicked, client, material):
    if clicked:
        point_at(client, clicked)
    served = client.services.bundles[bundle]
    names = list(served.labels)[:2]
    image, answer = submit(client, material, *names)
    assert answer.status_code == 200, answer.text
    info = client.services.studies.get_label_info(image, "final")
    assert info["model"] == bundle and info["label_names"] == served.labels and "unnamed" not in info
    stored = np.unique(nib.load(client.services.studies.label(image, "final")).dataobj)
    assert stored.tolist() == [0, *(served.labels[name] for name in names)]
    items, left_out = client.services.trainers[bundle].check(client.services.studies, TrainingParameters())
    assert list(items) == [image] and left_out == {}


@pytest.mark.parametrize("added", ["atrium", "liver"])
def test_a_label_of_several_models_segments_is_named_where_it_does_not_teach(added, client, material):
    """Somebody added one structure; the bundle that has the others says why it goes without."""
    point_at(client, "atrium")
    image, answer = submit(client, material, "anterior hippocampus", added)
    assert answer.status_code == 200, answer.text
    names = ["anterior hippocampus", "atrium"] if added == "atrium" else ["liver", "anterior hippocampus"]
    info = client.services.studies.get_label_info(image, "final")
    assert (info["model"], sorted(info["label_names"])) == (MODEL, sorted(names))
    trainers, studies = client.services.trainers, client.services.studies
    with pytest.raises(
        RequestError, match=f"its segments are {', '.join(info['label_names'])}, and so .* 'interactive'"
    ):
        trainers["msd_hippocampus"].check(studies, TrainingParameters())
    with pytest.raises(RequestError, match="no submitted label") as caught:
        trainers["amos_ct"].check(studies, TrainingParameters())
    assert ("its segments are" in caught.value.message) is (added == "liver")
    assert list(trainers[MODEL].check(studies, TrainingParameters())[0]) == [image]


@pytest.mark.parametrize("clicked", [None, "atrium"])
def test_names_that_nobody_showed_stay_refused(clicked, client, material):
    """They are misspelt rather than new."""
    if clicked:
        point_at(client, clicked)
    image, answer = submit(client, material, "anterior hipocampus", "posterior hippocampus")
    told = answer.json()["detail"]
    assert answer.status_code == 400 and "no model has all the segments ['posterior hippocampus', 'ant" in told
    assert ("shown under the name(s) ['anterior hipocampus']" in told and "were ['atrium']" in told) is bool(clicked)
    assert client.services.studies.versions(image) == []


@pytest.mark.parametrize("shown", ["", "segment", "segment 1", "Segment_1"])
def test_what_a_program_named_may_have_any_name(shown, client, material):
    """nnInteractive's modules and OHIF tell no names; 3D Slicer makes some up, until the user gives another one."""
    point_at(client, shown)
    image, answer = submit(client, material, "atrium")
    assert answer.status_code == 200, answer.text
    info = client.services.studies.get_label_info(image, "final")
    assert (info["model"], info["label_names"]) == (MODEL, {"atrium": 1})


def test_a_new_structure_on_a_scan_of_ones_own(client, material):
    """MONAI Label 0.8.5's module lends the scan, and adds it to the studies when its label is submitted."""
    file, path = next(iter(material.labels.items()))
    scan = material.scans[file].read_bytes()
    lent = client.put("/session/", files={"files": (file, scan)}).json()["session_id"]
    params = {"label": "atrium", "foreground": [[10, 10, 5]], "client_id": "slicer"}
    told = {"params": (None, json.dumps(params))}
    assert client.post(f"/infer/{MODEL}?image=own&session_id={lent}", files=told).status_code == 200
    assert client.put("/datastore/image?image=own", files={"file": (file, scan)}).status_code == 200
    label = gzip.compress(nib.Nifti1Image(np.uint8(nib.load(path).get_fdata() > 0), nib.load(path).affine).to_bytes())
    files = {"label": (file, label), "params": (None, json.dumps({"label_info": [{"name": "atrium"}]}))}
    answer = client.put("/datastore/label?image=own", files=files)
    assert answer.status_code == 200, answer.text
    studies = client.services.studies
    assert studies.get_label_info("own", "final")["label_names"] == {"atrium": 1}
    (shown,) = json.loads((studies.root / "labels/versions/own/0001.prompts.json").read_text())
    assert list(shown["labels"]) == ["atrium"]


def test_a_new_structure_has_its_own_names_in_the_pacs(bundle, studies):
    synchronization = Synchronization(None, StudiesFolder(studies), {}, bundle, send=True)
    found = synchronization._bundle_of({"model": MODEL, "label_names": {"atrium": 1}})
    assert (found.name, found.labels) == (MODEL, {"atrium": 1})
    assert synchronization._bundle_of({"model": "other"}) is None
