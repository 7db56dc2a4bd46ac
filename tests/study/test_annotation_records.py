"""Clicks of simulated annotations: what counts as one, and what the table says."""

import csv

import pytest

from rep3d.study.annotation import Cell, Scan, read_cell, read_scan, shares, summarize, write_cell, write_scan

WAYS = ["clicks alone", "random", "entropy"]


@pytest.mark.parametrize(
    ("scan", "clicks", "failed"),
    [
        (Scan("a", None, False, [0.0, 0.5, 0.85]), 2, False),
        (Scan("a", 0.9, False, [0.9]), 0, False),
        (Scan("a", 0.2, True, [0.0, 0.5, 0.9]), 3, False),  # to discard a proposal is an action, too
        (Scan("a", 0.7, False, [0.7, 0.8499]), 20, True),
    ],
)
def test_clicks(scan, clicks, failed, tmp_path):
    assert (scan.clicks, scan.failed) == (clicks, failed)
    assert read_scan(tmp_path / "scan.json") is None
    write_scan(tmp_path / "scan.json", scan)
    assert read_scan(tmp_path / "scan.json") == scan


def cell(seed, way, clicks):
    """With so many clicks on each scan; 20 fail."""
    scans = [Scan(f"scan {i}", None, False, [0.0] * n + [0.1 if n == 20 else 0.9]) for i, n in enumerate(clicks)]
    return Cell(seed, way, scans, [] if way == WAYS[0] else [60.0])


@pytest.fixture
def cells():
    return [
        cell(0, "clicks alone", [10, 10, 20]),
        cell(1, "clicks alone", [4, 4, 4]),
        cell(0, "random", [10, 5, 5]),
        cell(1, "random", [4, 1, 1]),
        cell(1, "entropy", [4, 1, 0]),
    ]


def test_shares_are_paired_by_seed(cells):
    of_way = {way: {one.seed: one for one in cells if one.way == way} for way in WAYS}
    assert shares(of_way["random"], of_way["clicks alone"]) == [0.5, 0.5]
    assert shares(of_way["entropy"], of_way["clicks alone"]) == [5 / 12]


def test_summary(cells, tmp_path):
    for one in cells:
        write_cell(tmp_path / f"{one.seed}{one.way}.json", one)
    read = [read_cell(path) for path in tmp_path.glob("*.json")]
    table = summarize(read, WAYS, (1,), tmp_path)
    assert (
        "| way | seeds | clicks in all | share of clicks alone | failed scans | scans 1 to 1 | scans 2 to 3 |" in table
    )
    assert "| random | 2 | 13 (-76 to 102) | 0.50 (0.50 to 0.50) | 0.0 | 7.0 | 3.0 | 1.0 |" in table
    assert "| entropy | 1 | 5 | 0.42 | 0.0 | 4.0 | 0.5 | 1.0 |" in table
    assert "| clicks alone | 2 | 26 (-152 to 204) |  | 0.5 | 7.0 | 9.5 |  |" in table
    rows = list(csv.DictReader((tmp_path / "scans.csv").open()))
    assert len(rows) == 15 and rows[2] == {
        "seed": "0", "way": "clicks alone", "number": "3", "case": "scan 2", "proposal": "", "discarded": "False",
        "clicks": "20", "failed": "True", "dice": "0.1000",
    }  # fmt: skip
    assert (tmp_path / "clicks.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_to_summarize(tmp_path):
    with pytest.raises(ValueError, match="no set of scans is finished yet"):
        summarize([], WAYS, (1,), tmp_path)
