import math

import numpy as np
import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.engines import SupervisedEvaluator
from score_helpers import score_label_map

from rep3d.evaluation.scores import (
    COLUMNS,
    CaseScores,
    _percentile,
    case_means,
    labels_of,
    means,
    read_scores,
    summary,
    table,
    write_scores,
)

SPACING = (0.8, 1.0, 2.5)


def balls(shift=0):
    """Two labelled balls of one volume."""
    grid = np.indices((40, 36, 24)).transpose(1, 2, 3, 0) * SPACING
    label_map = np.zeros(grid.shape[:3], np.uint8)
    for label, centre in ((1, (12, 18, 30)), (2, (26, 16 + shift, 30))):
        label_map[np.linalg.norm(grid - centre, axis=-1) < 7] = label
    return label_map


def test_scores_follow_their_definitions():
    """Those of surfaces are in test_surfaces.py."""
    truth, prediction = balls(), balls(shift=3)
    score = score_label_map(prediction, truth, [1, 2], SPACING)
    assert score[1] == {**score[1], "dice": 1.0, "hd95_mm": 0.0, "surface_dice": 1.0, "volume_error_ml": 0.0}
    a, b = prediction == 2, truth == 2
    assert score[2]["dice"] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
    assert score[2]["volume_error_ml"] == pytest.approx((a.sum() - b.sum()) * math.prod(SPACING) / 1000)
    assert score[2]["truth_ml"] == pytest.approx(b.sum() * math.prod(SPACING) / 1000)


def test_volume_error_has_a_sign():
    truth, prediction = np.zeros((2, 9, 9, 9), np.uint8)
    truth[2:5, 2:5, 2:5] = 1
    prediction[2:5, 2:5, 2:4] = 1
    assert score_label_map(prediction, truth, [1], (10, 10, 5))[1]["volume_error_ml"] == pytest.approx(-4.5)


def test_missing_labels():
    truth, prediction = np.zeros((2, 6, 8, 10), np.uint8)
    truth[1, 1, 1], prediction[2, 2, 2] = 1, 2
    score = score_label_map(prediction, truth, [1, 2, 3], SPACING)
    diagonal = math.hypot(6 * 0.8, 8 * 1.0, 10 * 2.5)
    for label in (1, 2):
        assert (score[label]["dice"], score[label]["surface_dice"]) == (0, 0)
        assert score[label]["hd95_mm"] == pytest.approx(diagonal)
    assert [score[label]["volume_error_ml"] for label in (1, 2)] == pytest.approx([-0.002, 0.002])
    assert all(math.isnan(score[3][column]) for column in ("dice", "hd95_mm", "surface_dice", "volume_error_ml"))
    assert [score[label]["truth_ml"] for label in (1, 2, 3)] == pytest.approx([0.002, 0, 0])


@pytest.mark.parametrize(
    "distances, areas, expected",
    [
        ([4, 1, 2], [4, 50, 46], 2),
        ([4, 1, 2], [5.2, 50, 44.8], 4),
        ([3, 5], [95, 5], 3),
        ([7], [0.1], 7),
    ],
)
def test_percentile_by_area(distances, areas, expected):
    assert _percentile(np.array(distances, float), np.array(areas, float)) == expected


def test_a_label_at_the_border_of_the_image():
    truth = np.zeros((5, 5, 5), np.uint8)
    truth[:2] = 1
    assert score_label_map(truth, truth, [1], (1, 1, 1))[1]["hd95_mm"] == 0


def test_different_grids():
    with pytest.raises(ValueError, match=r"prediction has the shape \(2, 2, 2\), truth \(2, 2, 3\)"):
        score_label_map(np.zeros((2, 2, 2)), np.zeros((2, 2, 3)), [1], SPACING)


def rows(*dices):
    other = {"hd95_mm": 1.0, "surface_dice": 0.5, "volume_error_ml": -2.0, "truth_ml": 3.0}
    return [
        {"case": case, "label": label, "dice": dice, **other}
        for case, label, dice in zip("aabb", ["left", "right"] * 2, dices, strict=True)
    ]


def test_means_leave_out_what_is_missing(tmp_path):
    write_scores(rows(0.5, math.nan, 0.7, 0.9), tmp_path)
    scores = read_scores(tmp_path)
    assert list(scores) == ["a", "b"] and list(scores["a"]) == ["left", "right"]
    assert means(table(scores, "dice")) == pytest.approx([0.6, 0.9, 0.75])
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert "| Dice | 0.600 | 0.900 | 0.750 |" in text and "| Volume error, absolute (ml) | 2.00 |" in text
    assert "| Dice | nan | nan | nan |" in summary({"a": {"x": scores["a"]["right"], "y": scores["a"]["right"]}})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.csv", "summary.md"]


def test_means_of_cases():
    dices = {"a": (0.5, math.nan), "b": (0.7, 0.9), "c": (math.nan, math.nan)}
    scores = {
        case: {label: {"dice": dice} for label, dice in zip("xy", pair, strict=True)} for case, pair in dices.items()
    }
    np.testing.assert_allclose(case_means(scores, "dice"), [0.5, 0.8, math.nan])


def test_labels_are_those_of_every_case():
    assert labels_of({}) == [] and labels_of({"a": {"x": {}, "y": {}}}) == ["x", "y"]
    with pytest.raises(ValueError, match=r"case 'b' has the labels \['y', 'x'\], expected \['x', 'y'\]"):
        labels_of({"a": {"x": {}, "y": {}}, "b": {"y": {}, "x": {}}})


def test_not_an_evaluation(tmp_path):
    with pytest.raises(FileNotFoundError, match="scores.csv: no such file, expected the output folder"):
        read_scores(tmp_path)
    (tmp_path / "scores.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"scores.csv: columns \['a', 'b'\], expected case, label, dice, hd95_mm, "):
        read_scores(tmp_path)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("", "scores.csv: holds no scores"),
        ("a,left,0.5,1,0.5,0,1\na,right,0.5,1\n", "line 3 has other values than the columns"),
        ("a\n", "line 2 has other values than the columns"),
        ("a,left,0.5,1,0.5,0,1,7\n", "line 2 has other values than the columns"),
        ("a,left,0.5,1,0.5,0,1\na,left,0.6,1,0.5,0,1\n", "line 3 has label 'left' of case 'a' once more"),
        ("a,left,0.5,x,0.5,0,1\n", r"line 2 has other values than numbers \(could not convert string to float: 'x'"),
        ("a\0", "scores.csv: line"),
    ],
)
def test_damaged_scores_are_named(rows, said, tmp_path):
    (tmp_path / "scores.csv").write_text(f"case,label,{','.join(COLUMNS)}\n{rows}", encoding="utf-8")
    with pytest.raises(ValueError, match=said):
        read_scores(tmp_path)


def test_handler_of_an_evaluator(tmp_path, caplog):
    caplog.set_level("INFO")
    affine = torch.diag(torch.tensor([*SPACING, 1.0]))
    label = MetaTensor(torch.from_numpy(balls())[None], affine=affine)
    image = MetaTensor(torch.from_numpy(balls(shift=3))[None].float(), meta={"filename_or_obj": "x/case 1.nii.gz"})
    collected = CaseScores(
        tmp_path / "eval", ["background", "left", "right"], trained_on=["case 1"], chosen_on=["case 1"]
    )
    evaluator = SupervisedEvaluator(
        "cpu",
        val_data_loader=DataLoader([{"image": image, "label": label}], batch_size=1),
        network=torch.nn.Identity(),
        val_handlers=[collected],
    )
    evaluator.run()
    assert "right angles" not in caplog.text
    assert collected.write(["x/case 2.nii.gz: is broken"]) == ["x/case 2.nii.gz: is broken"]
    scores = read_scores(tmp_path / "eval")
    assert list(scores) == ["case 1"] and list(scores["case 1"]) == ["left", "right"]
    expected = score_label_map(balls(shift=3), balls(), [1, 2], SPACING)
    assert scores["case 1"]["right"]["hd95_mm"] == pytest.approx(expected[2]["hd95_mm"], rel=1e-4)
    summary_text = (tmp_path / "eval/summary.md").read_text(encoding="utf-8")
    assert summary_text.startswith("Means over 1 case(s)")
    assert "**The weights were trained on 1 of these cases**" in summary_text
    assert "**The refinement was chosen on 1 of these cases**" in summary_text
    dice = (1 + scores["case 1"]["right"]["dice"]) / 2
    assert f"mean Dice {dice:.3f} over 1 case(s): {tmp_path / 'eval/summary.md'}" in caplog.text
    assert summary_text.endswith("1 more case(s) could not be scored:\n\n- x/case 2.nii.gz: is broken\n")


def test_no_scores_no_files(tmp_path):
    """What an earlier evaluation left stays as it is."""
    assert CaseScores(tmp_path / "eval", ["background", "left"]).write(["a: broken"]) == ["a: broken"]
    assert not (tmp_path / "eval").exists()
