import csv

import pytest

from rep3d.study.learning_curves import Cell, differences, mean_and_half, read_cell, summarize, write_cell

STRATEGIES = ["random", "entropy"]


def cell(seed, strategy, number, dice):
    return Cell(seed, strategy, number, ["b", "a"], dice, [dice, dice], "2_0123")


def test_interval_over_seeds():
    mean, half = mean_and_half([1.0, 2.0, 3.0])
    assert mean == 2 and half == pytest.approx(4.3027 / 3**0.5, rel=1e-4)


def test_differences_are_paired_by_seed():
    cells = [cell(0, "random", 4, 0.5), cell(0, "entropy", 4, 0.75), cell(1, "entropy", 4, 0.9)]
    assert differences(cells, "entropy", "random", [4]) == [0.25]


def test_cells_on_disk(tmp_path):
    path = tmp_path / "entropy_4.json"
    assert read_cell(path) is None
    write_cell(path, cell(1, "entropy", 4, 0.5))
    assert read_cell(path) == cell(1, "entropy", 4, 0.5)


def test_summary(tmp_path):
    cells = [cell(seed, name, number, 0.5 + number / 100 + seed / 10) for seed in (0, 1) for name in STRATEGIES
             for number in (2, 4)]  # fmt: skip
    table = summarize(cells, STRATEGIES, tmp_path)
    assert "| 2 | random | 2 | 0.5700 (-0.0653 to 1.2053) |  |" in table
    assert "| mean of all but the first | entropy | 2 |" in table and "+0.0000 (+0.0000 to +0.0000)" in table
    assert (tmp_path / "table.md").read_text() == table + "\n"
    rows = list(csv.DictReader((tmp_path / "cells.csv").open()))
    assert len(rows) == 8 and rows[0] == {
        "seed": "0", "strategy": "entropy", "number": "2", "dice": "0.52000", "cases": "b a",
    }  # fmt: skip
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
