"""An image that cannot be had does not keep the next sample from others."""

import pytest
from app_helpers import small_bundle
from dicom_helpers import write_series

from monailabel_app.bundles import read_bundle
from monailabel_app.errors import RequestError
from monailabel_app.models.active_learning import make_strategies, pick_sample
from monailabel_app.models.inference import BundleInference
from monailabel_app.studies.folder import StudiesFolder


@pytest.fixture(scope="module")
def strategies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    return make_strategies({"small": BundleInference(read_bundle(small_bundle(folder, "msd_hippocampus")))})


def incomplete(folder):
    write_series(folder / "a")[5].unlink()


def mixed(folder):
    write_series(folder / "a")
    for path in write_series(folder / ".b"):
        path.rename(folder / "a" / f"b{path.name}")


def broken_file(folder):
    (folder / "a.nii.gz").write_bytes(b"junk")


def empty_file(folder):
    (folder / "a.nrrd").write_bytes(b"")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (incomplete, "is one missing"),
        (mixed, "2 DICOM series"),
        (broken_file, "cannot be read"),
        (empty_file, "NRRD"),
    ],
)
def test_it_is_skipped_and_named(bad, reason, strategies, tmp_path):
    bad(tmp_path)
    write_series(tmp_path / "z")
    sample = pick_sample(strategies, {"strategy": "first"}, StudiesFolder(tmp_path))
    assert sample["id"] == "z" and sample["checksum"] and reason in sample["skipped"]["a"]


@pytest.mark.parametrize("strategy", ["random", "entropy", "disagreement", "diverse"])
def test_every_strategy_skips(strategy, strategies, tmp_path):
    """Also those that pick at random while there are no scores."""
    for name in "abcd":
        write_series(tmp_path / name, slices=4)[1].unlink()
    write_series(tmp_path / "z", slices=4)
    assert pick_sample(strategies, {"strategy": strategy}, StudiesFolder(tmp_path))["id"] == "z"


def test_a_full_disk_is_told(strategies, tmp_path, monkeypatch):
    write_series(tmp_path / "a", slices=4)
    store = StudiesFolder(tmp_path)

    def full(image_id):
        raise RequestError(507, "the series cannot be stored")

    monkeypatch.setattr(store, "image", full)
    with pytest.raises(RequestError, match="cannot be stored"):
        pick_sample(strategies, {"strategy": "first"}, store)


def test_nothing_else_is_there(strategies, tmp_path):
    incomplete(tmp_path)
    assert "is one missing" in pick_sample(strategies, {"strategy": "first"}, StudiesFolder(tmp_path))["skipped"]["a"]
