"""Folders that an earlier server left behind, in `fixtures/recorded`: today's opens them, goes on, and goes back."""

import gzip
import io
import json
import os
import shutil
import time

import nibabel as nib
import numpy as np
import pytest
import torch
from app_helpers import Server
from pacs_helpers import objects, pacs_server, until
from recordings import unpack

pytestmark = pytest.mark.slow

MODEL, INTERRUPTED = "msd_hippocampus", "amos_ct"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The recording as it was."""
    return unpack("app", tmp_path_factory.mktemp("recorded"))


@pytest.fixture(scope="module")
def server(recorded, tmp_path_factory):
    """A server over a copy; every test has its own image or model."""
    folder = shutil.copytree(recorded, tmp_path_factory.mktemp("server") / "copy")
    conf = {"warm_up": "false", "scoring": "false", "model_upload": "true"}
    running = Server(folder, bundles=str(folder / "bundles"), models=f"{MODEL},{INTERRUPTED}", **conf)
    shutil.copytree(folder / "logs", running.app / "logs")
    stamp = read(recorded / "studies/.rep3d/sent.json")["scores"][MODEL]["weights"]  # an archive keeps no nanoseconds
    os.utime(folder / "bundles" / MODEL / "models/model.pt", ns=(int(stamp.split("-")[0]),) * 2)
    with running:
        yield running


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def answer(server, method, path, **arguments):
    response = server.request(method, path, **arguments)
    assert response.status_code == 200, response.text
    return response


def versions(server, image):
    return answer(server, "GET", f"/datastore/label/versions?label={image}").json()


def label(server, image, version=None, tag="final"):
    query = f"label={image}&tag={tag}" + (f"&version={version}" if version else "")
    return answer(server, "GET", f"/datastore/label?{query}").content


def submit(server, image, content):
    """Submit a label map with the names that the image's first label has, as 3D Slicer does."""
    names = versions(server, image)[0]["label_names"]
    data = {"params": json.dumps({"label_info": [{"name": name, "idx": number} for name, number in names.items()]})}
    answer(server, "PUT", f"/datastore/label?image={image}", files={"label": ("label.nii.gz", content)}, data=data)


def voxels(content):
    return np.asarray(nib.Nifti1Image.from_bytes(gzip.decompress(content)).dataobj)


def test_images_and_labels_are_there(server, recorded):
    known = answer(server, "GET", "/datastore/?output=all").json()["objects"]
    assert sorted(known) == ["drawn", "first", "second", "sent", "series", "third"]
    assert known["sent"]["labels"].keys() == {"original"}  # its final one was removed
    assert known["second"]["labels"].keys() == {"final", "original"}
    assert read(recorded / "studies/.rep3d/second.json").items() <= known["second"]["image"]["info"].items()
    for image in known:
        folder = recorded / "studies/labels/versions" / image
        kept = versions(server, image)
        assert kept == [read(path) for path in sorted(folder.glob("*.json"))]
        for info in kept:
            assert label(server, image, info["version"]) == (folder / info["name"]).read_bytes()
    assert [info["tag"] for info in versions(server, "third")] == ["final", "final", "original"]
    assert "by hand" in versions(server, "third")[0]["note"]
    content = answer(server, "GET", "/datastore/image?image=series").content
    assert content[:2] == b"\x1f\x8b"


@pytest.mark.parametrize("image", ["first", "drawn", "series"])
def test_labels_go_on_and_back(image, server):
    before = versions(server, image)
    submit(server, image, label(server, image, 1))
    new = versions(server, image)[-1]
    assert (new["version"], new["tag"], versions(server, image)[:-1]) == (len(before) + 1, "final", before)
    assert label(server, image) == label(server, image, new["version"])
    np.testing.assert_array_equal(voxels(label(server, image)), voxels(label(server, image, 1)))


def test_weights_go_on_and_back(server, recorded):
    """The first version still gives what it gave; a third joins; the second serves again."""
    sample = answer(server, "POST", "/activelearning/entropy", json={"model": MODEL}).json()
    scores = read(recorded / "studies/.rep3d/sent.json")["scores"][MODEL]
    assert (sample["id"], sample["weight"]) == ("sent", scores["entropy"]) and "note" not in sample
    known = answer(server, "GET", f"/model/{MODEL}/versions").json()
    assert [(version["version"], version["serving"]) for version in known] == [(1, False), (2, True)]
    assert known[1]["cases"]["training"] and known[1]["cases"]["validation"] and known[1]["dice"]["new"] is not None

    assert answer(server, "POST", f"/model/{MODEL}/versions/1").json()["serving"]
    data = {"params": json.dumps({"result_extension": ".nii.gz", "preset": "fast", "device": "cpu"})}
    again = answer(server, "POST", f"/infer/{MODEL}?image=sent&output=image", data=data).content
    proposed = (recorded / "studies/labels/original/sent.nii.gz").read_bytes()
    assert voxels(proposed).any() and (voxels(again) == voxels(proposed)).mean() > 0.99

    weights = torch.load(io.BytesIO(answer(server, "GET", f"/model/{MODEL}").content), weights_only=True)
    file = io.BytesIO()
    torch.save({name: tensor / 2 for name, tensor in weights.items()}, file)
    sent = answer(server, "PUT", f"/model/{MODEL}", files={"file": ("model.pt", file.getvalue())}).json()
    assert sent["version"] == 3
    assert answer(server, "POST", f"/model/{MODEL}/versions/2").json()["serving"]
    known = answer(server, "GET", f"/model/{MODEL}/versions").json()
    assert [(version["version"], version["serving"]) for version in known] == [(1, False), (2, True), (3, False)]
    second = recorded / "bundles" / MODEL / "models/versions/0002/model.pt"
    assert answer(server, "GET", f"/model/{MODEL}").content == second.read_bytes()


def test_formats_are_told_from_now_on(server, recorded):
    answer(server, "POST", f"/model/{INTERRUPTED}/versions/1")
    for folder, number in (("studies/.rep3d", 1), (f"bundles/{INTERRUPTED}/models/versions", 2)):
        assert not (recorded / folder / ".format").exists()
        assert (server.folder / folder / ".format").read_text() == f"{number}\n"


def test_an_interrupted_retraining_comes_to_its_end(server, recorded):
    retraining = recorded / "bundles" / INTERRUPTED / "models/retraining"
    assert read(retraining / "run.json")["status"] == "RUNNING"
    until(lambda: answer(server, "GET", "/train/").json()["status"] not in ("SUBMITTED", "RUNNING"))
    status = answer(server, "GET", "/train/").json()
    assert status["status"] == "DONE" and status["result"]["version"] == 2, status
    known = answer(server, "GET", f"/model/{INTERRUPTED}/versions").json()
    assert [version["serving"] for version in known] == [True, False]
    assert known[1]["cases"]["training"] == ["series"]
    answer(server, "POST", f"/model/{INTERRUPTED}/versions/2")
    content = answer(server, "GET", f"/model/{INTERRUPTED}").content
    assert content == (retraining / "models/model.pt").read_bytes()


def test_the_audit_log_goes_on(server, recorded):
    answer(server, "GET", "/info/")
    before = (recorded / "logs/audit.jsonl").read_text(encoding="utf-8")
    text = (server.app / "logs/audit.jsonl").read_text(encoding="utf-8")
    assert text.startswith(before) and len(text) > len(before)


def test_labels_of_a_pacs_go_on_and_back(tmp_path):
    """Nothing is sent or taken in again. What was refused is looked at once, and tells then by which models it was."""
    unpack("pacs", tmp_path)
    settled = tmp_path / "kept/.rep3d/segmentations"
    outcomes = {path.name: read(path) for path in settled.iterdir()}
    assert {"sent", "version", "refused"} <= {key for outcome in outcomes.values() for key in outcome}
    sent = next(outcome["image"] for outcome in outcomes.values() if "sent" in outcome)
    taken = next(outcome["image"] for outcome in outcomes.values() if "version" in outcome and "sent" not in outcome)
    with pacs_server(tmp_path) as place:
        place.orthanc.store(sorted((tmp_path / "instances").iterdir()))
        until(lambda: objects(place).keys() == {sent, taken})
        time.sleep(1)
        assert len(objects(place)[taken]["labels"]) == 1  # looks for new segmentations
        assert len(place.orthanc.segmentations()) == 3
        now = {path.name: read(path) for path in settled.iterdir()}
        refused = [now[name] for name, outcome in outcomes.items() if "refused" in outcome]
        assert all(outcome.pop("models") and outcome.pop("model") is None for outcome in refused) and now == outcomes
        for image in (sent, taken):
            first = label(place.server, image, 1)
            assert len(versions(place.server, image)) == 1
            submit(place.server, image, first)
            assert [info["version"] for info in versions(place.server, image)] == [1, 2]
            np.testing.assert_array_equal(voxels(label(place.server, image)), voxels(first))
        until(lambda: len(place.orthanc.segmentations()) == 5)
