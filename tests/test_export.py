import json
import shutil
import zipfile
from pathlib import Path

import monai.bundle
import pytest
import torch
from bundle_helpers import ROOT, label_names, read, small_bundle

from rep3d import Rep3D, export
from rep3d.data.leakage import TrainingCases, trained_images
from rep3d.export import pack_bundle
from rep3d.shipped import settings_beside
from rep3d.training.checkpoints import load_deployed, read_weights

pytestmark = pytest.mark.slow

BUNDLE = ROOT / "bundles/msd_hippocampus"


def network():
    definition = {name: value for name, value in read(BUNDLE, "inference")["network_def"].items() if name[0] != "_"}
    return Rep3D(**definition | {"in_channels": 1, "out_channels": len(label_names(BUNDLE))})


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "best of all.pt"
    torch.save(TrainingCases({"a digest": "a case"}, {}).mark(network().state_dict()), path)
    return path


@pytest.fixture(scope="module")
def archive(weights, tmp_path_factory):
    pytest.importorskip("onnxscript")
    return pack_bundle(BUNDLE, weights, tmp_path_factory.mktemp("archive") / "packed.zip")


@pytest.fixture(scope="module")
def unpacked(archive, tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere")
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    return folder / "msd_hippocampus"


@pytest.fixture(scope="module")
def example(weights):
    x = torch.randn(1, 1, *read(BUNDLE, "inference")["patch_size"], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return x, load_deployed(network(), weights)(x)


def test_contents(archive, unpacked):
    assert [path.name for path in archive.parent.iterdir()] == ["packed.zip"]
    assert {path.name for path in unpacked.iterdir()} == {"configs", "docs", "models", "LICENSE"}
    assert {path.name for path in (unpacked / "models").iterdir()} == {"model.pt", "model.ts", "model.onnx"}
    assert read(unpacked, "train") == read(BUNDLE, "train")


def test_weights_tell_what_they_were_trained_on(weights, unpacked):
    found = trained_images(read_weights(unpacked / "models/model.pt"))
    assert list(found) == ["a digest"] and found == trained_images(read_weights(weights))


def test_no_file_tells_where_it_was_made(unpacked):
    """The paths of this computer may have its user's name in them."""
    places = [str(path).encode() for path in (ROOT, Path(torch.__file__).parents[1])]
    for path in unpacked.rglob("*.*"):
        contents = {path.name: path.read_bytes()}
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                contents |= {name: file.read(name) for name in file.namelist()}
        found = [name for name, content in contents.items() if any(place in content for place in places)]
        assert not found, path.name


def test_torchscript_gives_the_same(unpacked, example):
    x, expected = example
    with torch.no_grad():
        actual = torch.jit.load(unpacked / "models/model.ts").eval()(x)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_onnx_gives_the_same(unpacked, example):
    onnxruntime = pytest.importorskip("onnxruntime")
    x, expected = example
    session = onnxruntime.InferenceSession(unpacked / "models/model.onnx", providers=["CPUExecutionProvider"])
    (actual,) = session.run(["pred"], {"image": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(actual), expected, rtol=1e-4, atol=1e-4)


def test_monai_loads_it(unpacked, example):
    """`monai.bundle.load` of the unpacked folder, from wherever it lies."""
    x, expected = example
    loaded = monai.bundle.load("msd_hippocampus", bundle_dir=str(unpacked.parent), workflow_type="inference").eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), expected, rtol=1e-4, atol=1e-4)


def test_what_the_training_was_told_goes_along(tmp_path, monkeypatch):
    """Into the configs, where every reader of bundles looks."""
    monkeypatch.setattr(export, "_export_onnx", lambda *_: None)
    told = {"spacing": [2.0, 2.0, 2.0], "patch_size": [32, 32, 32]}
    bundle = small_bundle(tmp_path, "msd_hippocampus")
    settings = {**told, "network_def": read(bundle, "inference")["network_def"]}
    shutil.copytree(BUNDLE / "configs", bundle / "configs", dirs_exist_ok=True)  # of another network by now
    settings_beside(bundle / "models/model.pt").write_text(json.dumps(settings))
    with zipfile.ZipFile(pack_bundle(bundle, bundle / "models/model.pt", tmp_path / "a.zip")) as file:
        file.extractall(tmp_path / "packed")
    packed = tmp_path / "packed/msd_hippocampus"
    for name in ("train", "inference"):
        config = read(packed, name)
        assert {key: config[key] for key in settings} == settings
        assert {key: config["known_values"][key] for key in told} == told
        assert config["label_names"] == read(BUNDLE, name)["label_names"]
    readme = (packed / "docs/README.md").read_text(encoding="utf-8")
    assert "trained with other spacing, patch_size, network_def than this page tells of" in readme
    tensors = read(packed, "metadata")["network_data_format"]
    shapes = [tensors[way][name]["spatial_shape"] for way, name in (("inputs", "image"), ("outputs", "pred"))]
    assert shapes == [told["patch_size"]] * 2
    x = torch.zeros(1, 1, *told["patch_size"])
    loaded = monai.bundle.load("msd_hippocampus", bundle_dir=str(packed.parent), workflow_type="inference").eval()
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(packed / "models/model.ts").eval()(x), loaded(x))
    settings_beside(bundle / "models/model.pt").write_text('{"label_names": ["background", "bone"]}')
    with pytest.raises(ValueError, match="pack: .*model.pt was trained with label_names .*: train anew"):
        pack_bundle(bundle, bundle / "models/model.pt", tmp_path / "b.zip")


def test_wrong_arguments(weights, tmp_path):
    with pytest.raises(FileNotFoundError, match="bundle .* has no configs/inference.json"):
        pack_bundle(tmp_path, weights, tmp_path / "a.zip")
    with pytest.raises(FileNotFoundError, match="no weights at .*absent.pt"):
        pack_bundle(BUNDLE, tmp_path / "absent.pt", tmp_path / "a.zip")
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="other.pt: the weights are of another network"):
        pack_bundle(BUNDLE, tmp_path / "other.pt", tmp_path / "a.zip")
    assert not list(tmp_path.glob("*.zip"))
