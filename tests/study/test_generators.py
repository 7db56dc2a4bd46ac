import json

import pytest
import torch
from bundle_helpers import make_dataset, small_bundle

from rep3d.networks.lrbm import FixedMask
from rep3d.networks.rep3d import ChannelNorm
from rep3d.study import generators
from rep3d.study.generators import FORMS, Cell, build_network, compare_generators, result_table

SIZES = {"in_channels": 1, "out_channels": 3, "feature_size": (4, 4, 4, 4), "hidden_size": 8, "kernel_size": 5}


def masks(form):
    network = build_network(form, "fixed", **SIZES)
    return [module for module in network.modules() if isinstance(module, generators.LRBM | FixedMask)]


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("kind", ["positions", "channels"])
def test_forms_of_the_generator(kind, start):
    for mask in masks(f"{kind}-{start}"):
        assert all(isinstance(norm, ChannelNorm) == (kind == "channels") for norm in mask.norms)
        assert (mask.norms[-1].weight == start).all()
        assert torch.allclose(mask(), mask.prior().expand_as(mask())) == (start == 0)


def test_the_prior_alone_and_no_mask():
    assert masks("none") == []
    assert {type(mask) for mask in masks("fixed")} == {FixedMask}


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"forms": ["lrbm"]}, "forms is .'lrbm'., expected some of positions-0"),
        ({"steps": 15}, "steps is 15, expected a multiple of 10"),
    ],
)
def test_bad_arguments(told, message, tmp_path):
    arguments = {"forms": FORMS, "seeds": [0], "steps": 10, **told}
    with pytest.raises(ValueError, match=message):
        compare_generators(tmp_path, "", tmp_path / "cells", **arguments)


def test_table():
    cells = [Cell("none", 0, 10, 5.0, [0.5, 0.7]), Cell("none", 1, 10, 15.0, [0.7, 0.7])]
    row = "| none | 2 | 0.6000 | 0.7000 | 0.6500 | 0.6000-0.7000 | 1.00 |"
    assert result_table(cells, 10).splitlines()[2:] == [row]


@pytest.mark.slow
def test_cells_are_trained_once(tmp_path, monkeypatch):
    """By the bundle's own training."""
    monkeypatch.setattr(generators, "PATCH", (32, 32, 32))
    bundle = small_bundle(tmp_path, "msd_hippocampus", weights=False)
    data, output = str(make_dataset(tmp_path / "data", bundle)), tmp_path / "cells"
    table = compare_generators(bundle, data, output, ["channels-1"], [3], 10)
    assert "| channels-1 | 1 | 0." in table
    (path,) = output.glob("cell_*")
    cell = json.loads(path.read_text())
    assert path.name == "cell_channels-1_10_3.json" and (cell["form"], cell["seed"], cell["steps"]) == (
        "channels-1",
        3,
        10,
    )
    assert cell["seconds"] > 0 and all(0 <= dice <= 1 for dice in cell["dice"])
    monkeypatch.setattr(generators, "run_cell", None)
    assert compare_generators(bundle, data, output, ["channels-1"], [3], 10) == table
    with pytest.raises(ValueError, match="cells holds cells of .*: give another folder"):
        compare_generators(bundle, str(tmp_path), output, ["channels-1"], [3], 10)
