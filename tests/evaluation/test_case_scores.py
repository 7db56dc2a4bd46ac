"""What scores say of a whole evaluation: distances in millimetres, files, the names of cases, several processes."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ignite.engine import Engine
from monai.data import MetaTensor
from score_helpers import score_label_map

from rep3d.evaluation.scores import CaseScores, read_scores, score_regions, write_scores

SPACING = (0.8, 1.0, 2.5)


def rows(*dices):
    other = {"hd95_mm": 1.0, "surface_dice": 0.5, "volume_error_ml": -2.0, "truth_ml": 3.0}
    return [
        {"case": case, "label": label, "dice": dice, **other}
        for case, label, dice in zip("aabb", ["left", "right"] * 2, dices, strict=True)
    ]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_distances_are_in_millimetres(axis):
    """Of a plate from itself two voxels further on."""
    truth = np.zeros((24, 24, 24), np.uint8)
    np.moveaxis(truth, axis, 0)[8, 2:22, 2:22] = 1
    score = score_label_map(np.roll(truth, 2, axis), truth, [1], SPACING)[1]
    assert score["hd95_mm"] == pytest.approx(2 * SPACING[axis], rel=0.05)


@pytest.mark.parametrize("gap, near", [(1.9, True), (2.0, True), (2.1, False)])
def test_tolerance_of_the_surface_dice(gap, near):
    """2 mm, and these count; of a plate and the same further on."""
    truth = np.zeros((12, 10, 10), np.uint8)
    truth[4] = 1
    score = score_label_map(np.roll(truth, 2, 0), truth, [1], (gap / 2, 1, 1))[1]
    assert (score["surface_dice"] > 0.9) == near


@pytest.mark.parametrize("cosine, scored", [(0.005, True), (0.02, False)])
def test_axes_that_are_nearly_at_right_angles(cosine, scored):
    affine, truth = np.eye(4), np.zeros((5, 5, 5), np.uint8)
    affine[0, 1], affine[1, 1] = cosine, np.sqrt(1 - cosine**2)
    truth[2, 2, 2] = 1
    assert np.isfinite(score_regions(truth, truth, {"a": [1]}, affine)["a"]["hd95_mm"]) == scored


def test_the_distance_is_a_percentile():
    """A spike counts in the largest distance, and not in the one that 95 % of the surface lie within."""
    grid = np.indices((40, 36, 24)).transpose(1, 2, 3, 0) * SPACING
    truth = (np.linalg.norm(grid - (16, 18, 30), axis=-1) < 8).astype(np.uint8)
    prediction = np.roll(truth, 1, axis=1)
    prediction[20, 18:35, 12] = 1
    assert score_label_map(prediction, truth, [1], SPACING)[1]["hd95_mm"] < 3


def test_cases_stand_in_order(tmp_path):
    """Also those of several processes; their labels as they come."""
    write_scores(rows(0.5, 0.6, 0.7, 0.8)[2:] + rows(0.5, 0.6, 0.7, 0.8)[:2], tmp_path / "new/eval")
    lines = (tmp_path / "new/eval/scores.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[:3] for line in lines[1:]] == [
        ["a", "left", "0.5"],
        ["a", "right", "0.6"],
        ["b", "left", "0.7"],
        ["b", "right", "0.8"],
    ]


def test_missing_numbers_are_empty_cells(tmp_path):
    write_scores(rows(0.5, math.nan, 0.7, 0.8), tmp_path)
    assert (tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()[2] == "a,right,,1,0.5,-2,3"


def test_the_whole_summary(tmp_path):
    write_scores(
        rows(0.5, 0.6, 0.7, 0.8), tmp_path, trained_on=["a", "x"], chosen_on=["b"], failures=["c: broken", "d: gone"]
    )
    assert (tmp_path / "summary.md").read_text(encoding="utf-8").splitlines() == [
        "Means over 2 case(s)",
        "",
        "**The weights were trained on 2 of these cases**, so that the means say little about new ones: a, x",
        "",
        "**The refinement was chosen on 1 of these cases**, so that what it gains there says little about new ones: b",
        "",
        "| score | left | right | Mean |",
        "| --- | --- | --- | --- |",
        "| Dice | 0.600 | 0.700 | 0.650 |",
        "| 95 % Hausdorff distance (mm) | 1.00 | 1.00 | 1.00 |",
        "| Surface Dice at 2 mm | 0.500 | 0.500 | 0.500 |",
        "| Volume error, absolute (ml) | 2.00 | 2.00 | 2.00 |",
        "",
        "2 more case(s) could not be scored:",
        "",
        "- c: broken",
        "- d: gone",
    ]


def test_cases_are_named_by_the_list(tmp_path):
    """Whose images share a name."""
    items = [{"image": f"~/{patient}/ct.nii.gz"} for patient in ("p1", "p2")]
    collected = CaseScores(tmp_path, ["background", "left"], items)
    engine = Engine(lambda engine, batch: None)
    voxels = MetaTensor(torch.ones(1, 2, 2, 2), affine=torch.eye(4))
    path = str(Path("~/p2/ct.nii.gz").expanduser())
    image = MetaTensor(voxels.as_tensor(), meta={"filename_or_obj": path})
    engine.state.output = [{"pred": voxels, "label": voxels, "image": image}]
    collected._score(engine)
    assert [(row["case"], row["label"], row["dice"]) for row in collected.rows] == [("p2/ct", "left", 1)]


def test_volumes_of_a_tilted_grid(tmp_path, caplog):
    """A voxel with a tilted gantry is smaller than the product of its edges; surfaces are not scored there."""
    affine = torch.eye(4)
    affine[1, 2], affine[2, 2] = 0.6, 0.8  # edges of 1 mm, volume 0.8
    collected = CaseScores(tmp_path, ["background", "left"])
    engine = Engine(lambda engine, batch: None)
    truth = MetaTensor(torch.ones(1, 10, 10, 10), affine=affine)
    image = MetaTensor(truth.as_tensor(), meta={"filename_or_obj": "tilted.nii.gz"})
    half = torch.zeros(1, 10, 10, 10)
    half[:, :5] = 1
    for predicted in (torch.zeros_like(half), half):
        engine.state.output = [{"pred": MetaTensor(predicted), "label": truth, "image": image}]
        collected._score(engine)
    for row, error, dice in zip(collected.rows, (-0.8, -0.4), (0, 2 / 3), strict=True):
        assert [row["truth_ml"], row["volume_error_ml"], row["dice"]] == pytest.approx([0.8, error, dice])
        assert np.isnan([row["hd95_mm"], row["surface_dice"]]).all()
    collected.rows.pop()
    collected.write()
    assert "| Surface Dice at 2 mm | nan | nan |" in (tmp_path / "summary.md").read_text()
    assert "tilted.nii.gz: its axes are not at right angles" in caplog.text


def test_regions_and_voxels_that_nobody_judged(tmp_path, caplog):
    truth = torch.tensor([0, 1, 2, 3, 3, 0]).view(1, 1, 1, 6)
    label = MetaTensor(truth, affine=torch.eye(4))
    image = MetaTensor(truth.float(), meta={"filename_or_obj": "a.nii"})
    collected = CaseScores(tmp_path, ["background", "a", "b"], regions={"whole": [1, 2]}, ignored_label=3)
    engine = Engine(lambda engine, batch: None)
    engine.state.output = [{"pred": torch.tensor([0, 2, 0, 1, 2, 0]).view(1, 1, 1, 6), "label": label, "image": image}]
    collected._score(engine)
    assert [(row["label"], row["dice"]) for row in collected.rows] == [("whole", pytest.approx(2 / 3))]
    assert not caplog.text


@pytest.mark.parametrize("rank", [0, 1])
def test_scores_of_two_processes(rank, tmp_path, monkeypatch):
    """Every one knows the failures of all; the first writes."""
    parts = [(rows(0.5, 0.6, 0.7, 0.8)[:2], ["c: broken"]), (rows(0.5, 0.6, 0.7, 0.8)[2:], ["d: gone"])]

    def gather(gathered, part):
        assert part == parts[rank]
        gathered[:] = parts

    for name, value in {"is_initialized": True, "get_world_size": 2, "get_rank": rank}.items():
        monkeypatch.setattr(dist, name, lambda value=value: value)
    monkeypatch.setattr(dist, "all_gather_object", gather)
    collected = CaseScores(tmp_path / "eval", ["background", "left", "right"])
    collected.rows = parts[rank][0]
    assert collected.write(parts[rank][1]) == ["c: broken", "d: gone"]
    assert (tmp_path / "eval").exists() == (rank == 0)
    assert rank or list(read_scores(tmp_path / "eval")) == ["a", "b"]
