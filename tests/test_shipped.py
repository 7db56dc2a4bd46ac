"""Which weights a bundle computes with, and where no training may write."""

import logging
import os
import re
from pathlib import Path

import pytest

from rep3d.shipped import check_ckpt_dir, find_weights, weights_in_use

OWN = "models/trained"


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """An empty bundle's folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fill(*files):
    for file in files:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).touch()


SHIPPED, TRAINED, FOLD = "models/model.pt", f"{OWN}/model.pt", f"{OWN}/fold1"


@pytest.mark.parametrize(
    ("files", "ckpt_dir", "found"),
    [
        ([], OWN, TRAINED),  # which is not there, and the error says so
        ([SHIPPED], OWN, SHIPPED),
        ([SHIPPED], "./models/../models/trained/", SHIPPED),
        ([SHIPPED, f"{OWN}/training.log", f"{OWN}/.training.lock"], OWN, SHIPPED),  # stopped before anything was kept
        ([SHIPPED, f"{OWN}/.1.2.part.model.pt"], OWN, SHIPPED),  # half written
        ([SHIPPED, TRAINED], OWN, TRAINED),
        ([TRAINED], OWN, TRAINED),
        # A training goes on, and has no best weights yet: no others in their place.
        ([SHIPPED, f"{OWN}/last.pt"], OWN, TRAINED),
        ([SHIPPED, f"{OWN}/model_20260101-101010.pt"], OWN, TRAINED),
        # Another folder was asked for.
        ([SHIPPED], FOLD, f"{FOLD}/model.pt"),
        ([SHIPPED, TRAINED], FOLD, f"{FOLD}/model.pt"),
        ([SHIPPED], "elsewhere", "elsewhere/model.pt"),
        ([SHIPPED], "elsewhere/models/trained", "elsewhere/models/trained/model.pt"),
        ([SHIPPED, TRAINED], "models", SHIPPED),
        # Those of a fold only are none of the bundle's.
        ([SHIPPED, f"{FOLD}/model.pt"], OWN, SHIPPED),
    ],
)
def test_which_weights(files, ckpt_dir, found, bundle):
    fill(*files)
    for root, folder in ((".", ckpt_dir), (bundle, ckpt_dir), (bundle, bundle / ckpt_dir)):
        assert find_weights(root, folder).resolve() == bundle / found
    if ckpt_dir == OWN:
        assert find_weights(bundle) == bundle / found


def test_it_is_said_which(bundle, caplog):
    caplog.set_level(logging.INFO, "rep3d")
    fill(SHIPPED)
    assert weights_in_use(".", f"./{OWN}") == SHIPPED
    assert caplog.messages == [f"weights: {SHIPPED}, which came with the bundle; none were trained in ./{OWN}"]
    fill(TRAINED)
    assert weights_in_use(".", f"./{OWN}") == TRAINED
    assert caplog.messages[1:] == [f"weights: {TRAINED}"]


@pytest.mark.parametrize("ckpt_dir", ["models", "./models/", "models/trained/..", "linked"])
def test_no_training_writes_to_what_ships(ckpt_dir, bundle):
    fill(SHIPPED)
    os.symlink("models", "linked")
    told = re.escape(f"ckpt_dir is {ckpt_dir!r}, where model.pt is what the bundle ships with")
    for root in (".", bundle):
        with pytest.raises(ValueError, match=told + ".*another folder, such as .*models/trained"):
            check_ckpt_dir(ckpt_dir, root)


@pytest.mark.parametrize("ckpt_dir", [OWN, FOLD, "models/retraining/models", "elsewhere/models", "."])
def test_other_folders_are_free(ckpt_dir, bundle):
    fill(SHIPPED)
    check_ckpt_dir(ckpt_dir, ".")
    check_ckpt_dir(bundle / ckpt_dir, bundle)
