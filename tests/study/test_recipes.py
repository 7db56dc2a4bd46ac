import json
import shutil

import pytest
import torch
from bundle_helpers import SMALL, write_pairs
from ignite.engine import Engine
from torch import nn

from rep3d import Rep3D, installed
from rep3d.datasets import own_bundle
from rep3d.datasets.machine import Machine
from rep3d.datasets.own_bundle import new_bundle
from rep3d.study import recipes
from rep3d.study.recipes import (
    MOMENTUM,
    PRESENT,
    RECIPES,
    Cell,
    DeeplySupervised,
    Mirrored,
    averaging,
    compare_recipes,
    result_table,
)

SIZES = {"feature_size": (4, 4, 4, 4), "hidden_size": 8, "kernel_size": 5}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Of `rep3d new`, with a network that a test can afford."""
    folder = tmp_path_factory.mktemp("recipes")
    machine = Machine(16e9, False, "a laptop", 16e9)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(own_bundle, "write_fingerprint", lambda *_: None)
        made = new_bundle(
            "mine", write_pairs(folder / "source", 6), folder / "bundles", root=installed.root(), machine=machine
        )
    path = made.folder / "configs/train.json"
    config = json.loads(path.read_text())
    for name, value in SMALL.items():
        place, _, last = name.rpartition("#")
        (config[place] if place else config)[last] = value
    path.write_text(json.dumps(config))
    return made.folder


def transforms(recipe, config):
    changed = RECIPES[recipe](config).get("train#random_transforms", config["train"]["random_transforms"])
    return [one["_target_"] for one in changed]


def test_each_recipe_differs_from_the_present_one(bundle):
    config = json.loads((bundle / "configs/train.json").read_text())
    present = transforms(PRESENT, config)
    for recipe in RECIPES:
        if recipe.startswith("without"):
            assert len(present) - len(transforms(recipe, config)) == 1 + ("brightness" in recipe)
        elif recipe.startswith("with ") and "supervision" not in recipe:
            assert len(transforms(recipe, config)) - len(present) == (3 if "mirroring" in recipe else 1)
    assert RECIPES["half the learning rate"](config) == {"learning_rate": config["learning_rate"] / 2}
    assert transforms(PRESENT, config) == present == [one["_target_"] for one in config["train"]["random_transforms"]]


def test_supervision_at_three_scales():
    network = DeeplySupervised(1, 3, **SIZES)
    x = torch.randn(2, 1, 32, 32, 32)
    outputs = network(x)
    assert [tuple(y.shape) for y in outputs] == [(2, 3, n, n, n) for n in (32, 16, 8, 4)]
    sum(y.square().mean() for y in outputs).backward()
    assert all(head.weight.grad.abs().max() > 0 for head in network.heads)
    plain = Rep3D(1, 3, **SIZES)
    plain.load_state_dict({name: value for name, value in network.state_dict().items() if "heads" not in name})
    assert torch.allclose(network.eval()(x), plain.eval()(x), atol=1e-5)


def test_mirrored_inference_knows_no_sides():
    network = Mirrored(Rep3D(1, 2, **SIZES).eval())
    x = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        assert not torch.allclose(network.network(x.flip(2)), network.network(x).flip(2), atol=1e-4)
        assert torch.allclose(network(x.flip(2)), network(x).flip(2), atol=1e-4)


def test_the_statistics_are_averaged_as_the_weights_are():
    """Weights with the statistics of others are no network that trained."""
    network, rows = nn.BatchNorm1d(1), torch.tensor([[10.0], [12.0]])
    average = averaging(network)
    trainer = Engine(lambda engine, batch: network(rows))
    average.attach(trainer)
    averaged = torch.zeros(1)
    for _ in range(3):
        trainer.run([0])
        averaged += MOMENTUM * (network.running_mean - averaged)
    assert torch.allclose(average.ema_model.running_mean, averaged) and averaged < network.running_mean / 10


def test_table():
    cells = [Cell(PRESENT, 0, 10, 10.0, [0.5, 0.7]), Cell(PRESENT, 1, 10, 10.0, [0.7, 0.7])]
    cells += [Cell("with blur", 0, 10, 20.0, [0.6, 0.8]), Cell("averaged weights", 7, 10, 20.0, [0.5, 0.5])]
    blur, present, average = sorted(result_table(cells, 10).splitlines()[2:], key=lambda row: row[2:4] != "wi")[:3]
    assert present == "| as it is | 2 | 0.6500 |  |  |  |  |"
    assert blur == "| with blur | 1 | 0.7000 | +0.1000 | +0.1000 to +0.1000 | 0.5 | 2.00 |"
    assert average == "| averaged weights | 1 | 0.5000 |  |  |  |  |"  # there is no present one of its seed


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"recipes": ["blur"]}, "recipes is .'blur'., expected some of as it is, without rotation"),
        ({"steps": 15}, "steps is 15, expected a multiple of 10"),
    ],
)
def test_bad_arguments(told, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        compare_recipes(tmp_path, tmp_path / "cells", **{"recipes": [PRESENT], "seeds": [0], "steps": 10, **told})


@pytest.mark.parametrize("name", ["splits.json", "dataset.json"])
def test_cells_of_other_cases_are_refused(name, bundle, tmp_path, monkeypatch):
    """Differences are of the same validation cases, in the same order."""
    monkeypatch.setattr(
        recipes, "run_cells", lambda bundle, recipe, seed, steps: [Cell(recipe, seed, steps, 1.0, [0.5, 0.7])]
    )
    copy = shutil.copytree(bundle, tmp_path / "mine")
    compare_recipes(copy, tmp_path / "cells", [PRESENT], [0], 10)
    compare_recipes(copy, tmp_path / "cells", ["with blur"], [0], 10)
    path = copy / "data" / name
    path.write_text(path.read_text().replace("1", "2", 1))
    with pytest.raises(ValueError, match="holds cells of .*: give another folder"):
        compare_recipes(copy, tmp_path / "cells", ["with mirroring"], [0], 10)


@pytest.mark.slow
def test_cells_are_trained_once(bundle, tmp_path, monkeypatch):
    """By the bundle's own training; weights averaged, and used mirrored, besides."""
    scored, score = {}, recipes._dice

    def remember(bundle, told):
        weights = torch.load(told.get("checkpoint", f"{told['ckpt_dir']}/model.pt"))
        weights = weights.get("network", weights)
        scored[len(scored)] = weights["out.conv.conv.weight"], "network" in told, "heads.0.weight" in weights
        return [value + len(scored) for value in score(bundle, told)]

    monkeypatch.setattr(recipes, "_dice", remember)
    wanted = [PRESENT, "with mirroring", "with deep supervision"]
    table = compare_recipes(bundle, tmp_path / "cells", wanted, [3], 10)
    (last, *_), (average, *_), (mirroring, *_), (mirrored, *_), _ = scored.values()
    assert torch.equal(mirroring, mirrored)
    assert not torch.equal(last, average) and not torch.equal(last, mirroring)
    assert [one[1:] for one in scored.values()] == [(False, False)] * 3 + [(True, False), (False, True)]
    rows = dict(line.strip("| ").split(" | ")[:3:2] for line in table.splitlines()[2:])
    assert list(rows) == [*wanted[:2], "with mirroring, mirrored inference", wanted[2], "averaged weights"]
    assert [float(dice) // 1 for dice in rows.values()] == [1, 3, 4, 5, 2]
    monkeypatch.setattr(recipes, "run_cells", None)
    assert compare_recipes(bundle, tmp_path / "cells", wanted, [3], 10) == table
