"""The weights that a bundle ships with, in the app: version 1, which serves again when it is asked for."""

import json
import shutil

import numpy as np
import pytest
import torch
from app_helpers import small_bundle
from bundle_helpers import read, small_network

from monailabel_app.__main__ import main
from monailabel_app.bundles import choose_bundles, read_bundle
from monailabel_app.main import Rep3DApp
from monailabel_app.models.inference import BundleInference
from monailabel_app.models.retraining.promotion import promote
from monailabel_app.models.retraining.record import TrainingRecord
from monailabel_app.models.uploads import serve_upload
from monailabel_app.models.versions import keep_shipped, list_versions, serve_version
from monailabel_app.tasks import Task
from rep3d.shipping import ship_weights
from rep3d.training.checkpoints import read_weights

MODEL = "msd_hippocampus"


def voting_for(folder, label, path):
    """Weights with which every voxel gets one label."""
    weights = small_network(folder).state_dict()
    weights["out.conv.conv.bias"] = 1e4 * torch.nn.functional.one_hot(torch.tensor(label), 3).float()
    torch.save(weights, path)
    return path


@pytest.fixture
def bundle(tmp_path):
    """It ships with weights that vote for label 2."""
    folder = small_bundle(tmp_path / "bundles", MODEL, weights=False)
    facts = ship_weights(folder, voting_for(folder, 2, tmp_path / "shipped.pt"))
    metadata = {**read(folder, "metadata"), "weights": facts}
    (folder / "configs/metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    return read_bundle(folder)


@pytest.fixture
def scan(material, tmp_path):
    return shutil.copy(next(iter(material.scans.values())), tmp_path / "scan.nii.gz")


def labels(bundle, scan):
    return np.unique(BundleInference(bundle).segment(scan).voxels).tolist()


def shown(bundle):
    return [(one["version"], one.get("origin"), one["user"], one["serving"]) for one in list_versions(bundle)]


def start(bundle, tmp_path):
    (tmp_path / "studies").mkdir(exist_ok=True)
    (tmp_path / "app").mkdir(exist_ok=True)
    conf = {"bundles": str(bundle.root.parent), "models": "all", "warm_up": "false", "scoring": "false"}
    app = Rep3DApp(str(tmp_path / "app"), str(tmp_path / "studies"), conf)
    for lock in app._locks:
        lock.release(force=True)


def test_from_the_start_it_is_the_first_version(bundle, scan, tmp_path):
    for _ in range(2):
        start(bundle, tmp_path)
        assert shown(bundle) == [(1, "shipped", None, True)]
    (version,) = list_versions(bundle)
    assert version["note"] == "came with the bundle" and version["time"]
    assert labels(bundle, scan) == [2]
    network = BundleInference(bundle).networks.on(BundleInference(bundle).configure())
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_uploads_and_roll_back_leave_it_alone(bundle, scan, tmp_path):
    keep_shipped(bundle)
    before = bundle.shipped.read_bytes()
    for label in (1, 0):
        serve_upload(BundleInference(bundle), voting_for(bundle.root, label, tmp_path / "sent.pt"), "ann")
        assert labels(bundle, scan) == [label]
    assert shown(bundle) == [(1, "shipped", None, False), (2, None, "ann", False), (3, None, "ann", True)]
    serve_version(bundle, 1)
    assert [serving for *_, serving in shown(bundle)] == [True, False, False]
    assert labels(bundle, scan) == [2]
    serve_version(bundle, 3)
    assert labels(bundle, scan) == [0]
    assert bundle.shipped.read_bytes() == before
    assert (bundle.root / "models/versions/0001/model.pt").read_bytes() == before


def test_promotion_leaves_it_alone(bundle, scan, tmp_path):
    keep_shipped(bundle)
    before = bundle.shipped.read_bytes()
    new = voting_for(bundle.root, 1, tmp_path / "new.pt")
    record = TrainingRecord("RUNNING", "ann", {"training": ["a"], "validation": []})
    assert not promote(Task({}), bundle, new, record, "not worse", lambda *_: None)["serving"]
    assert labels(bundle, scan) == [2]
    serve_version(bundle, 2)
    assert shown(bundle) == [(1, "shipped", None, False), (2, None, "ann", True)]
    assert labels(bundle, scan) == [1] and bundle.shipped.read_bytes() == before


def test_weights_that_were_trained_in_the_bundle_serve(bundle, scan, tmp_path, capsys):
    """Before the app saw it, and while it runs; the commands know the shipped ones, too."""
    bundle.own_weights.parent.mkdir()
    voting_for(bundle.root, 1, bundle.own_weights)
    model = BundleInference(bundle)
    assert np.unique(model.segment(scan).voxels).tolist() == [1]
    place = ["--model", MODEL, "--bundles", str(bundle.root.parent)]
    main(["versions", *place])
    assert "came with the bundle" in capsys.readouterr().out
    main(["serve_version", *place, "--version", "1"])
    assert np.unique(model.segment(scan).voxels).tolist() == [2]
    assert shown(bundle) == [(1, "shipped", None, True), (2, None, None, False)]
    serve_version(bundle, 2)
    assert np.unique(model.segment(scan).voxels).tolist() == [1]


def test_new_weights_of_a_release_are_the_next_version(bundle, scan, tmp_path, caplog):
    """They serve where nothing else did; otherwise they wait."""
    keep_shipped(bundle)
    facts = ship_weights(bundle.root, voting_for(bundle.root, 1, tmp_path / "next.pt"))
    path = bundle.root / "configs/metadata.json"
    path.write_text(json.dumps({**read(bundle.root, "metadata"), "weights": facts}), encoding="utf-8")
    updated = read_bundle(bundle.root)
    keep_shipped(updated)
    assert shown(updated) == [(1, "shipped", None, False), (2, "shipped", None, True)]
    keep_shipped(updated)
    assert caplog.messages == [f"{MODEL}: version 2 serves, which came with an update; no other did"]
    assert labels(updated, scan) == [1]
    serve_version(updated, 1)
    assert labels(updated, scan) == [2]


@pytest.mark.parametrize("weights", [None, "https://example.org/weights", {}, {"sha256": "0" * 64}])
def test_a_file_that_the_metadata_does_not_tell(weights, bundle, tmp_path):
    """It is somebody's own: it serves, and becomes a version when others take its place."""
    metadata = {key: value for key, value in read(bundle.root, "metadata").items() if key != "weights"}
    content = metadata if weights is None else {**metadata, "weights": weights}
    (bundle.root / "configs/metadata.json").write_text(json.dumps(content), encoding="utf-8")
    other = read_bundle(bundle.root)
    keep_shipped(other)
    assert list_versions(other) == [] and other.weights == bundle.shipped
    serve_upload(BundleInference(other), voting_for(bundle.root, 1, tmp_path / "sent.pt"), "ann")
    assert shown(other) == [(1, None, None, False), (2, None, "ann", True)]


def test_bundles_that_have_weights(bundle, tmp_path):
    folder = bundle.root.parent
    small_bundle(folder, "kits", weights=False)
    assert list(choose_bundles(folder, "all")) == [MODEL]
    (folder / "kits/models/trained").mkdir(parents=True)
    torch.save(read_weights(bundle.shipped), folder / "kits/models/trained/model.pt")
    assert list(choose_bundles(folder, "all")) == ["kits", MODEL]
    shutil.rmtree(folder / "kits")
    bundle.shipped.unlink()
    with pytest.raises(ValueError, match="has weights: train one, put them in its models/trained/model.pt, or name"):
        choose_bundles(folder, "all")
