"""What a second server, kill -9 and a full disk leave behind."""

import gzip
import json
import os
import signal
import threading
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pytest
import requests
import torch
from app_helpers import Server, small_bundle
from bundle_helpers import small_network
from pacs_helpers import until

from monailabel_app.bundles import read_bundle
from monailabel_app.main import Rep3DApp
from monailabel_app.models import versions
from monailabel_app.models.retraining import BundleTraining, promotion
from monailabel_app.models.retraining import task as training
from monailabel_app.models.retraining.scoring import Scores
from monailabel_app.tasks import Task
from rep3d import files
from rep3d.io.geometry import plain_geometry
from rep3d.io.volumes import write_label_map
from rep3d.training.checkpoints import load_deployed

MODEL = "msd_hippocampus"
QUICK = {"models": MODEL, "warm_up": "false", "scoring": "false"}


# --- a second server


@pytest.mark.slow
def test_one_server_at_a_time(material, studies, tmp_path):
    """On a studies folder, and on a bundle; also after the first was killed."""
    bundle, other = (small_bundle(tmp_path / name, MODEL) for name in ("bundles", "others"))
    (bundle / "models/.1.2.part.model.pt").write_bytes(b"left by a kill")
    with Server(tmp_path, bundles=str(bundle.parent), **QUICK) as first:
        assert not list(bundle.rglob("*.part.*"))
        (tmp_path / "second").mkdir()
        with pytest.raises(ValueError, match=f"another server works on {bundle}"):
            Rep3DApp(str(tmp_path), str(tmp_path / "second"), {"bundles": str(bundle.parent), **QUICK})
        conf = {"bundles": str(other.parent), **QUICK}
        with pytest.raises(ValueError, match=f"another server works on {studies}"):
            Rep3DApp(str(tmp_path), str(studies), conf)
        assert first.request("GET", "/info/").status_code == 200
        first.stop(kill=True)
        with Server(tmp_path / "third", studies=str(studies), bundles=str(other.parent), **QUICK):
            pass


# --- kill -9


@pytest.mark.slow
def test_killed_while_labels_come_in(material, studies, tmp_path):
    """What was acknowledged is there after a restart, as it was sent."""
    bundle = small_bundle(tmp_path / "bundles", MODEL)
    running = Server(tmp_path, bundles=str(bundle.parent), **QUICK).start()
    names = sorted(name.removesuffix(".nii.gz") for name in material.scans)
    acknowledged = {}

    def submit(client):
        for number in range(1000):
            own_id, image = f"{client}-{number}", names[(client + number) % len(names)]
            scan = nib.load(studies / f"{image}.nii.gz")
            voxels = np.zeros(scan.shape, np.uint8)
            voxels.flat[client * 1000 + number] = 1
            content = gzip.compress(nib.Nifti1Image(voxels, scan.affine).to_bytes())
            data, sent = {"params": json.dumps({"client_id": own_id})}, {"label": ("a.nii.gz", content)}
            try:
                answer = running.request("PUT", f"/datastore/label?image={image}", files=sent, data=data)
            except requests.RequestException:
                return  # killed
            assert answer.status_code == 200, answer.text
            acknowledged[own_id] = image, client * 1000 + number

    clients = [threading.Thread(target=submit, args=(client,)) for client in range(4)]
    for client in clients:
        client.start()
    deadline = time.monotonic() + 60
    while len(acknowledged) < 40 and time.monotonic() < deadline:
        time.sleep(0.01)
    running.stop(kill=True)
    for client in clients:
        client.join()
    assert len(acknowledged) >= 40
    with running:
        for image in names:
            told = running.request("GET", f"/datastore/label/versions?label={image}").json()
            kept = {info["client_id"]: info["version"] for info in told}
            assert [info["version"] for info in told] == list(range(1, len(told) + 1))
            current = running.request("GET", f"/datastore/label?label={image}&tag=final").content
            for own_id, (labelled, voxel) in acknowledged.items():
                if labelled == image:
                    path = f"/datastore/label?label={image}&tag=final&version={kept[own_id]}"
                    content = running.request("GET", path).content
                    stored = np.asarray(nib.Nifti1Image.from_bytes(gzip.decompress(content)).dataobj)
                    assert np.flatnonzero(stored).tolist() == [voxel]
            newest = running.request("GET", f"/datastore/label?label={image}&tag=final&version={len(told)}").content
            assert current == newest
        assert not list(studies.rglob(".*.part.*"))


def killed(function):
    """Whether a child of this process was killed while it ran a function."""
    child = os.fork()
    if not child:
        function()
        os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def new_weights(bundle, seed, path):
    torch.manual_seed(seed)
    torch.save(small_network(bundle.root).state_dict(), path)
    return path.read_bytes()


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A training that has come to its end, and whose weights are better but no version yet."""
    trainer = BundleTraining(read_bundle(small_bundle(tmp_path / "bundles", MODEL)), "better")
    (trainer.folder / "models").mkdir(parents=True)
    new_weights(trainer.bundle, 7, trainer.folder / "models/model.pt")
    torch.save({"epoch": 50}, trainer.folder / "models/last.pt")
    cases = {"training": ["a"], "validation": ["b"]}
    files.write_json(trainer.folder / "run.json", {"status": "RUNNING", "user": "ann", "cases": cases, "options": {}})
    new = (trainer.folder / "models/model.pt").read_bytes()
    monkeypatch.setattr(
        BundleTraining, "_score", lambda self, task, weights, *_: Scores(0.9 if weights.read_bytes() == new else 0.5)
    )
    return trainer


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
@pytest.mark.parametrize("step", ["describe", "serve", "replace", "remember"])
def test_killed_during_promotion(step, trained, monkeypatch):
    """The weights that serve are the old or the new ones, and after a restart the new ones, as one version."""
    bundle, old = trained.bundle, trained.bundle.weights.read_bytes()
    new = (trained.folder / "models/model.pt").read_bytes()
    replace = os.replace
    with monkeypatch.context() as patch:
        if step == "describe":
            patch.setattr("monailabel_app.history.write_json", lambda path, told: "dice" in told and kill())
        elif step == "serve":
            patch.setattr(promotion, "serve_version", kill)
        elif step == "replace":
            patch.setattr(
                os, "replace", lambda one, other: kill() if other == bundle.own_weights else replace(one, other)
            )
        else:
            patch.setattr(training, "write_record", kill)
        assert killed(lambda: trained.run(Task({})))
    assert bundle.weights.read_bytes() == (new if step == "remember" else old)
    load_deployed(small_network(bundle.root), bundle.weights)
    result = BundleTraining(bundle, "better").run(Task({}))
    assert (result["version"], result["serving"], result["dice"]["new"]) == (2, True, 0.9)
    assert [version["serving"] for version in versions.list_versions(bundle)] == [False, True]
    assert bundle.weights.read_bytes() == new
    assert (bundle.root / "models/versions/0001/model.pt").read_bytes() == old
    assert trained.interrupted() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
@pytest.mark.parametrize("step", ["settings", "replace"])
def test_killed_while_a_version_comes_to_serve(step, studies, tmp_path, monkeypatch):
    """After the next start it serves with what its own training was told, not with what another one was."""
    bundle = read_bundle(small_bundle(tmp_path / "bundles", MODEL))
    settings = [{"spacing": [size, size, size]} for size in (2.0, 3.0)]
    for number, told in enumerate(settings, 1):
        new = new_weights(bundle, number, tmp_path / "new.pt")
        versions.write_settings(told, tmp_path / "new.pt")
        assert versions.add_version(bundle, tmp_path / "new.pt", {"user": "ann", "note": ""}) == number
    versions.serve_version(bundle, 1)
    with monkeypatch.context() as patch:
        if step == "settings":
            patch.setattr(versions, "write_settings", kill)
        else:
            replace = os.replace
            patch.setattr(
                os, "replace", lambda one, other: kill() if other == bundle.own_weights else replace(one, other)
            )
        assert killed(lambda: versions.serve_version(bundle, 2))
    assert bundle.weights.read_bytes() != new
    app = Rep3DApp(str(tmp_path), str(studies), {"bundles": str(tmp_path / "bundles"), **QUICK})
    for lock in app._locks:
        lock.release(force=True)
    assert bundle.weights.read_bytes() == new and bundle.settings == settings[1]
    assert sorted(path.name for path in bundle.own_weights.parent.iterdir()) == ["as_trained.json", "model.pt"]


# --- a full disk


def limit_files(process, size):
    """No file grows beyond a size, in bytes: writing ends in the middle, as on a full disk."""
    psutil.Process(process.pid).rlimit(psutil.RLIMIT_FSIZE, (size, psutil.RLIM_INFINITY))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(psutil, "RLIMIT_FSIZE"), reason="the system limits no file sizes")
def test_full_disk_of_a_server(material, studies, tmp_path):
    """A clear answer, what was there stays whole, and the server goes on as soon as there is room."""
    bundle = small_bundle(tmp_path / "bundles", MODEL)
    image, other = sorted(name.removesuffix(".nii.gz") for name in material.scans)[:2]
    labels = [{"label": ("a.nii.gz", material.labels[f"{name}.nii.gz"].read_bytes())} for name in (image, other)]
    scan = ("a.nii.gz", material.scans[f"{image}.nii.gz"].read_bytes())
    large = ("a.nii.gz", os.urandom(3 * 2**20))  # goes to the disk while it is received
    with Server(tmp_path, bundles=str(bundle.parent), **QUICK) as running:
        submit = lambda: running.request("PUT", f"/datastore/label?image={image}", files=labels[0])  # noqa: E731
        assert submit().status_code == 200
        before = {path: path.read_bytes() for path in studies.rglob("*") if path.is_file()}
        audited = (running.app / "logs/audit.jsonl").read_text()
        limit_files(running.process, 100)
        for method, path, sent in (
            ("PUT", f"/datastore/label?image={image}", labels[0]),
            ("PUT", f"/datastore/label?image={other}", labels[1]),
            ("PUT", "/datastore/image?image=new", {"file": scan}),
            ("PUT", "/datastore/image?image=large", {"file": large}),
            ("PUT", "/session/", {"files": scan}),
            ("POST", f"/infer/{MODEL}", {"file": scan}),
        ):
            answer = running.request(method, path, files=sent)
            assert answer.status_code == 507, (path, answer.text)
            assert answer.json()["detail"] == "the file cannot be stored (File too large)"
        assert {path: path.read_bytes() for path in studies.rglob("*") if path.is_file()} == before
        limit_files(running.process, psutil.RLIM_INFINITY)
        assert submit().status_code == 200
        log = running.app / "logs/audit.jsonl"
        added = lambda: [json.loads(line) for line in log.read_text().removeprefix(audited).splitlines()]  # noqa: E731
        until(lambda: any(line["status"] == 200 for line in added()))  # lines are written after their answers
        assert all(line["path"] for line in added())


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".seg.nrrd"])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_full_disk_of_a_result(suffix, tmp_path, monkeypatch):
    voxels = np.random.default_rng(0).integers(0, 3, (60, 60, 60))
    path = tmp_path / f"result{suffix}"
    monkeypatch.setattr(files.os, "getpid", lambda: 1)
    (tmp_path / f".1.{threading.get_ident()}.part.{path.name}").symlink_to("/dev/full")
    with pytest.raises(files.WriteError, match=path.name):
        write_label_map(voxels, plain_geometry(voxels.shape, np.eye(4)), path, labels={"a": 1})
    assert list(tmp_path.iterdir()) == []
