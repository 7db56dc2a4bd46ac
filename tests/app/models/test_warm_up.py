import pytest
import torch
from app_helpers import small_bundle

from monailabel_app.bundles import read_bundle
from monailabel_app.models import inference
from monailabel_app.models.inference import BundleInference


@pytest.fixture
def model(tmp_path):
    return BundleInference(read_bundle(small_bundle(tmp_path, "msd_hippocampus")))


@pytest.fixture
def sizes(model, monkeypatch):
    """Of the batches of windows that the network gets."""
    seen, network = [], model.network(model.parser())
    network.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    monkeypatch.setattr(model, "network", lambda parser: network)
    return seen


def test_every_number_of_windows(model, sizes):
    """The first call with a new number takes longer than the later ones."""
    model.warm_up()
    most = model.parser()["sw_batch_size"]
    assert most > 2 and {(count, 1, 32, 32, 32) for count in range(1, most + 1)} <= set(sizes)


def test_no_longer_than_needed(model, sizes, monkeypatch):
    monkeypatch.setattr(inference, "WARM_UP_SECONDS", -1)
    model.warm_up()
    assert sizes and len(set(sizes)) == 1


def test_a_gpu_that_is_too_small(model, sizes):
    """The server starts all the same: requests do with fewer windows at once."""

    def full(_, inputs):
        if len(inputs[0]) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    model.network(model.parser()).register_forward_pre_hook(full)
    model.warm_up()
    assert {1, 2} <= {count for count, *_ in sizes}
