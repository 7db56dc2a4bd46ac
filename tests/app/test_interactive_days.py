"""Days with clicks: the started server, and the clients of 3D Slicer and napari as they are."""

import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import requests
from app_helpers import Server, slicer_client
from nnInteractive.inference.remote import nnInteractiveRemoteInferenceSession as Client
from prompt_helpers import prompt_bundle

from rep3d.io.volumes import read_volume

pytestmark = pytest.mark.slow

SHAPE, SPACING = (24, 20, 12), (1.0, 1.0, 2.0)
FIRST, SECOND = (5, 10, 6), (18, 10, 6)  # in balls that look alike, with others between them
USERS = {"ann": ["monailabel-annotator", "monailabel-user"], "bob": ["monailabel-annotator", "monailabel-user"]}


def scan(seed):
    voxels = np.random.default_rng(seed).normal(0, 5, SHAPE)
    for centre in (FIRST, SECOND):
        distances = (np.indices(SHAPE) - np.reshape(centre, (3, 1, 1, 1))) * np.reshape(SPACING, (3, 1, 1, 1))
        voxels[np.linalg.norm(distances, axis=0) < 4] += 300
    return nib.Nifti1Image(voxels.round().astype(np.int16), np.diag([-1, 1, 2, 1]))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """With keys, a network that follows prompts, and two scans."""
    folder = tmp_path_factory.mktemp("days")
    (folder / "studies").mkdir()
    for number, name in enumerate(("knee", "shoulder")):
        nib.save(scan(number), folder / f"studies/{name}.nii.gz")
    keys = {hashlib.sha256(name.encode()).hexdigest(): {"name": name, "roles": roles} for name, roles in USERS.items()}
    (folder / "keys.json").write_text(json.dumps(keys))
    prompt_bundle(folder / "bundles")
    with Server(
        folder, bundles=str(folder / "bundles"), api_keys=str(folder / "keys.json"), scoring="false"
    ) as running:
        yield running


class Module:
    """MONAI Label's module for 3D Slicer: its client, and the segments of the scene."""

    def __init__(self, server, user, folder):
        folder.mkdir()
        self.folder, self.user = folder, user
        self.client = slicer_client()(server.url, tmpdir=str(folder), client_id=f"{user} at a workstation")
        token = self.client.auth_token(user, user)
        self.client.update_auth(token)

    def click(self, image, label, foreground, **options):
        params = {"label": label, "foreground": [list(voxel) for voxel in foreground], "background": []}
        return self._infer("interactive", image, params | options)

    def correct(self, image, label, segments):
        """What was painted by hand, by way of the scribbles, none of which is drawn."""
        names = [{"name": name, "id": number} for number, name in enumerate(segments, 1)]
        path = self._write(segments)
        return self._infer("scribbles", image, {"label_info": names, "selected_label_name": label, "roi": []}, path)

    def submit(self, image, segments):
        names = [{"name": name, "idx": number} for number, name in enumerate(segments, 1)]
        return self.client.save_label(image, self._write(segments), params={"label_info": names})["label"]

    def stored(self, label):
        return np.asarray(nib.load(self.client.download_label(label, "final")).dataobj)

    def _infer(self, model, image, params, label=None):
        told = {"result_extension": ".nrrd", "result_dtype": "uint8"}
        file, self.told = self.client.infer(model, image, {**params, **told}, label)
        return read_volume(Path(file))[0] > 0

    def _write(self, segments):
        voxels = np.zeros(SHAPE, np.uint8)
        for number, mask in enumerate(segments.values(), 1):
            voxels[mask] = number
        path = self.folder / "segments.nii.gz"
        nib.save(nib.Nifti1Image(voxels, scan(0).affine), path)
        return str(path)


def connect(server, user, image):
    """The modules nnInteractive, with a scan as 3D Slicer sends it: slices first."""
    client = Client(f"{server.url}/nninteractive", api_key=user)
    client.set_image(np.asarray(image.dataobj).T[None], {"spacing": SPACING[::-1]})
    client.set_target_buffer(np.zeros(SHAPE[::-1], np.uint8))
    return client


def show(client, voxel, positive=True):
    client.add_point_interaction(list(voxel[::-1]), positive)
    return client.target_buffer.T > 0


def as_user(server, user, method, path):
    answer = server.request(method, path, headers={"Authorization": f"Bearer {user}"})
    answer.raise_for_status()
    return answer.json()


def test_the_first_minute(server, tmp_path):
    """A scan that the server has never seen is clicked, corrected by hand, named and submitted; then comes the next."""
    module, image = Module(server, "ann", tmp_path / "ann"), scan(7)
    nib.save(image, tmp_path / "hip.nii.gz")
    with connect(server, "ann", image) as client:
        first = show(client, FIRST)
        assert first[FIRST] and not first[SECOND]
        both = show(client, SECOND)
        assert both[FIRST] and both[SECOND]
        assert client.undo() and np.array_equal(client.target_buffer.T > 0, first)
        painted = first.copy()
        painted[0, 0, :3] = True
        client.reset_interactions()
        client.add_initial_seg_interaction(painted.T.astype(np.uint8))
        clicked = show(client, SECOND, positive=False)
        assert clicked[0, 0, :3].all() and not clicked[SECOND]
    scene = {"accessory bone": clicked}
    hip = module.client.upload_image(str(tmp_path / "hip.nii.gz"), "hip")["image"]
    more = module.click(hip, "loose body", [SECOND])
    assert more[SECOND] and not more[FIRST]
    scene["loose body"] = module.correct(hip, "loose body", {**scene, "loose body": more & ~(more & clicked)})
    assert module.submit(hip, scene) == hip
    stored = module.stored(hip)
    for number, mask in enumerate(scene.values(), 1):
        assert np.array_equal(stored == number, mask)
    info = module.client.datastore()["objects"][hip]["labels"]["final"]["info"]
    assert info["label_names"] == {"accessory bone": 1, "loose body": 2}
    kept = json.loads((server.studies / f"labels/versions/{hip}/0001.prompts.json").read_text())
    assert {name: len(session["labels"][name]) for session in kept for name in session["labels"]} == {
        "segment": 2,  # one before the mask that was painted by hand, one after it
        "loose body": 1,
    }
    assert module.client.next_sample("first", {})["id"] == "knee"


def test_a_day_of_two_users(server, tmp_path):
    """On one scan, at once, in several programs: everybody gets what they would get alone, and sees their own."""
    clicks = [FIRST, (7, 10, 6), SECOND, (5, 12, 6), (16, 10, 6), (18, 8, 6)]

    def with_lists(user, voxels):
        module = Module(server, user, tmp_path / user)
        masks = [module.click("knee", "bone", voxels[: number + 1]) for number in range(len(voxels))]
        again = [module.click("knee", "bone", voxels[: number + 1]) for number in reversed(range(len(voxels)))]
        assert all(np.array_equal(one, other) for one, other in zip(masks, reversed(again), strict=True))
        return masks

    def one_by_one(user, voxels):
        with connect(server, user, nib.load(server.studies / "knee.nii.gz")) as client:
            masks = [show(client, voxel) for voxel in voxels]
            for mask in reversed(masks):
                assert np.array_equal(client.target_buffer.T > 0, mask) and client.undo()
            assert not client.target_buffer.any()
        return masks

    work = [(with_lists, "ann", clicks), (with_lists, "bob", clicks[::-1]), (one_by_one, "ann", clicks[::-1])]
    work.append((one_by_one, "bob", clicks))
    with ThreadPoolExecutor(4) as pool:
        ann, bob, ann_one_by_one, bob_one_by_one = pool.map(lambda job: job[0](*job[1:]), work)
    for lists, singles in ((ann, bob_one_by_one), (bob, ann_one_by_one)):  # by both doors, from the same prompts
        assert all(np.array_equal(*masks) for masks in zip(lists, singles, strict=True))
    assert not np.array_equal(ann[0], bob[0])
    for user, mask in (("ann", ann[0]), ("bob", bob[0])):
        told = as_user(server, user, "GET", "/interaction/")
        assert {one["owner"] for one in told} == {user} and {one["kind"] for one in told} == {"study", "array"}
        module = Module(server, user, tmp_path / f"{user} submits")
        module.submit("knee", {"bone": mask})
        assert np.array_equal(module.stored("knee") == 1, mask)
    versions = as_user(server, "ann", "GET", "/datastore/label/versions?label=knee")
    assert [version["user"] for version in versions] == ["ann", "bob"]


def test_killed_in_the_middle(server, tmp_path):
    """The session, its prompts, its mask and the way back are there after the restart; nothing is half written."""
    module = Module(server, "ann", tmp_path / "ann")
    with connect(server, "ann", nib.load(server.studies / "shoulder.nii.gz")) as client:
        pointed = show(client, FIRST)
    voxels = [tuple(map(int, voxel)) for voxel in np.random.default_rng(0).integers(0, SHAPE, (400, 3))]
    masks, enough = [], threading.Event()

    def go_on():
        for count in range(1, len(voxels)):
            try:
                masks.append(module.click("shoulder", "bone", voxels[:count]))
            except (OSError, requests.RequestException):
                return  # killed
            if count == 8:
                enough.set()

    worker = threading.Thread(target=go_on)
    worker.start()
    assert enough.wait(60)
    server.stop(kill=True)
    worker.join()
    assert len(masks) < len(voxels) - 1
    server.start()
    told = as_user(server, "ann", "GET", "/interaction/")  # those that were used last first
    study, array = (next(one for one in told if one["kind"] == kind) for kind in ("study", "array"))
    assert (array["labels"], study["labels"], study["image"]) == (["segment"], ["bone"], "shoulder")
    assert not list(server.studies.rglob(".*.part.*"))
    module, other = (Module(server, "ann", tmp_path / name) for name in ("again", "other"))
    for count in (len(masks), len(masks) - 1, 3, 1):
        assert np.array_equal(module.click("shoulder", "bone", voxels[:count]), masks[count - 1])
        assert module.told["interaction"] == study["id"]
    assert np.array_equal(module.click("shoulder", "bone", voxels[: len(masks)]), masks[-1])
    other.client._client_id = "another workstation"
    assert np.array_equal(other.click("shoulder", "head", [], continue_from=array["id"]), pointed)
