"""Weights in half precision: how they are made, and every door that loads them into a network of float32."""

import hashlib
import json
import logging
import zipfile

import monai.bundle
import pytest
import ship_weights as script
import torch
from bundle_helpers import read, small_bundle, small_network
from ignite.engine import Engine
from monai.bundle import ckpt_export
from monai.handlers import CheckpointLoader

from rep3d.data.leakage import TrainingCases, trained_images
from rep3d.export import pack_bundle
from rep3d.shipping import file_facts, ship_weights
from rep3d.training.checkpoints import initialize_from, load_deployed, read_weights

MODEL = "msd_hippocampus"
CASES = TrainingCases({"digest": "case"}, {})


@pytest.fixture
def bundle(tmp_path):
    """A bundle that ships with weights, and tells so."""
    folder = small_bundle(tmp_path / "bundles", MODEL, weights=False)
    network = small_network(folder)
    network.encoder.stages[0][0].norm.running_var.fill_(1e6)  # beyond half precision
    torch.save(CASES.mark(network.state_dict()), tmp_path / "trained.pt")
    facts = ship_weights(folder, tmp_path / "trained.pt")
    metadata = read(folder, "metadata")
    (folder / "configs/metadata.json").write_text(json.dumps({**metadata, "weights": facts}), encoding="utf-8")
    (folder / "models/NOTICE").write_text("whose they are")
    return folder


@pytest.fixture
def shipped(bundle):
    return bundle / "models/model.pt"


@pytest.fixture
def x():
    return torch.randn(1, 1, 32, 32, 32)


@pytest.fixture
def expected(bundle, shipped, x):
    """The output with the shipped numbers, loaded as float32."""
    network = small_network(bundle)
    network.load_state_dict(
        {name: tensor.to(network.state_dict()[name]) for name, tensor in read_weights(shipped).items()}
    )
    with torch.no_grad():
        return network.eval()(x)


def test_what_is_written(bundle, shipped, tmp_path):
    """Parameters in half precision, all else and the images that they were trained on as they were."""
    before, after = read_weights(tmp_path / "trained.pt"), read_weights(shipped)
    parameters = {name for name, _ in small_network(bundle).named_parameters()}
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor.half() if name in parameters else tensor), name
    assert trained_images(after) == trained_images(before) != {}
    assert shipped.stat().st_size < 0.7 * (tmp_path / "trained.pt").stat().st_size
    assert file_facts(shipped) == {
        "sha256": hashlib.sha256(shipped.read_bytes()).hexdigest(),
        "bytes": shipped.stat().st_size,
        "float16_parameters": sum(parameter.numel() for parameter in small_network(bundle).parameters()),
    }


@pytest.mark.parametrize("value", [7e4, -1e30])
def test_too_large_for_half_precision(value, bundle, shipped, tmp_path):
    before = shipped.read_bytes()
    network = small_network(bundle)
    with torch.no_grad():
        network.out.conv.conv.bias[0] = value
    torch.save(network.state_dict(), tmp_path / "large.pt")
    with pytest.raises(ValueError, match="large.pt in half precision: 1 tensor.*out.conv.conv.bias"):
        ship_weights(bundle, tmp_path / "large.pt")
    assert shipped.read_bytes() == before


def test_a_shift_of_the_logit(tmp_path):
    folder = small_bundle(tmp_path / "bundles", "interactive", weights=False)
    network = small_network(folder)
    torch.save(network.state_dict(), tmp_path / "trained.pt")
    ship_weights(folder, tmp_path / "trained.pt", logit_shift=0.3)
    shifted, x = small_network(folder), torch.randn(1, 5, 32, 32, 32)
    shifted.load_state_dict(read_weights(folder / "models/model.pt"))
    with torch.no_grad():
        difference = shifted.eval()(x) - network.eval()(x)
    torch.testing.assert_close(difference, torch.full_like(difference, 0.3), atol=0.02, rtol=0)


def test_wrong_arguments(bundle, tmp_path):
    with pytest.raises(
        ValueError, match="logit_shift is 0.3, expected 0: .*trained.pt has no out.conv.conv.bias of one logit"
    ):
        ship_weights(bundle, tmp_path / "trained.pt", logit_shift=0.3)
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="other.pt: the weights are of another network"):
        ship_weights(bundle, tmp_path / "other.pt")
    with pytest.raises(FileNotFoundError, match="bundle .* has no configs/inference.json"):
        ship_weights(tmp_path, tmp_path / "trained.pt")


# --- the doors


def assert_same(network, x, expected):
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(x), expected, rtol=1e-4, atol=1e-4)


def test_own_loaders(bundle, shipped, x, expected):
    assert_same(load_deployed(small_network(bundle), shipped), x, expected)
    network = small_network(bundle)
    initialize_from(network, shipped)
    assert_same(network, x, expected)
    ensemble = load_deployed(small_network(bundle), [shipped, shipped])
    assert_same(ensemble, x, expected.softmax(dim=1))


@pytest.mark.parametrize("deploy", [False, True])
def test_monai_s_handler(deploy, bundle, shipped, x, expected):
    parser = monai.bundle.ConfigParser()
    parser.read_config(str(bundle / "configs/inference.json"))
    parser["network_def#deploy"] = deploy
    network = parser.get_parsed_content("network_def")
    loader = CheckpointLoader(str(shipped), {"model": network}, strict=False)
    loader.logger = logging.getLogger(__name__)
    loader(Engine(lambda engine, batch: None))
    assert_same(network, x, expected)


@pytest.mark.slow
def test_monai_s_load(bundle, x, expected, tmp_path):
    """Also of weights that were trained since, which it is to be told."""
    place = {"bundle_dir": str(bundle.parent), "workflow_type": "inference"}
    assert_same(monai.bundle.load(MODEL, **place), x, expected)
    (bundle / "models/trained").mkdir()
    (tmp_path / "trained.pt").rename(bundle / "models/trained/model.pt")
    loaded = monai.bundle.load(MODEL, model_file="models/trained/model.pt", **place)
    with torch.no_grad():
        trained = load_deployed(small_network(bundle), bundle / "models/trained/model.pt")(x)
    assert_same(loaded, x, trained)


@pytest.mark.slow
def test_export_by_monai(bundle, shipped, x, expected, tmp_path):
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(shipped),
        meta_file=str(bundle / "configs/metadata.json"),
        config_file=str(bundle / "configs/inference.json"),
    )
    assert_same(torch.jit.load(tmp_path / "model.ts"), x, expected)


@pytest.mark.slow
def test_packed(bundle, shipped, tmp_path):
    """What ships stays the file that metadata and notice are about; other weights have neither."""
    pytest.importorskip("onnxscript")
    archive = pack_bundle(bundle, shipped, tmp_path / "a.zip")
    with zipfile.ZipFile(archive) as file:
        assert file.read(f"{MODEL}/models/model.pt") == shipped.read_bytes()
        assert file.read(f"{MODEL}/models/NOTICE") == b"whose they are"
        assert json.loads(file.read(f"{MODEL}/configs/metadata.json")) == read(bundle, "metadata")
    archive = pack_bundle(bundle, tmp_path / "trained.pt", tmp_path / "b.zip")
    with zipfile.ZipFile(archive) as file:
        assert f"{MODEL}/models/NOTICE" not in file.namelist()
        metadata = {key: value for key, value in read(bundle, "metadata").items() if key != "weights"}
        assert json.loads(file.read(f"{MODEL}/configs/metadata.json")) == metadata


# --- the script


def test_the_script_writes_down_what_it_ships(bundle, shipped, tmp_path, capsys):
    path, before = tmp_path / "configs/weights" / f"{MODEL}.json", shipped.read_bytes()
    path.parent.mkdir(parents=True)
    path.write_text('{"licence": "ours", "dice": {"mean": 1}, "sha256": "of the one before"}', encoding="utf-8")
    shipped.unlink()
    script.main(MODEL, weights=str(tmp_path / "trained.pt"), root=tmp_path)
    assert shipped.read_bytes() == before
    assert json.loads(path.read_text(encoding="utf-8")) == {"licence": "ours", **file_facts(shipped)}
    assert capsys.readouterr().out == f"{path}: written; run scripts/render_bundles.py\n"


def test_the_script_takes_scores(tmp_path):
    (tmp_path / "eval").mkdir()
    rows = ["case,label,dice,hd95_mm,surface_dice,volume_error_ml,truth_ml"]
    scores = {("a", "front"): 0.5, ("a", "back"): 0.75, ("b", "front"): 0.6, ("b", "back"): "nan"}
    rows += [f"{case},{label},{dice},1,1,1,1" for (case, label), dice in scores.items()]
    (tmp_path / "eval/scores.csv").write_text("\n".join(rows), encoding="utf-8")
    script.main(MODEL, scores=str(tmp_path / "eval"), root=tmp_path)
    facts = json.loads((tmp_path / "configs/weights" / f"{MODEL}.json").read_text(encoding="utf-8"))
    assert facts == {"dice": {"front": 0.55, "back": 0.75, "mean": 0.65}}
    with pytest.raises(ValueError, match="neither --weights nor --scores"):
        script.main(MODEL, root=tmp_path)


def test_weights_of_other_settings_do_not_ship(bundle, shipped, tmp_path):
    before = shipped.read_bytes()
    (tmp_path / "as_trained.json").write_text('{"spacing": [9, 9, 9]}')
    with pytest.raises(ValueError, match=r"trained.pt was trained with other spacing than .*: they would not ship"):
        ship_weights(bundle, tmp_path / "trained.pt")
    assert shipped.read_bytes() == before
