import csv

import benchmark_operator
import pytest


def milliseconds(cell):
    return float(cell.rstrip("*"))


def test_one_row_per_pass():
    case = benchmark_operator.Case(2, 8, 8, 3)
    forward, both = benchmark_operator.speed_rows(case, "cpu", repeats=1)
    assert [row["pass"] for row in (forward, both)] == list(benchmark_operator.PASSES)
    for row, quantities in ((forward, ["y"]), (both, ["grad x", "grad weight"])):
        assert (row["size"], row["k"]) == ("2x8x8^3", "3")
        assert all(milliseconds(row[f"{way} ms"]) > 0 for way in ("direct", "conv3d channels_last_3d", "fft", "auto"))
        assert float(row["direct/auto"]) > 0 and float(row["auto/best"]) > 0
        measured = dict(part.rsplit(" ", 1) for part in row["error of fft"].split(", "))
        assert list(measured) == quantities
        assert all(float(error) < 1e-5 for error in measured.values())
    assert forward["mixed ms"] == "-" and milliseconds(both["mixed ms"]) > 0  # differs from direct in training only


def test_estimates_are_marked(monkeypatch):
    monkeypatch.setattr(benchmark_operator, "PATIENCE", 0.0)
    forward, both = benchmark_operator.speed_rows(benchmark_operator.Case(1, 8, 6, 3), "cpu", repeats=1)
    assert not forward["direct ms"].endswith("*")
    assert both["direct ms"].endswith("*") and not both["fft ms"].endswith("*")


@pytest.mark.slow
def test_command_line_leaves_the_tables(capsys, tmp_path):
    benchmark_operator.main(repeats=1, quick=True, output_dir=str(tmp_path))
    printed = capsys.readouterr().out
    assert "thread(s), torch " in printed.splitlines()[0]
    rows = list(csv.DictReader((tmp_path / "speed.csv").open()))
    assert [row["size"] for row in rows] == ["1x8x8^3"] * 2 + ["2x4x12^3"] * 2
    assert rows[0]["direct ms"] in printed
    (memory,) = csv.DictReader((tmp_path / "memory.csv").open())
    assert float(memory["fft extra MB"]) >= 0
    assert (tmp_path / "kernel_size.png").read_bytes()[:4] == b"\x89PNG"
