"""Requests at the same time: who computes, who waits, and who is told to come again."""

import itertools
import json
import threading
import time

import nibabel as nib
import numpy as np
import pytest
import torch
from app_helpers import small_bundle
from bundle_helpers import SMALL, small_network

from monailabel_app.bundles import read_bundle
from monailabel_app.errors import RequestError
from monailabel_app.models import inference
from monailabel_app.models.batch import segment_all
from monailabel_app.models.inference import BundleInference
from monailabel_app.models.parameters import InferenceParameters
from monailabel_app.models.turn import MAX_WAITING, Priority
from monailabel_app.models.versions import add_version, keep_serving, list_versions, serve_version
from monailabel_app.studies.folder import StudiesFolder
from monailabel_app.tasks import Task
from rep3d.evaluation.kept_refinement import write_refinement
from rep3d.refinement import Step, refine_label
from rep3d.shipped import settings_beside

SECONDS = 20  # to end a test that would hang


@pytest.fixture
def model(tmp_path):
    return BundleInference(read_bundle(small_bundle(tmp_path / "bundles", "msd_hippocampus")))


@pytest.fixture
def scans(tmp_path):
    """Of several groups of windows each."""
    paths = [tmp_path / f"scan{number}.nii.gz" for number in range(3)]
    for number, path in enumerate(paths):
        noise = np.random.default_rng(number).normal(100, 50, (60, 50, 40)).astype(np.float32)
        nib.save(nib.Nifti1Image(noise, np.eye(4)), path)
    return paths


def test_a_bundle_in_a_folder_with_a_number_sign(tmp_path, scans):
    model = BundleInference(read_bundle(small_bundle(tmp_path / "site #2", "msd_hippocampus")))
    assert model.configure()._get("bundle_root") == str(model.bundle.root)
    assert model.segment(scans[0]).voxels.shape == (60, 50, 40)


def test_a_refinement_that_was_chosen_meanwhile_serves(model, scans):
    before = model.segment(scans[0]).voxels
    write_refinement(model.bundle.root, {"largest": ["posterior hippocampus"], "smallest_ml": {}, "filled": []})
    after = model.segment(scans[0]).voxels
    np.testing.assert_array_equal(after, refine_label(before, 2, Step(largest=True), ml=0.001))
    assert not np.array_equal(after, before)


def test_weights_serve_with_what_they_were_trained_with(model, scans):
    """Such as another spacing and network than the bundle has by now; what was prepared before is not used."""
    root, told = model.bundle.root, {"spacing": [2.0, 2.0, 2.0]}
    before = model.segment(scans[0]).voxels
    config = json.loads(model.bundle.config("inference").read_text())
    told["network_def"] = {**config["network_def"], "kernel_size": 3}
    model.bundle.config("inference").write_text(json.dumps({**config, **told}))
    weights = model.configure().network().state_dict()
    torch.save(weights, model.bundle.weights)
    expected = model.segment(scans[0]).voxels
    model.bundle.config("inference").write_text(json.dumps(config))
    settings = settings_beside(model.bundle.weights)
    settings.write_text(json.dumps(told))
    fresh = BundleInference(read_bundle(root))
    for served in (model, fresh):
        np.testing.assert_array_equal(served.segment(scans[0]).voxels, expected)
    assert not np.array_equal(before, expected)
    settings.write_text(json.dumps({**told, "spacing": [3.0, 3.0, 3.0]}))
    assert not np.array_equal(model.segment(scans[0]).voxels, expected)


@pytest.fixture
def scan(scans):
    """Of few windows."""
    nib.save(nib.load(scans[0]).slicer[:40, :32, :32], scans[0])
    return scans[0]


@pytest.fixture
def others(model, tmp_path):
    """The number of a version with other settings and another network than what serves, which is version 1."""
    keep_serving(model.bundle)
    new, network = tmp_path / "new.pt", json.loads(model.bundle.config("inference").read_text())["network_def"]
    told = {"spacing": [2.0, 2.0, 2.0], "network_def": {**network, "kernel_size": 3}}
    torch.save(small_network(model.bundle.root, {**SMALL, "network_def#kernel_size": 3}).state_dict(), new)
    settings_beside(new).write_text(json.dumps(told))
    return add_version(model.bundle, new, {"user": "ann"})


def test_weights_that_come_to_serve_while_an_image_is_prepared(model, scan, others, monkeypatch):
    """It is prepared anew, with their settings."""
    prepare = model.prepare

    def slow(*args):
        prepared = prepare(*args)
        if not list_versions(model.bundle)[others - 1]["serving"]:
            serve_version(model.bundle, others)
        return prepared

    with monkeypatch.context() as patch:
        patch.setattr(model, "prepare", slow)
        found = model.segment(scan).voxels
    np.testing.assert_array_equal(found, model.segment(scan).voxels)
    serve_version(model.bundle, 1)
    assert not np.array_equal(found, model.segment(scan).voxels)


def test_what_was_prepared_for_other_weights_than_were_asked_for_is_not_kept(model, scan, others, monkeypatch):
    """Later the first ones serve again."""
    expected, configure = BundleInference(model.bundle).segment(scan).voxels, model.configure

    def slow(*args):
        if not settings_beside(model.bundle.weights).exists():
            serve_version(model.bundle, others)
        return configure(*args)

    with monkeypatch.context() as patch:
        patch.setattr(model, "configure", slow)
        assert not np.array_equal(model.segment(scan).voxels, expected)
    serve_version(model.bundle, 1)
    np.testing.assert_array_equal(model.segment(scan).voxels, expected)


def test_weights_that_come_to_serve_while_the_network_is_read(model, scan, others, monkeypatch):
    """The config is of one version, and the weights are of another then: they do not fit."""
    expected, read = model.segment(scan).voxels, model.networks.on
    numbers = iter([others, 1])

    def slow(config):
        number = next(numbers, None)
        if number is not None:
            serve_version(model.bundle, number)
        return read(config)

    monkeypatch.setattr(model.networks, "on", slow)
    np.testing.assert_array_equal(model.segment(scan).voxels, expected)
    assert next(numbers, None) is None


def test_weights_that_come_to_serve_again_and_again(model, scan, others, monkeypatch):
    prepare, numbers = model.prepare, itertools.cycle([others, 1])
    monkeypatch.setattr(model, "prepare", lambda *args: serve_version(model.bundle, next(numbers)) and prepare(*args))
    with pytest.raises(RequestError, match="other weights of model 'msd_hippocampus' have come to serve") as no:
        model.segment(scan)
    assert no.value.status == 503


def test_weights_of_other_labels_do_not_serve(model, scans):
    """The bundle's names would be put on them."""
    settings_beside(model.bundle.weights).write_text('{"label_names": ["background", "tail", "head"]}')
    with pytest.raises(
        RequestError, match="'msd_hippocampus' were trained with other label_names: train it anew"
    ) as no:
        model.segment(scans[0])
    assert no.value.status == 409


class Request(threading.Thread):
    def __init__(self, model, scan, priority=Priority.SEGMENTATION, **settings):
        super().__init__(name=scan.name, daemon=True)
        self.call = lambda: model.segment(scan, priority=priority, **settings)
        self.result = self.error = None
        self.start()

    def run(self):
        try:
            self.result = self.call()
        except RequestError as error:
            self.error = error

    def get(self):
        self.join(SECONDS)
        assert not self.is_alive()
        return self.result


def watch(model, monkeypatch, at_window=lambda: None):
    """Who computes each group of windows, by the scan's name."""
    log, on = [], model.networks.on

    def watched(config):
        network = on(config)

        def compute(windows):
            log.append(threading.current_thread().name)
            at_window()
            return network(windows)

        return compute

    monkeypatch.setattr(model.networks, "on", watched)
    return log


def wait_until_in_line(model, count):
    deadline = time.monotonic() + SECONDS
    while len(model.turn._line) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_a_click_in_the_middle_of_another_inference(model, scans, monkeypatch):
    alone = [model.segment(scan).voxels for scan in scans[:2]]
    started, waits = threading.Event(), threading.Event()

    def let_the_click_come():
        started.set()
        assert waits.wait(SECONDS)

    log = watch(model, monkeypatch, let_the_click_come)
    slow = Request(model, scans[0], Priority.BATCH)
    assert started.wait(SECONDS)
    click = Request(model, scans[1], Priority.CLICK)
    wait_until_in_line(model, 2)
    waits.set()
    for request, voxels in zip((slow, click), alone, strict=True):
        np.testing.assert_array_equal(request.get().voxels, voxels)
    first, *others = log
    clicks = others.count(scans[1].name)
    assert first == scans[0].name and clicks > 1 and others[:clicks] == [scans[1].name] * clicks
    assert len(others) > clicks


@pytest.mark.parametrize("stage", ["_prepare", "postprocessing"])
def test_nobody_computes_behind_one_that_reads_or_writes(model, scans, stage, monkeypatch):
    """However urgent that one is."""
    model.prepare(scans[1], Priority.CLICK)
    inside, go_on = threading.Event(), threading.Event()
    owner = inference if stage == "_prepare" else inference.InferenceConfig
    function = getattr(owner, stage)

    def slow(*args):
        if threading.current_thread().name == scans[0].name:
            inside.set()
            assert go_on.wait(SECONDS)
        return function(*args)

    monkeypatch.setattr(owner, stage, slow)
    urgent = Request(model, scans[0], Priority.CLICK)
    assert inside.wait(SECONDS)
    assert Request(model, scans[1], Priority.SCORING).get() is not None
    go_on.set()
    assert urgent.get() is not None


@pytest.mark.slow
def test_too_many_requests(model, scans, monkeypatch):
    """A batch is not among them: it has one image at a time, and none is to fail because users are there."""
    go_on = threading.Event()
    log = watch(model, monkeypatch, lambda: go_on.wait(SECONDS))
    for scan in scans:
        nib.save(nib.load(scan).slicer[:32, :32, :32], scan)
        model.prepare(scan, Priority.BATCH)
    requests = [Request(model, scans[number % 2]) for number in range(MAX_WAITING + 1)]
    batch = Request(model, scans[2], Priority.BATCH)
    wait_until_in_line(model, len(requests) + 1)
    with pytest.raises(RequestError, match=f"{MAX_WAITING} requests are waiting already, try again later") as error:
        model.segment(scans[0])
    assert error.value.status == 503
    go_on.set()
    assert all(request.get() is not None for request in (*requests, batch))
    assert log[-1] == scans[2].name
    assert model.segment(scans[0]) is not None


def test_a_batch_gives_way(model, studies, monkeypatch):
    places, line = [], model.turn.line
    monkeypatch.setattr(model.turn, "line", lambda priority: places.append(priority) or line(priority))
    store = StudiesFolder(studies)
    (studies / "broken.nii.gz").write_bytes(b"junk")
    images, options = store.list_images(), InferenceParameters()
    result = segment_all(Task({}), model, store, images, options, "ann")
    assert result["done"] == [image for image in images if image != "broken"] and list(result["failed"]) == ["broken"]
    assert places == [Priority.BATCH] * len(result["done"])
    info = store.get_label_info(result["done"][0], "original")
    assert (info["user"], info["model"]) == ("ann", "msd_hippocampus")
    assert info["params"] == {"label_names": model.bundle.labels}
    assert [store.knowledge(image).get("model") for image in (result["done"][0], "broken")] == ["msd_hippocampus", None]


def test_a_network_is_read_once_for_its_weights(model):
    config = model.configure()
    before = model.networks.on(config)
    assert model.networks.on(config) is before
    model.bundle.weights.touch()
    config = model.configure()
    after = model.networks.on(config)
    assert after is not before and model.networks.on(config) is after
    model.networks.free_memory()
    assert model.networks.on(config) is not after


def test_a_network_of_earlier_settings_is_not_kept(model):
    """Those of a config that was read before other weights came to serve, whose network may be built otherwise."""
    before = model.configure()
    model.bundle.weights.touch()
    mixed = model.networks.on(before)
    assert model.networks.on(model.configure()) is not mixed
