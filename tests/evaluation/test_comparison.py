import math
import runpy
from pathlib import Path

import fire
import numpy as np
import pytest
from scipy.stats import wilcoxon

from rep3d.evaluation.comparison import bootstrap_interval, comparison_table
from rep3d.evaluation.scores import write_scores

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
    for wrong, message in ((folders[:1], "two or more"), (folders[:1] * 2, "given twice")):
        with pytest.raises(SystemExit, match=message):
            main(*wrong)
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
