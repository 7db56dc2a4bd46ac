import math
import runpy
from pathlib import Path

import fire
import numpy as np
import pytest
from scipy.stats import wilcoxon

from rep3d.evaluation.comparison import bootstrap_interval, comparison_table
from rep3d.evaluation.report import dice_table
from rep3d.evaluation.scores import read_scores, summary, table, write_scores

SCRIPT = Path(__file__).parents[2] / "scripts/compare.py"
REST = {"hd95_mm": 1.0, "surface_dice": 0.5, "volume_error_ml": 0.0, "truth_ml": 1.0}


def evaluation(dices, labels=("left", "right"), first=0):
    """By case and label."""
    return {
        f"case {i}": {label: {"dice": float(d), **REST} for label, d in zip(labels, row, strict=True)}
        for i, row in enumerate(dices, first)
    }


@pytest.fixture
def dices():
    return np.random.default_rng(0).uniform(0.5, 0.9, (12, 2))


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_table(dices):
    better = dices + np.linspace(0.01, 0.02, 24).reshape(12, 2)
    *_, first, second = comparison_table({"a": evaluation(dices), "b": evaluation(better)}).splitlines()
    assert cells(first)[:4] == ["a", *(f"{m:.3f}" for m in (*dices.mean(axis=0), dices.mean()))]
    assert cells(first)[-1] == "-"
    assert float(cells(second)[-1]) == pytest.approx(wilcoxon(better.mean(1), dices.mean(1)).pvalue, rel=0.1)


def test_only_common_cases_count(dices):
    text = comparison_table({"a": evaluation(dices), "b": evaluation(dices[4:], first=4)})
    assert text.startswith("dice of 8 common case(s)")
    first, second = (cells(line)[1:-1] for line in text.splitlines()[-2:])
    assert first == second and text.splitlines()[-1].endswith("| - |")  # nothing differs: no test


def test_missing_labels(dices):
    dices[:, 1] = math.nan
    line = comparison_table({"a": evaluation(dices), "b": evaluation(dices)}).splitlines()[-1]
    assert cells(line)[2] == "-" and float(cells(line)[3]) == pytest.approx(dices[:, 0].mean(), abs=1e-3)


def test_evaluations_of_other_sets(dices):
    with pytest.raises(ValueError, match="no case in common"):
        comparison_table({"a": evaluation(dices), "b": evaluation(dices, first=99)})
    with pytest.raises(ValueError, match=r"b has the labels \['x', 'y'\], expected \['left', 'right'\]"):
        comparison_table({"a": evaluation(dices), "b": evaluation(dices, labels=("x", "y"))})


def test_interval_holds_the_mean():
    values = np.random.default_rng(1).normal(0.8, 0.1, 100)
    low, high = bootstrap_interval(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 10, rel=0.1)


def test_script(dices, tmp_path, capsys):
    folders = []
    for name, values in (("a", dices), ("b", dices**2)):
        rows = [
            {"case": case, "label": label, **score}
            for case, labels in evaluation(values).items()
            for label, score in labels.items()
        ]
        write_scores(rows, tmp_path / name)
        folders.append(str(tmp_path / name))
    main = runpy.run_path(str(SCRIPT))["main"]
    main(*folders, output_dir=str(tmp_path / "out"))
    assert (tmp_path / "out/comparison.md").read_text(encoding="utf-8") == capsys.readouterr().out
    assert (tmp_path / "out/comparison.png").read_bytes()[:4] == b"\x89PNG"
    again = [f"{folders[0]}/../a", folders[0]]
    for wrong, message in ((folders[:1], "two or more"), (folders[:1] * 2, "given twice"), (again, "given twice")):
        with pytest.raises(SystemExit, match=message):
            main(*wrong)
    write_scores([{"case": "another", "label": "left", "dice": 1.0, **REST}], tmp_path / "c")
    with pytest.raises(ValueError, match="have no case in common; their first ones are case 0, another"):
        main(folders[0], str(tmp_path / "c"), output_dir=str(tmp_path / "nothing"))
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(SystemExit, match="score is 'iou', expected one of dice"):
        main(*folders, score="iou")


def test_what_is_left_out_is_said(dices):
    text = comparison_table({"a": evaluation(dices), "b": evaluation(dices[4:], first=4)})
    assert text.startswith("dice of 8 common case(s); without 4 of a\n")


def test_folders_that_look_like_numbers(dices, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("2024_01_05", "1e3"):
        cases = evaluation(dices)
        rows = [{"case": case, "label": label, **cases[case][label]} for case in cases for label in cases[case]]
        write_scores(rows, tmp_path / folder)
    main = runpy.run_path(str(SCRIPT))["main"]
    fire.Fire(main, command=["2024_01_05", "1e3", "--output_dir", "0x10"])
    assert "2024_01_05" in (tmp_path / "0x10/comparison.md").read_text(encoding="utf-8")


def test_cases_of_one_name_with_other_truths(dices):
    other = evaluation(dices)
    case, label = next(iter(other)), next(iter(other[next(iter(other))]))
    other[case][label]["truth_ml"] += 1
    with pytest.raises(
        ValueError, match=f"b has another truth of case '{case}': {label} of .* ml, expected .* as in a"
    ):
        comparison_table({"a": evaluation(dices), "b": other})


def test_the_mean_is_that_of_the_labels(dices):
    """As in the summary of each evaluation; a label that few cases have counts as much as the others."""
    dices[2:, 1] = math.nan
    scores = evaluation(dices)
    cell = cells(comparison_table({"a": scores, "b": scores}).splitlines()[-1])[3]
    summary_row = next(line for line in summary(scores).splitlines() if line.startswith("| Dice"))
    assert cell == cells(summary_row)[-1] == f"{(dices[:, 0].mean() + dices[:2, 1].mean()) / 2:.3f}"
    assert cell == cells(dice_table(scores).splitlines()[-1])[1]
    assert cell != f"{np.nanmean(dices, axis=1).mean():.3f}"


def test_volumes_that_are_too_large_do_not_make_up_for_those_that_are_too_small(dices):
    """As in the summary of each evaluation."""
    scores = evaluation(dices)
    for number, labels in enumerate(scores.values()):
        labels["left"]["volume_error_ml"] = 9.0 if number % 2 else -9.0
    *_, first, second = comparison_table({"a": evaluation(dices), "b": scores}, "volume_error_ml").splitlines()
    assert cells(first)[1:4] == ["0.000"] * 3 and cells(second)[1:4] == ["9.000", "0.000", "4.500"]
    assert "| Volume error, absolute (ml) | 9.00 | 0.00 | 4.50 |" in summary(scores)
    assert float(cells(second)[-1]) < 0.001


def test_interval_of_the_mean_of_labels():
    values = np.random.default_rng(2).normal((0.5, 0.9), 0.1, (100, 2))
    values[:80, 1] = np.nan
    low, high = bootstrap_interval(values)
    assert low < np.nanmean(values, axis=0).mean() < high
    spread = np.hypot(values[:, 0].std() / 10, np.nanstd(values[:, 1]) / 20**0.5) / 2
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.15)
    alone = bootstrap_interval(values[:, 0])
    assert alone == bootstrap_interval(values[:, :1]) and alone[0] < values[:, 0].mean() < alone[1]


def test_interval_where_a_draw_may_miss_a_label():
    low, high = bootstrap_interval(np.array([[0.5, np.nan], [0.5, 0.9], [np.nan, np.nan]]))
    assert (low, high) == pytest.approx((0.5, 0.7))


@pytest.mark.parametrize("where", ["b", "a"])
def test_labels_in_another_order_in_one_case(where, dices):
    """Not only in the first one: columns are labels."""
    evaluations = {"a": evaluation(dices), "b": evaluation(dices)}
    case = evaluations[where]["case 7"]
    evaluations[where]["case 7"] = {label: case[label] for label in reversed(case)}
    with pytest.raises(ValueError, match=rf"{where} has the labels \['right', 'left'\], expected \['left', 'right'\]"):
        comparison_table(evaluations)
    with pytest.raises(ValueError, match=r"case 'case 7' has the labels \['right', 'left'\], expected"):
        table(evaluations[where], "dice")


def test_a_file_with_other_labels_in_one_case(dices, tmp_path):
    scores = evaluation(dices[:2])
    rows = [{"case": case, "label": label, **scores[case][label]} for case in scores for label in scores[case]]
    write_scores(rows, tmp_path)
    path = tmp_path / "scores.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match=r"scores.csv: case 'case 1' has the labels \['left'\], expected"):
        read_scores(tmp_path)
