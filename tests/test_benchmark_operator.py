import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts/benchmark_operator.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


def cells_of(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]


def test_table_has_two_rows_per_case(script):
    header, _, *rows = cells_of(script["benchmark"](script["QUICK_CASES"], repeats=1))
    expected = [
        [str(channels), f"{edge}^3", str(k), name]
        for channels, edge, k in script["QUICK_CASES"]
        for name in ("forward", "forward + backward")
    ]
    assert [row[:4] for row in rows] == expected
    for row in rows:
        figures = dict(zip(header, row, strict=True))
        assert all(float(figures[f"{backend} ms"]) > 0 for backend in ("direct", "fft", "auto"))
        assert float(figures["direct/fft"]) > 0 and float(figures["direct/auto"]) > 0
        quantities = ["y"] if figures["pass"] == "forward" else ["grad x", "grad weight"]
        measured = dict(part.rsplit(" ", 1) for part in figures["error of fft"].split(", "))
        assert list(measured) == quantities
        assert all(float(error) < 1e-5 for error in measured.values())


def test_estimates_are_marked(script, monkeypatch):
    monkeypatch.setitem(script["benchmark"].__globals__, "PATIENCE", float("-inf"))
    table = script["benchmark"](((8, 6, 3),), repeats=1)
    assert [row[4].endswith("*") for row in cells_of(table)[2:]] == [False, True]
    assert "4 channels" in table.splitlines()[-1]


def test_command_line_prints_the_device(script, capsys):
    script["main"](repeats=1, quick=True)
    printed = capsys.readouterr().out
    assert "thread(s), torch " in printed.splitlines()[0]
    assert "| direct ms |" in printed
