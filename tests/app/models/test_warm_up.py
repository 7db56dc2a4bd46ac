import logging

import pytest
import torch
from app_helpers import small_bundle

from monailabel_app.bundles import read_bundle
from monailabel_app.models import warm_up
from monailabel_app.models.inference import BundleInference
from monailabel_app.models.warm_up import prepare_models, warm_up_model


@pytest.fixture
def model(tmp_path):
    return BundleInference(read_bundle(small_bundle(tmp_path, "msd_hippocampus")))


@pytest.fixture
def sizes(model, monkeypatch):
    """Of the batches of windows that the network gets."""
    seen, network = [], model.networks.on(model.configure())
    network.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    monkeypatch.setattr(model.networks, "on", lambda config: network)
    return seen


def test_every_number_of_windows(model, sizes):
    """The first call with a new number takes longer than the later ones."""
    warm_up_model(model)
    most = model.configure().sw_batch_size
    assert most > 2 and {(count, 1, 32, 32, 32) for count in range(1, most + 1)} <= set(sizes)


def test_no_longer_than_needed(model, sizes, monkeypatch):
    monkeypatch.setattr(warm_up, "SECONDS", -1)
    warm_up_model(model)
    assert sizes and len(set(sizes)) == 1


def test_a_gpu_that_is_too_small(model, sizes):
    """The server starts all the same: requests do with fewer windows at once."""

    def full(_, inputs):
        if len(inputs[0]) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    model.networks.on(model.configure()).register_forward_pre_hook(full)
    warm_up_model(model)
    assert {1, 2} <= {count for count, *_ in sizes}


def test_what_serves_is_told(model, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    prepare_models([BundleInference(read_bundle(small_bundle(tmp_path, "kits", weights=False))), model], warm_up=False)
    assert (
        "models that segment by themselves: msd_hippocampus\n" in caplog.text and "kits has no weights" in caplog.text
    )
