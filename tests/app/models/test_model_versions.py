"""Weights that a client sends, and the versions of a model on the command line."""

import io
import pickle
import re
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from app_helpers import Server, small_bundle
from bundle_helpers import small_network

from monailabel_app.__main__ import main
from monailabel_app.bundles import read_bundle
from monailabel_app.errors import RequestError
from monailabel_app.models import versions
from monailabel_app.models.inference import BundleInference
from monailabel_app.models.uploads import serve_upload
from monailabel_app.models.versions import add_version, keep_serving, list_versions, serve_version
from rep3d import files, reparameterize
from rep3d.data.leakage import TrainingCases, trained_images
from rep3d.files import read_json
from rep3d.shipped import settings_beside
from rep3d.training.checkpoints import read_weights

MODEL = "msd_hippocampus"


@pytest.fixture
def bundle(tmp_path):
    return read_bundle(small_bundle(tmp_path / "bundles", MODEL))


@pytest.fixture
def network(bundle):
    return small_network(bundle.root)


def saved(content) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def voting_for(network, label: int) -> bytes:
    """Weights with which every voxel gets one label."""
    weights = network.state_dict()
    weights["out.conv.conv.bias"] = 1e6 * torch.nn.functional.one_hot(torch.tensor(label), 3).float()
    return saved(weights)


# --- what is taken


def test_an_upload_serves(bundle, network, tmp_path):
    before = bundle.weights.read_bytes()
    file = tmp_path / "sent.pt"
    file.write_bytes(voting_for(network, 2))
    version = serve_upload(BundleInference(bundle), file, "ann")
    assert (version["version"], version["user"], version["note"], version["serving"]) == (2, "ann", "uploaded", True)
    assert [known["serving"] for known in list_versions(bundle)] == [False, True]
    sent, serving = torch.load(file), read_weights(bundle.weights)
    assert sent.keys() == serving.keys() and all(torch.equal(sent[name], serving[name]) for name in sent)
    serve_version(bundle, 1)
    assert bundle.weights.read_bytes() == before


def test_what_a_training_was_told_serves_with_its_weights(bundle, network, tmp_path):
    """Trained on the command line with other settings, replaced in the app, rolled back."""
    told = settings_beside(bundle.own_weights)
    bundle.own_weights.parent.mkdir(exist_ok=True)
    bundle.own_weights.write_bytes(voting_for(network, 1))
    told.write_text('{"spacing": [2.0, 2.0, 2.0]}', encoding="utf-8")
    new = tmp_path / "new.pt"
    new.write_bytes(voting_for(network, 2))
    keep_serving(bundle)
    number = add_version(bundle, new, {"user": "ann"})
    serve_version(bundle, number)
    assert not told.exists()
    serve_version(bundle, number - 1)
    assert read_json(told) == {"spacing": [2.0, 2.0, 2.0]}
    new.write_bytes(voting_for(network, 0))
    settings_beside(new).write_text('{"spacing": [3.0, 3.0, 3.0]}', encoding="utf-8")
    serve_version(bundle, add_version(bundle, new, {"user": "ann"}))
    assert read_json(told) == {"spacing": [3.0, 3.0, 3.0]}


def test_weights_and_settings_of_one_version_serve_where_the_disk_is_full(bundle, network, tmp_path, monkeypatch):
    """Those that served before."""
    keep_serving(bundle)
    new = tmp_path / "new.pt"
    new.write_bytes(voting_for(network, 2))
    settings_beside(new).write_text('{"spacing": [3.0, 3.0, 3.0]}', encoding="utf-8")
    number = add_version(bundle, new, {"user": "ann"})
    serve_version(bundle, 1)
    before = {path: path.read_bytes() for path in bundle.own_weights.parent.iterdir()}

    def full(*_):
        raise files.WriteError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(versions, "write_settings", full)
        with pytest.raises(files.WriteError):
            serve_version(bundle, number)
    assert {path: path.read_bytes() for path in bundle.own_weights.parent.iterdir()} == before


def test_first_weights_of_a_model(tmp_path):
    bundle = read_bundle(small_bundle(tmp_path, MODEL, weights=False))
    file = tmp_path / "sent.pt"
    file.write_bytes(saved(small_network(bundle.root).state_dict()))
    assert serve_upload(BundleInference(bundle), file, "ann")["version"] == 1
    assert bundle.weights.is_file()


def test_of_a_checkpoint_only_the_weights_are_kept(bundle, network, tmp_path):
    """`last.pt` holds what resuming needs too."""
    file = tmp_path / "last.pt"
    file.write_bytes(saved({"network": network.state_dict(), "optimizer": {"state": {}}, "epoch": 3}))
    serve_upload(BundleInference(bundle), file, "ann")
    assert torch.load(bundle.weights).keys() == network.state_dict().keys()


def test_what_uploaded_weights_were_trained_on_is_kept(bundle, network, tmp_path):
    """No image of these may validate later."""
    marked = TrainingCases({"digest of an image": "patient 1"}, {}).mark(network.state_dict())
    file = tmp_path / "last.pt"
    file.write_bytes(saved({"network": marked, "epoch": 3}))
    serve_upload(BundleInference(bundle), file, "ann")
    assert trained_images(read_weights(bundle.weights)) == trained_images(marked) != {}


def told_of_images(network, images):
    weights = network.state_dict()
    weights._metadata["trained_on"] = images
    return saved(weights)


def told_of_nothing_that_is_known(network):
    weights = network.state_dict()
    weights._metadata = ["trained_on"]
    return saved(weights)


def other_keys(network):
    return saved({f"module.{name}": tensor for name, tensor in network.state_dict().items()})


def missing_key(network):
    return saved(dict(list(network.state_dict().items())[1:]))


def other_shape(network):
    return saved({**network.state_dict(), "out.conv.conv.bias": torch.zeros(4)})


def not_finite(network):
    return saved({**network.state_dict(), "out.conv.conv.bias": torch.tensor([0.0, float("nan"), 0.0])})


def too_large_for_float32(network):
    return saved({**network.state_dict(), "out.conv.conv.bias": torch.full((3,), 1e300, dtype=torch.float64)})


def deployed(network):
    return saved(reparameterize(network).state_dict())


def code(network):
    return saved({**network.state_dict(), "x": Leaves(Path("marker"))})


def code_in_a_bare_pickle(network):
    return pickle.dumps(Leaves(Path("marker")))


def bomb(network):
    file = io.BytesIO(saved(network.state_dict()))
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/999", bytes(2**24))
    return file.getvalue()


class Leaves:
    """Makes a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (other_keys, 400, "of another network: 112 tensors are in the network only"),
        (missing_key, 400, "of another network: .* 1 tensors are in the network only"),
        (other_shape, 400, "of another network: .*out.conv.conv.bias"),
        (not_finite, 400, r"1 tensor\(s\) hold NaN or infinite values: out.conv.conv.bias"),
        (too_large_for_float32, 400, "infinite values: out.conv.conv.bias"),
        (deployed, 400, "of another network"),
        (code, 400, "no state dict of tensors"),
        (code_in_a_bare_pickle, 400, "no checkpoint of torch.save"),
        (lambda network: told_of_images(network, ["a"]), 400, r"'trained_on' is \['a'\], expected the names of images"),
        (lambda network: told_of_images(network, {"a": 1}), 400, "'trained_on' is {'a': 1}, expected"),
        (told_of_nothing_that_is_known, 400, r"'trained_on' is \['trained_on'\], expected"),
        (bomb, 413, "unpacks to 1[67].* bytes, at most"),
        (lambda network: b"", 400, r"the file \(0 bytes\) is no checkpoint"),
        (lambda network: saved([1, 2]), 400, "no state dict of tensors"),
    ],
)
def test_uploads_that_are_refused(content, status, message, bundle, network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = bundle.weights.read_bytes()
    file = tmp_path / "sent.pt"
    file.write_bytes(content(network))
    with pytest.raises(RequestError) as caught:
        serve_upload(BundleInference(bundle), file, "ann")
    assert caught.value.status == status and re.search(message, caught.value.message)
    assert str(tmp_path) not in caught.value.message
    assert bundle.weights.read_bytes() == before and not list_versions(bundle)
    assert not Path("marker").exists()


def test_the_code_would_run(network, tmp_path, monkeypatch):
    """Where a file is unpickled as Python does: what the refusals above are known to stop."""
    monkeypatch.chdir(tmp_path)
    torch.load(io.BytesIO(code(network)), weights_only=False)
    assert Path("marker").exists()


def test_additions_at_once(bundle, network, tmp_path):
    """From several threads, as requests and a training come: every one is a version of its own."""
    files = []
    for number in range(8):
        files.append(tmp_path / f"{number}.pt")
        files[-1].write_bytes(voting_for(network, number % 3) + bytes(number))
    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(lambda file: add_version(bundle, file, {"user": file.stem, "note": ""}), files))
    assert sorted(numbers) == list(range(1, 9))
    assert {str(v["version"]): v["user"] for v in list_versions(bundle)} == {
        str(number): file.stem for number, file in zip(numbers, files, strict=True)
    }


# --- the server, and the command beside it


@pytest.mark.slow
def test_upload_and_roll_back(bundle, network, tmp_path):
    (tmp_path / "studies").mkdir()
    scan = np.random.default_rng(0).random((12, 12, 12), dtype=np.float32)
    nib.save(nib.Nifti1Image(scan, np.eye(4)), tmp_path / "studies/scan.nii.gz")
    conf = {"bundles": str(bundle.root.parent), "models": MODEL, "warm_up": "false", "scoring": "false"}
    with Server(tmp_path, model_upload="true", **conf) as running:

        def labels():
            answer = running.request("POST", f"/infer/{MODEL}?image=scan&output=image")
            (tmp_path / "label.nii.gz").write_bytes(answer.content)
            return np.unique(np.asarray(nib.load(tmp_path / "label.nii.gz").dataobj)).tolist()

        for number, label in ((2, 1), (3, 2)):
            sent = {"file": ("model.pt", voting_for(network, label))}
            answer = running.request("PUT", f"/model/{MODEL}", files=sent)
            assert answer.status_code == 200 and answer.json()["version"] == number, answer.text
            assert answer.json()["checksum"] == running.request("GET", f"/model/info/{MODEL}").json()["checksum"]
            assert labels() == [label]
        serving = torch.load(io.BytesIO(running.request("GET", f"/model/{MODEL}").content))
        assert serving["out.conv.conv.bias"].argmax() == 2
        assert running.request("PUT", "/model/absent", files=sent).status_code == 404
        main(["serve_version", "--model", MODEL, "--version", "2", "--bundles", str(bundle.root.parent)])
        assert labels() == [1]
        versions = running.request("GET", f"/model/{MODEL}/versions").json()
        assert [version["serving"] for version in versions] == [False, True, False]
        assert [version["note"] for version in versions[1:]] == ["uploaded"] * 2


def test_versions_command(bundle, network, tmp_path, capsys):
    keep_serving(bundle)
    file = tmp_path / "new.pt"
    file.write_bytes(voting_for(network, 1))
    told = {"user": "ann", "dice": {"new": 0.81234, "serving": 0.8}, "note": "better"}
    add_version(bundle, file, {**told, "cases": {"training": ["a", "b", "c"], "validation": ["d"]}})
    place = ["--model", MODEL, "--bundles", str(bundle.root.parent)]
    main(["versions", *place])
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split() == ["version", "date", "dice", "cases", "user", "note", "serving"]
    assert re.fullmatch(r"1 +\d{4}-\d\d-\d\d \d\d:\d\d +- +- +- +was there before the app kept versions +yes", first)
    assert re.fullmatch(r"2 +\d{4}-\d\d-\d\d \d\d:\d\d +0.8123 +3 \+ 1 +ann +better", second)
    assert first.index("was there") == second.index("better") == header.index("note")
    main(["serve_version", *place, "--version", "2"])
    assert capsys.readouterr().out == f"{MODEL}: version 2 serves\n"
    assert bundle.weights.read_bytes() == file.read_bytes()


def test_versions_of_a_model_without(bundle, capsys):
    main(["versions", "--model", MODEL, "--bundles", str(bundle.root.parent)])
    told = f"{MODEL} has no versions yet: the first retraining keeps the weights that serve as version 1\n"
    assert capsys.readouterr().out == told
    assert not list_versions(bundle)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "python -m monailabel_app start_server"),
        (["sell_server"], "python -m monailabel_app start_server"),
        (["versions", "--model", "absent"], "models is 'absent'"),
        (["versions", "--model", f"{MODEL},kits"], "expected one of"),
        (["serve_version", "--model", MODEL, "--version", "7"], f"model '{MODEL}' has no version 7"),
    ],
)
def test_commands_that_are_refused(arguments, message, bundle):
    small_bundle(bundle.root.parent, "kits", weights=False)
    place = ["--bundles", str(bundle.root.parent)] if len(arguments) > 1 else []
    with pytest.raises(SystemExit, match=message):
        main([*arguments, *place])
    assert not list_versions(bundle)
