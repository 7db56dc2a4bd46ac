"""The started server, by HTTP: what clients need, what attackers try."""

import hashlib
import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from app_helpers import OHIF_PARAMETERS, Server, slicer_client, small_bundle
from bundle_helpers import label_names

from monailabel_app.__main__ import main
from monailabel_app.bundles import choose_bundles
from rep3d.io.geometry import plain_geometry
from rep3d.io.volumes import write_label_map

pytestmark = pytest.mark.slow

HIPPOCAMPUS = ["anterior hippocampus", "posterior hippocampus"]


@pytest.fixture
def images(server):
    return sorted(server.request("GET", "/datastore/?output=all").json()["objects"])


def upload(path):
    return {"file": (path.name, path.read_bytes())}


# --- what is there


def test_what_is_not_served_is_told(server, images):
    stray = server.studies / "stray.mha"
    stray.touch()
    try:
        told = server.request("GET", "/datastore/").json()
        assert told["total"] == len(images) and "no known suffix" in told["set_aside"]["stray.mha"]
    finally:
        stray.unlink()


# --- clients


def test_info(server, material):
    info = server.request("GET", "/info/").json()
    assert set(info["models"]) == {"msd_hippocampus", "amos_ct"}  # kits has no weights
    for name, model in info["models"].items():
        names = label_names(material.bundles / name)
        assert model["labels"] == {label: index for index, label in enumerate(names) if index}
        assert model["type"] == "segmentation" and model["dimension"] == 3
        assert model["config"]["preset"] == ["fast", "accurate"]
    assert {"random", "first"} <= set(info["strategies"])
    assert info["datastore"]["total"] >= 4


def test_a_day_with_slicer(material, studies, tmp_path):
    """Next sample, segment, correct, submit, next sample; then train, and segment with the new weights."""
    shutil.copytree(material.bundles, tmp_path / "bundles")
    conf = {"bundles": str(tmp_path / "bundles"), "models": "msd_hippocampus"}
    with Server(tmp_path, own_python=True, **conf) as running:
        client = slicer_client()(running.url, tmpdir=str(tmp_path / "client"), client_id="reader")
        (tmp_path / "client").mkdir()
        seen = set()
        for _ in range(2):
            sample = client.next_sample("first", {})
            assert sample["id"] not in seen and "path" not in sample
            seen.add(sample["id"])
            scan = studies / sample["name"]
            assert sample["checksum"] == f"SHA256:{hashlib.sha256(scan.read_bytes()).hexdigest()}"
            result, params = client.infer(
                "msd_hippocampus",
                sample["id"],
                {"device": "cpu", "preset": "fast", "result_extension": ".nrrd", "result_dtype": "uint8"},
            )
            assert sorted(params["label_names"], key=params["label_names"].get) == HIPPOCAMPUS
            image, label = sitk.ReadImage(str(scan)), sitk.ReadImage(result)
            assert label.GetSize() == image.GetSize() and label.GetPixelID() == sitk.sitkUInt8
            np.testing.assert_allclose(label.GetOrigin(), image.GetOrigin(), atol=1e-3)
            np.testing.assert_allclose(label.GetDirection(), image.GetDirection(), atol=1e-5)
            corrected = nib.Nifti1Image(slicer_export(scan), nib.load(scan).affine)
            nib.save(corrected, tmp_path / "client/corrected.nii.gz")
            segments = [{"name": name, "idx": number + 2} for number, name in enumerate(reversed(HIPPOCAMPUS))]
            told = {"label_info": segments}
            assert client.save_label(sample["id"], str(tmp_path / "client/corrected.nii.gz"), params=told)
            stored = np.asarray(nib.load(client.download_label(sample["id"], "final")).dataobj)
            swapped = np.array([0, 2, 1], dtype=np.uint8)[slicer_export(scan)]
            np.testing.assert_array_equal(stored, swapped)
            info = client.datastore()["objects"][sample["id"]]["labels"]["final"]["info"]
            assert (info["version"], info["model"], info["client_id"]) == (1, "msd_hippocampus", "reader")
        assert client.info()["datastore"]["completed"] == 2

        client.train_start("msd_hippocampus", {"max_epochs": 1, "device": "cpu", "val_split": 0.3, "pretrained": True})
        deadline = time.monotonic() + 300
        while client.train_status(check_if_running=True) and time.monotonic() < deadline:
            time.sleep(0.5)
        assert client.train_status()["status"] == "DONE"
        new = running.request("GET", "/model/msd_hippocampus/versions").json()[-1]["version"]
        running.request("POST", f"/model/msd_hippocampus/versions/{new}").raise_for_status()
        sample = client.next_sample("first", {})
        assert sample["id"] not in seen
        result, _ = client.infer("msd_hippocampus", sample["id"], {"result_extension": ".nrrd"})
        assert sitk.ReadImage(result).GetSize() == sitk.ReadImage(str(studies / sample["name"])).GetSize()


def slicer_export(scan):
    """A label map whose values are the order of the segments."""
    voxels = np.zeros(nib.load(scan).shape, dtype=np.uint8)
    voxels[2:5, 2:5, 2:5], voxels[5:8, 2:5, 2:5] = 1, 2
    return voxels


@pytest.mark.parametrize("name", ["2: CT Abdomen", "T1 w/ contrast"])
def test_a_scan_of_ones_own_in_slicer(name, server, material, tmp_path):
    """Sent at Run under the volume's name, by which the module goes on, whatever the answer tells."""
    client = slicer_client()(server.url, tmpdir=str(tmp_path), client_id="reader")
    scan = next(iter(material.scans.values()))
    image_id = client.upload_image(str(scan), name)["image"]
    try:
        assert image_id != name and image_id in client.datastore()["objects"]
        result, _ = client.infer("msd_hippocampus", name, {"preset": "fast", "result_extension": ".nrrd"})
        assert sitk.ReadImage(result).GetSize() == sitk.ReadImage(str(scan)).GetSize()
        nib.save(nib.Nifti1Image(slicer_export(scan), nib.load(scan).affine), tmp_path / "label.nii.gz")
        told = {"label_info": [{"name": label, "idx": index} for index, label in enumerate(HIPPOCAMPUS, 1)]}
        assert client.save_label(name, str(tmp_path / "label.nii.gz"), params=told)["label"] == image_id
        stored = np.asarray(nib.load(client.download_label(name, "final")).dataobj)
        np.testing.assert_array_equal(stored, slicer_export(scan))
        assert "final" in client.datastore()["objects"][image_id]["labels"]
    finally:
        server.request("DELETE", "/datastore/image", params={"id": name}).raise_for_status()


def test_ohif(server, images):
    """As the panel of OHIF asks: the bare, uncompressed NRRD."""
    answer = server.request(
        "POST", f"/infer/msd_hippocampus?image={images[0]}&output=image", data={"params": json.dumps(OHIF_PARAMETERS)}
    )
    assert answer.status_code == 200
    assert b"encoding: raw" in answer.content and b"type: unsigned char" in answer.content
    page = server.request("GET", "/ohif/")
    assert page.status_code == 200 and "<html" in page.text.lower()
    assert server.request("GET", "/ohif/viewer?StudyInstanceUIDs=1.2").text == page.text


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".seg.nrrd"])
def test_result_formats(suffix, server, images, tmp_path):
    """Of a network of another family than ours."""
    answer = server.request(
        "POST",
        f"/infer/amos_ct?image={images[0]}&output=image",
        data={"params": json.dumps({"result_extension": suffix, "preset": "fast"})},
    )
    assert answer.status_code == 200
    path = tmp_path / f"result{suffix}"
    path.write_bytes(answer.content)
    scan = sitk.ReadImage(str(server.studies / f"{images[0]}.nii.gz"))
    image = sitk.ReadImage(str(path))
    assert image.GetSize() == scan.GetSize()
    if suffix == ".seg.nrrd":
        names = [image.GetMetaData(f"Segment{number}_Name") for number in range(15)]
        assert names[:2] == ["spleen", "right kidney"]


def test_an_image_that_is_only_lent(server, material, tmp_path):
    """By upload, and by a session of its own."""
    scan = next(iter(material.scans.values()))
    before = server.request("GET", "/datastore/").json()
    answer = server.request("POST", "/infer/msd_hippocampus?output=json", files=upload(scan))
    assert answer.status_code == 200 and answer.json()["latencies"]["total"] > 0
    session = server.request("PUT", "/session/", files={"files": (scan.name, scan.read_bytes())}).json()
    path = f"/session/{session['session_id']}"
    assert server.request("GET", path).json()["image"] == "upload.nii.gz"
    answer = server.request("POST", f"/infer/msd_hippocampus?output=json&session_id={session['session_id']}")
    assert answer.status_code == 200
    assert server.request("DELETE", path).status_code == 200
    assert server.request("GET", path).status_code == 404
    assert server.request("GET", "/datastore/").json() == before


def test_answers_while_a_network_runs(server, images):
    stop = threading.Event()

    def keep_busy():
        while not stop.is_set():
            server.request("POST", f"/infer/amos_ct?image={images[0]}&output=json")

    with ThreadPoolExecutor(3) as pool:
        for _ in range(3):
            pool.submit(keep_busy)
        time.sleep(0.5)
        try:
            for _ in range(5):
                start = time.perf_counter()
                assert server.request("GET", "/info/").status_code == 200
                assert time.perf_counter() - start < 1
        finally:
            stop.set()


def test_batch(material, studies, tmp_path):
    (studies / "broken.nii.gz").write_bytes(b"junk")
    with Server(tmp_path, bundles=str(material.bundles), models="msd_hippocampus") as running:
        assert running.request("GET", "/batch/infer").status_code == 404
        started = running.request("POST", "/batch/infer/msd_hippocampus?images=unlabeled", json={"preset": "fast"})
        assert started.status_code == 200
        assert running.request("POST", "/batch/infer/msd_hippocampus").status_code == 429
        while (status := running.request("GET", "/batch/infer").json())["status"] in ("SUBMITTED", "RUNNING"):
            time.sleep(0.2)
        assert status["status"] == "DONE"
        assert sorted(status["result"]["done"]) == sorted(name.removesuffix(".nii.gz") for name in material.scans)
        assert list(status["result"]["failed"]) == ["broken"]
        labels = running.request("GET", "/datastore/").json()["label_tags"]
        assert labels == {"original": 4}


# --- attackers


@pytest.mark.parametrize(
    "params",
    [
        {"preset": "$open('PWNED', 'w')"},
        {"roi_size": "$__import__('pathlib').Path('PWNED').touch()"},
        {"model_filename": "../../x.pt"},
        {"image": "/etc/passwd"},
        {"logging": {"_target_": "os.mkdir", "path": "PWNED"}},
    ],
    ids=str,
)
def test_parameters_are_data(params, server, images):
    data = {"params": json.dumps(params)}
    assert server.request("POST", f"/infer/msd_hippocampus?image={images[0]}", data=data).status_code == 400
    assert server.request("POST", "/batch/infer/msd_hippocampus", json=params).status_code == 400
    assert server.request("POST", "/activelearning/random", json=params).status_code == 400
    assert not list(server.folder.rglob("PWNED"))


@pytest.mark.parametrize("image", ["/etc/passwd", "../server.log", "absent", "..%2Fserver.log", "labels/final/x"])
def test_only_images_of_the_studies(image, server):
    for method, path in (
        ("POST", f"/infer/msd_hippocampus?image={image}"),
        ("GET", f"/datastore/image?image={image}"),
        ("GET", f"/datastore/image/info?image={image}"),
        ("GET", f"/datastore/label?label={image}&tag=final"),
        ("DELETE", f"/datastore/image?id={image}"),
        ("GET", f"/session/{image}"),
    ):
        answer = server.request(method, path)
        assert answer.status_code in (400, 404), path
        assert str(server.folder) not in answer.text
    assert server.log.is_file()


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.nii.gz", b""), ("a.nii.gz", b"junk"), ("a.zip", b"PK"), ("a", b"x"), ("a.sh", b"#!/bin/sh"), ("a.nrrd", b"x")],
)
def test_uploads_are_images(name, content, server, images):
    file = (name, content)
    for method, path, field in (
        ("PUT", "/datastore/image?image=junk", "file"),
        ("POST", "/infer/msd_hippocampus", "file"),
        ("PUT", "/session/", "files"),
        ("PUT", f"/datastore/label?image={images[0]}", "label"),
    ):
        assert server.request(method, path, files={field: file}).status_code == 400, path
    assert sorted(server.request("GET", "/datastore/?output=all").json()["objects"]) == images


@pytest.mark.parametrize("value", [0, 300])
def test_segments_with_odd_values(value, server, images, tmp_path):
    scan = nib.load(server.studies / f"{images[0]}.nii.gz")
    path = tmp_path / "label.seg.nrrd"
    write_label_map(
        np.ones(scan.shape, np.uint8),
        plain_geometry(scan.shape, scan.affine),
        path,
        labels={"anterior hippocampus": value},
    )
    files = {"label": (path.name, path.read_bytes())}
    answer = server.request("PUT", f"/datastore/label?image={images[0]}", files=files)
    assert answer.status_code == 400 and "different ones from 1 to 255" in answer.json()["detail"]


def test_names_of_no_model(server, images, material):
    label = {"label": ("x.nii.gz", next(iter(material.labels.values())).read_bytes())}
    params = json.dumps({"label_info": [{"name": "left ear"}, {"name": "right ear"}]})
    answer = server.request("PUT", f"/datastore/label?image={images[0]}", files=label, data={"params": params})
    assert answer.status_code == 400 and "left ear" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/infer/absent?image=x"),
        ("POST", "/batch/infer/absent"),
        ("POST", "/activelearning/absent"),
        ("POST", "/scoring/absent"),
        ("POST", "/train/absent"),
        ("GET", "/model/absent"),
        ("GET", "/model/info/absent"),
        ("GET", "/absent"),
        ("GET", "/static/../../app.py"),
        ("GET", "/ohif/..%2f..%2f..%2fapp.py"),
        ("POST", "/reload"),
        ("GET", "/openapi.json"),
    ],
)
def test_what_is_not_there(method, path, server):
    answer = server.request(method, path)
    assert answer.status_code in (404, 405) or "<html" in answer.text.lower()
    assert "from fastapi" not in answer.text


def test_errors_tell_no_internals(server):
    for path, data in (("/infer/msd_hippocampus?image=x&output=bad", {}), ("/datastore/?output=1", None)):
        answer = server.request("POST" if data is not None else "GET", path, data=data)
        assert 400 <= answer.status_code < 500
        assert "Traceback" not in answer.text and ".py" not in answer.text


def test_audit_log(server, images):
    server.request("GET", f"/datastore/image/info?image={images[0]}")
    entries = [json.loads(line) for line in (server.app / "logs/audit.jsonl").read_text().splitlines()]
    last = next(entry for entry in reversed(entries) if entry["path"] == "/datastore/image/info")
    assert last["user"] == "local" and last["client"] == "127.0.0.1" and last["status"] in (200, 400, 404)
    assert last["time"].endswith("+00:00")


def test_keys(material, studies, tmp_path):
    keys = {
        hashlib.sha256(key.encode()).hexdigest(): {"name": name, "roles": roles}
        for key, name, roles in (
            ("reader's key", "reader", ["monailabel-user"]),
            ("chief's key", "chief", ["monailabel-user", "monailabel-annotator", "monailabel-admin"]),
        )
    }
    (tmp_path / "keys.json").write_text(json.dumps(keys))
    conf = {"bundles": str(material.bundles), "models": "msd_hippocampus", "api_keys": str(tmp_path / "keys.json")}
    with Server(tmp_path, host="0.0.0.0", **conf) as running:
        reader, chief = {"X-API-Key": "reader's key"}, {"Authorization": "Bearer chief's key"}
        assert running.request("GET", "/info/").status_code == 401
        assert running.request("PUT", "/session/", files={"files": ("a", b"x")}).status_code == 401
        assert running.request("POST", "/train/", data=b"x" * 2**20).status_code in (401, 413)
        assert running.request("GET", "/info/", headers={"X-API-Key": "wrong"}).status_code == 401
        assert running.request("GET", "/info/", headers=reader).status_code == 200
        assert running.request("GET", "/logs/", headers=reader).status_code == 403
        assert running.request("GET", "/logs/", headers=chief).status_code == 200
        client = slicer_client()(running.url, tmpdir=str(tmp_path))
        assert client.auth_enabled()
        with pytest.raises(Exception, match="Status: 401"):
            client.auth_token("chief", "wrong")
        client.update_auth(client.auth_token("chief", "chief's key"))
        assert client.auth_valid_token() and "msd_hippocampus" in client.info()["models"]
        scan = next(iter(material.scans.values()))
        session = running.request("PUT", "/session/", headers=reader, files={"files": ("a.nii.gz", scan.read_bytes())})
        path = f"/session/{session.json()['session_id']}"
        assert running.request("GET", path, headers=reader).status_code == 200
        assert running.request("GET", path, headers=chief).status_code == 404
        assert "chief" in (running.app / "logs/audit.jsonl").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "host is '0.0.0.0'.*api_keys"),
        (["--conf", "nonsense", "1"], "conf has .'nonsense'."),
        (["--conf", "api_keys", "absent.json"], "api_keys: absent.json cannot be read"),
        (["--conf", "insecure", "maybe"], "insecure is 'maybe', expected true or false"),
        (["--conf", "promotion", "always"], "promotion is 'always', expected one of"),
        (["--conf", "max_upload", "-1"], "max_upload is '-1', expected megabytes"),
        (["--conf", "max_audit", "0"], "max_audit is '0', expected megabytes"),
    ],
)
def test_refuses_to_start(arguments, message):
    with pytest.raises(SystemExit, match=message):
        main(["start_server", "--studies", "absent", *arguments])


@pytest.mark.parametrize(
    ("models", "message"),
    [("absent", "models is 'absent', expected 'all' or some of"), ("", "models is ''"), ("all", "no bundle in .* has")],
)
def test_models_that_are_not_there(models, message, tmp_path):
    small_bundle(tmp_path, "kits", weights=False)
    with pytest.raises(ValueError, match=message):
        choose_bundles(tmp_path, models)
