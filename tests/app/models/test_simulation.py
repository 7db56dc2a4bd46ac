import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from app_helpers import small_bundle
from bundle_helpers import label_names
from simulate_active_learning import main

from monailabel_app.models import simulation
from rep3d.data.cases import case_name
from rep3d.data.lists import load_datalist
from rep3d.datasets.phantom import write_decathlon

pytestmark = pytest.mark.slow

STRATEGIES = ["random", "entropy", "disagreement", "diverse"]
NUMBERS = [2, 3, 5]


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulation")
    bundle = small_bundle(folder, "msd_hippocampus", weights=False)
    labels = dict(enumerate(label_names(bundle)[1:], 1))
    write_decathlon(folder / "data", labels=labels, count=14, shape=(28, 26, 24))  # one window each
    return {
        "dataset_dir": str(folder / "data"),
        "output_dir": str(folder / "output"),
        "bundle": str(bundle),
        "numbers": NUMBERS,
        "steps": 10,
        "candidates": 3,
    }


@pytest.fixture(scope="module")
def output(settings):
    """Of a finished experiment: one seed with all strategies, and one with random alone."""
    main(**settings, seeds=0)
    main(**settings, seeds=[1], strategies="random")
    return Path(settings["output_dir"])


def read_cells(output, seed=0):
    cells = [json.loads(path.read_text()) for path in (output / f"seed{seed}").glob("*.json")]
    return {(cell["strategy"], cell["number"]): cell for cell in cells}


def test_scores_of_an_evaluation_that_failed_do_not_count(tmp_path):
    """Where a case fails, those of the others are there before the error."""
    runs = []

    def run(run_id, configs, overrides):
        runs.append(run_id)
        if run_id == "training":
            (Path(overrides["ckpt_dir"]) / "model.pt").touch()
            return
        (Path(overrides["output_dir"]) / "scores.csv").write_text("of a few")
        if runs.count("evaluating") == 1:
            raise RuntimeError("one case failed")

    one = SimpleNamespace(output=tmp_path, pool={"a": {}}, plan=SimpleNamespace(steps=10), _run=run)
    with pytest.raises(RuntimeError, match="one case failed"):
        simulation.Simulation.train(one, 0, ["a"])
    folder = simulation.Simulation.train(one, 0, ["a"])
    assert runs == ["training", "evaluating", "evaluating"] and (folder / "scores.csv").is_file()


def test_every_strategy_starts_from_the_same_cases_and_picks_unlabelled_ones(output, settings):
    pool = {case_name(item["image"]) for item in load_datalist(settings["dataset_dir"], "training")}
    cells = read_cells(output)
    assert set(cells) == {(strategy, number) for strategy in STRATEGIES for number in NUMBERS}
    assert len({cells[strategy, 2]["trained"] for strategy in STRATEGIES}) == 1
    for strategy in STRATEGIES:
        few, more, most = (cells[strategy, number]["cases"] for number in NUMBERS)
        assert more[:2] == few and most[:3] == more
        assert [len(set(cases)) for cases in (few, more, most)] == NUMBERS and set(most) <= pool
    assert cells["random", 2]["cases"] != read_cells(output, 1)["random", 2]["cases"]


def test_strategies_follow_their_scores(output):
    cells = read_cells(output)
    folder = output / "seed0" / cells["entropy", 2]["trained"]
    scores = json.loads((folder / "uncertainty.json").read_text())
    labelled = set(cells["entropy", 2]["cases"])
    assert cells["entropy", 3]["cases"][2] == max(scores.keys() - labelled, key=lambda case: scores[case]["entropy"])
    # One version has nothing to disagree with: the app picks any case, here the one that random picks.
    assert cells["disagreement", 3]["cases"] == cells["random", 3]["cases"]


def test_table_and_plot(output):
    rows = list(csv.DictReader((output / "cells.csv").open()))
    assert len(rows) == (len(STRATEGIES) + 1) * len(NUMBERS)
    table = (output / "table.md").read_text()
    one, other, entropy = (
        read_cells(output, seed)[strategy, 5]["dice"]
        for seed, strategy in ((0, "random"), (1, "random"), (0, "entropy"))
    )
    assert f"| 5 | random | 2 | {(one + other) / 2:.4f} (" in table
    assert f"| 5 | entropy | 1 | {entropy:.4f} | {entropy - one:+.4f} |" in table
    assert (output / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_goes_on_where_it_was_interrupted(settings, output, monkeypatch):
    runs = []
    run_here = simulation.run_here
    monkeypatch.setattr(simulation, "run_here", lambda run: (runs.append(run.run_id), run_here(run)))
    main(**settings, seeds=[0])
    assert runs == []
    cell = output / "seed1/random_5.json"
    before = json.loads(cell.read_text())
    cell.unlink()
    cell.with_name(".1.2.part.random_5.json").write_text("{")  # as a kill leaves it
    (output / "seed1" / before["trained"] / "scores.csv").unlink()
    main(**settings, seeds=[1], strategies=["random"])
    assert runs == ["evaluating"] and json.loads(cell.read_text()) == before


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"strategies": "entropie"}, "strategies is .'entropie',., expected some of random, entropy"),
        ({"numbers": [4, 2]}, "ascending"),
        ({"numbers": [0, 2]}, "whole numbers from 1"),
        ({"numbers": [2, 99], "candidates": 200}, "ends with 99, but the training part has 10 cases"),
        ({"steps": 15}, "steps is 15, expected a multiple of 10"),
        ({"candidates": 1}, "candidates is 1, expected at least the 2 case"),
        ({"steps": 20}, "give another folder"),
        ({"bundle": "nowhere"}, "nowhere.*no metadata of a segmentation bundle"),
        ({"dataset_dir": "nowhere"}, "'nowhere' does not exist"),
    ],
)
def test_bad_arguments(settings, output, told, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        main(**{**settings, **told})


@pytest.mark.parametrize("config", ["train", "evaluate", "inference"])
def test_cells_of_another_config_are_not_reused(settings, output, tmp_path, config):
    bundle = Path(shutil.copytree(settings["bundle"], tmp_path / Path(settings["bundle"]).name))
    path = bundle / f"configs/{config}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "learning_rate": 0.5}))
    with pytest.raises(ValueError, match="give another folder"):
        main(**{**settings, "bundle": str(bundle)})


def test_cells_of_another_data_set_are_not_reused(settings, output, tmp_path):
    other = shutil.copytree(settings["dataset_dir"], tmp_path / "data")
    with pytest.raises(ValueError, match="give another folder"):
        main(**{**settings, "dataset_dir": str(other)})
