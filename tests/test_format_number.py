"""What newer code wrote is refused by its format number, and stays as it is."""

import re

import pytest
import torch
from bundle_helpers import INFERENCE, ROOT, TRAIN, make_dataset, run
from recordings import unpack

from rep3d.format_number import check_format, mark_folder

BUNDLE = ROOT / "bundles/msd_hippocampus"


@pytest.mark.parametrize("found", [1, 2, 3])
def test_known_formats(found):
    check_format(found, 3, "a/file")


@pytest.mark.parametrize("found", [4, 10**9, 0, -1, 1.0, True, "1", None, [1]])
def test_unknown_formats(found):
    with pytest.raises(ValueError, match=re.escape(f"a/file: the format is {found!r}, expected a number up to 3")):
        check_format(found, 3, "a/file")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "data", BUNDLE, count=4)


def messages(error):
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("door", ["resume", "init_from", "checkpoint"])
def test_a_training_of_newer_code(door, dataset, tmp_path):
    """Neither resuming nor fine-tuning nor inference takes it."""
    models = unpack("training", tmp_path) / "models"
    last = models / "last.pt"
    content = torch.load(last, weights_only=True)
    torch.save({"weights": content.pop("network"), **content, "format": 2}, last)
    before = {path.name: path.read_bytes() for path in models.glob("*.pt")}
    doors = {"resume": (TRAIN, "true"), "init_from": (TRAIN, str(last)), "checkpoint": (INFERENCE, str(last))}
    configs, value = doors[door]
    with pytest.raises(Exception) as raised:  # MONAI wraps it
        run(BUNDLE, configs, dataset, tmp_path, **{door: value})
    expected = f"{last}: the format is 2, expected a number up to 1, the newest that this rep3d knows: take the one"
    assert any(message.startswith(expected) for message in messages(raised.value))
    assert {path.name: path.read_bytes() for path in models.glob("*.pt")} == before


def test_a_training_tells_its_format(dataset, tmp_path):
    run(BUNDLE, TRAIN, dataset, tmp_path, "training")
    assert torch.load(tmp_path / "models/last.pt", weights_only=True)["format"] == 1


@pytest.mark.parametrize("before", [None, "1", "2\n"])
def test_a_folder_s_number_rises(before, tmp_path):
    if before is not None:
        (tmp_path / ".format").write_text(before)
    mark_folder(tmp_path, 2)
    assert (tmp_path / ".format").read_text() == "2\n"


def test_nor_does_it_fall(tmp_path):
    (tmp_path / ".format").write_text("3")
    with pytest.raises(ValueError, match="the format is 3, expected a number up to 2"):
        mark_folder(tmp_path, 2)
    assert (tmp_path / ".format").read_text() == "3"
