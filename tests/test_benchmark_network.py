import csv

import benchmark_network
import pytest

pytestmark = pytest.mark.slow


def test_tables(capsys, tmp_path):
    tables = ("inference", "allocator")
    benchmark_network.main(
        repeats=1, sizes=(32,), networks=("tiny",), dtypes=("float32",), output_dir=str(tmp_path), tables=tables
    )
    printed = capsys.readouterr().out
    assert "thread(s), torch " in printed.splitlines()[0]
    rows = {name: list(csv.DictReader((tmp_path / f"{name}.csv").open())) for name in tables}
    first, second = rows["inference"]
    assert first["ratio to the first"] == "1.00"
    assert float(second["ratio to the first"]) == pytest.approx(float(second["s"]) / float(first["s"]), rel=0.1)
    assert float(first["extra memory GB"]) >= 0
    assert f"| {second['s']} |" in printed
    assert [row["keep_freed_memory"] for row in rows["allocator"]] == ["False", "True"]
    assert all(float(row["peak memory of the process GB"]) > 0 for row in rows["allocator"])


def timings_of_a_small_network(table):
    benchmark_network.NETWORKS["tiny"] = {"feature_size": (4, 4, 4, 4), "hidden_size": 8}
    setting = {"network": "tiny", "size": 32, "batch": 1, "dtype": "float32", "device": "cpu"}
    return benchmark_network.timings(table, setting, 1)


@pytest.mark.parametrize("table", ["training", "changes"])
def test_every_variant_trains(table):
    timings = benchmark_network.in_own_process(timings_of_a_small_network, table)
    assert timings.keys() == benchmark_network.VARIANTS[table][0].keys() and min(timings.values()) > 0


def test_stitching_of_a_small_image(monkeypatch):
    monkeypatch.setattr(benchmark_network, "WHOLE_BODY", (100, 20, 30))
    row = benchmark_network.stitching_row()
    assert (row["image"], row["classes"]) == ("100x20x30", "30")
    assert float(row["peak memory of the process GB"]) > 0
