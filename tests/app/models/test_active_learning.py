import shutil

import numpy as np
import pytest
import torch
from app_helpers import small_bundle
from bundle_helpers import small_network
from monai.data.utils import dense_patch_slices

from monailabel_app.bundles import read_bundle
from monailabel_app.errors import RequestError
from monailabel_app.models import active_learning
from monailabel_app.models.active_learning import (
    by_disagreement,
    by_diversity,
    by_entropy,
    choose_model,
    compute_scores,
    known_scores,
    make_strategies,
)
from monailabel_app.models.inference import BundleInference
from monailabel_app.models.uncertainty import disagreement, score_image
from monailabel_app.models.versions import add_version, keep_serving
from monailabel_app.studies.folder import StudiesFolder
from monailabel_app.tasks import Task


@pytest.fixture
def model(tmp_path):
    return BundleInference(read_bundle(small_bundle(tmp_path / "bundles", "msd_hippocampus")))


@pytest.fixture
def store(studies):
    return StudiesFolder(studies)


def new_weights(model, seed, folder):
    torch.manual_seed(seed)
    path = folder / f"{seed}.pt"
    torch.save(small_network(model.bundle.root).state_dict(), path)
    return path


class Sure(torch.nn.Module):
    """The same class everywhere, for certain or not at all."""

    def __init__(self, logit):
        super().__init__()
        self.logit = logit

    def forward(self, x):
        logits = torch.zeros(len(x), 3, *x.shape[2:])
        logits[:, 1] = self.logit
        return logits


@pytest.mark.parametrize(("logit", "entropy"), [(0.0, 1.0), (50.0, 0.0)])
def test_entropy_of_what_is_known(logit, entropy, model, store, monkeypatch):
    monkeypatch.setattr(model, "network", lambda parser: Sure(logit))
    scores = score_image(model, store.image(store.list_images()[0]))
    assert scores["entropy"] == pytest.approx(entropy, abs=1e-3)


def test_scores_of_a_network(model, store):
    image = store.image(store.list_images()[0])
    first, second = score_image(model, image), score_image(model, image)
    assert first == second and 0 < first["entropy"] < 1
    assert len(first["features"]) == 4
    assert score_image(model, image, lambda: True) is None


def test_disagreement(model, store, tmp_path):
    image = store.image(store.list_images()[0])
    one, other = new_weights(model, 1, tmp_path), new_weights(model, 2, tmp_path)
    assert disagreement(model, image, [one, one]) == 0
    assert 0 < disagreement(model, image, [one, other]) <= 1


def window_count(model, image):
    parser = model.parser()
    patch = parser["patch_size"]
    shape = [max(n, p) for n, p in zip(model.prepare(parser, image)["image"].shape[1:], patch, strict=True)]
    return len(dense_patch_slices(shape, patch, [p // 2 for p in patch]))


def largest(model, store):
    return max(map(store.image, store.list_images()), key=lambda image: window_count(model, image))


def test_requests_come_in_between(model, store, tmp_path, monkeypatch):
    """After every window: a request waits for one at most."""
    image, turns = largest(model, store), []
    turn = model.turn
    monkeypatch.setattr(model, "turn", lambda: turns.append(1) or turn())
    versions = [new_weights(model, seed, tmp_path) for seed in (1, 2)]
    disagreement(model, image, versions)
    assert len(turns) == 2 * window_count(model, image) > 4
    assert disagreement(model, image, versions, lambda: len(turns) > 100) is not None
    assert disagreement(model, image, versions, lambda: True) is None


def test_windows_only_on_the_device(model, store, tmp_path, monkeypatch):
    """Not the whole image, which a GPU may have no room for."""
    image, sizes = largest(model, store), []
    parser, to = model.parser, torch.Tensor.to
    monkeypatch.setattr(model, "parser", lambda _="", changes=None: parser("", {**(changes or {}), "device": "cpu:0"}))

    def watched(tensor, *args, **kwargs):
        if str(args[:1]) == "('cpu:0',)":
            sizes.append(tensor.shape[-3:].numel())
        return to(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", watched)
    score_image(model, image)
    scored = len(sizes)
    disagreement(model, image, [new_weights(model, seed, tmp_path) for seed in (1, 2)])
    assert 0 < scored < len(sizes) and max(sizes) == 32**3


def test_scores_where_the_gpu_is_too_small(model, store, monkeypatch):
    devices = []

    def small_gpu(inference, image, is_stopping, device):
        devices.append(device)
        if device != "cpu":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return score_image(inference, image, is_stopping, device)

    monkeypatch.setattr(active_learning, "score_image", small_gpu)
    result = compute_scores(Task({}), store, model)
    assert result == {"done": store.list_images(), "failed": {}}
    assert devices == ["", "cpu"] * len(store.list_images())


def test_ranks():
    unlabeled = {
        "a": {"entropy": 0.5, "features": [0.0, 0.0], "disagreement": 0.1},
        "b": {"entropy": 0.4, "features": [3.0, 4.0]},
    }
    labeled = {"c": {"entropy": 0.1, "features": [0.0, 1.0]}}
    assert by_entropy(unlabeled, labeled) == {"a": 0.5, "b": 0.4}
    assert by_disagreement(unlabeled, labeled) == {"a": 0.1}
    largest = np.hypot(3, 3)
    assert by_diversity(unlabeled, labeled) == pytest.approx({"a": 0.5 / largest, "b": 0.4})
    assert by_diversity(unlabeled, {}) == by_entropy(unlabeled, {})


def test_scores_are_kept_until_the_weights_change(model, store, tmp_path):
    images = store.list_images()
    (store.root / "broken.nii.gz").write_bytes(b"junk")
    result = compute_scores(Task({}), store, model)
    assert result["done"] == images and list(result["failed"]) == ["broken"]
    assert set(known_scores(store, model)) == set(images)
    assert compute_scores(Task({}), store, model)["done"] == []
    keep_serving(model.bundle)
    add_version(model.bundle, new_weights(model, 3, tmp_path), {})
    shutil.copy(tmp_path / "3.pt", model.bundle.weights)
    assert known_scores(store, model) == {}
    compute_scores(Task({}), store, model)
    assert all("disagreement" in scores for scores in known_scores(store, model).values())


def test_strategies(model, store, material):
    strategies = make_strategies({"msd_hippocampus": model})
    assert set(strategies) == {"random", "first", "entropy", "disagreement", "diverse"}
    images = store.list_images()
    for name, strategy in strategies.items():
        assert strategy({"strategy": name}, store)["id"] in images
    assert "not computed yet" in strategies["entropy"]({}, store)["note"]
    compute_scores(Task({}), store, model)
    scores = known_scores(store, model)
    sample = strategies["entropy"]({}, store)
    assert sample["id"] == max(images, key=lambda image: scores[image]["entropy"]) and "note" not in sample
    for image in images:
        store.save_label(image, str(material.labels[f"{image}.nii.gz"]), "final", {})
    for name, strategy in strategies.items():
        assert strategy({"strategy": name}, store) is None


def test_no_model(model):
    with pytest.raises(RequestError, match="there is no model 'other' with weights"):
        choose_model({"msd_hippocampus": model}, "other")
    model.bundle.weights.unlink()
    with pytest.raises(RequestError, match="with weights"):
        choose_model({"msd_hippocampus": model}, "")
