import os
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from app_helpers import small_bundle
from bundle_helpers import small_network
from monai.data.utils import dense_patch_slices

from monailabel_app.bundles import read_bundle
from monailabel_app.errors import RequestError
from monailabel_app.models import uncertainty
from monailabel_app.models.active_learning import (
    by_disagreement,
    by_diversity,
    by_entropy,
    choose_model,
    compute_scores,
    known_scores,
    make_strategies,
)
from monailabel_app.models.each_image import Stopped
from monailabel_app.models.inference import BundleInference
from monailabel_app.models.turn import Priority
from monailabel_app.models.uncertainty import ImageScores, disagreement, score_image
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
    monkeypatch.setattr(model.networks, "on", lambda config: Sure(logit))
    scores = score_image(model, store.image(store.list_images()[0]))
    assert scores.entropy == pytest.approx(entropy, abs=1e-3)


@pytest.mark.slow
def test_scores_of_a_network(model, store):
    image = store.image(store.list_images()[0])
    first, second = score_image(model, image), score_image(model, image)
    assert first == second and 0 < first.entropy < 1
    assert len(first.features) == 4 and first.disagreement is None
    with pytest.raises(Stopped):
        score_image(model, image, lambda: True)


@pytest.mark.slow
def test_disagreement(model, store, tmp_path):
    image = store.image(store.list_images()[0])
    one, other = new_weights(model, 1, tmp_path), new_weights(model, 2, tmp_path)
    assert disagreement(model, image, [one, one]) == 0
    assert 0 < disagreement(model, image, [one, other]) <= 1


def window_count(model, image):
    shape = model.prepare(image, Priority.SCORING).data["image"].shape[1:]
    patch = model.configure().window_size(model.networks.on(model.configure()), shape)
    shape = [max(n, p) for n, p in zip(shape, patch, strict=True)]
    return len(dense_patch_slices(shape, patch, [p // 2 for p in patch]))


def largest(model, store):
    return max(map(store.image, store.list_images()), key=lambda image: window_count(model, image))


@pytest.mark.slow
def test_requests_come_in_between(model, store, tmp_path, monkeypatch):
    """After every window: a request waits for one at most."""
    image, turns = largest(model, store), []
    take = model.turn._take
    monkeypatch.setattr(model.turn, "_take", lambda place: turns.append(place) or take(place))
    versions = [new_weights(model, seed, tmp_path) for seed in (1, 2)]
    disagreement(model, image, versions)
    assert len(turns) == 2 * window_count(model, image) > 4
    assert {priority for priority, _ in turns} == {Priority.SCORING}
    for stop_at in (0, 3):
        turns.clear()
        with pytest.raises(Stopped):
            disagreement(model, image, versions, lambda count=stop_at: len(turns) >= count)
        assert len(turns) == stop_at


@pytest.mark.slow
def test_windows_only_on_the_device(model, store, tmp_path, monkeypatch):
    """Not the whole image, which a GPU may have no room for."""
    image, sizes = largest(model, store), []
    configure, to = model.configure, torch.Tensor.to
    model.prepare(image, Priority.SCORING)  # and keep it
    monkeypatch.setattr(model, "configure", lambda changes: configure(changes={**changes, "device": "cpu:0"}))

    def watched(tensor, *args, **kwargs):
        if str(args[0] if args else "") == "cpu:0":
            sizes.append(tensor.shape[-3:].numel())
        return to(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", watched)
    score_image(model, image)
    scored = len(sizes)
    disagreement(model, image, [new_weights(model, seed, tmp_path) for seed in (1, 2)])
    assert 0 < scored < len(sizes) and max(sizes) == 32**3


def test_windows_that_the_network_can_take(model, store, monkeypatch):
    """Of every score, as of a segmentation."""
    edges, network = set(), Sure(0.0)
    network.divisor = 24
    network.register_forward_pre_hook(lambda _, inputs: edges.update(inputs[0].shape[2:]))
    monkeypatch.setattr(model.networks, "on", lambda config: network)
    monkeypatch.setattr(uncertainty, "load_deployed", lambda *_: network)
    image = store.image(store.list_images()[0])
    score_image(model, image)
    assert edges == {48}
    edges.clear()
    disagreement(model, image, [image] * 2)
    assert edges == {48}
    edges.clear()
    model.segment(image)
    assert edges == {48}


@pytest.mark.slow
def test_scores_where_the_gpu_is_too_small(model, store, monkeypatch):
    devices, on = [], model.networks.on

    def small_gpu(config):
        devices.append(config.device.type)
        if len(devices) % 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return on(config)

    monkeypatch.setattr(model.networks, "on", small_gpu)
    result = compute_scores(Task({}), store, model)
    assert result == {"done": store.list_images(), "failed": {}}
    assert devices[1::2] == ["cpu"] * len(store.list_images())


def test_a_scoring_that_is_stopped(model, store, monkeypatch):
    """In the middle of an image: its scores are not kept, and it has not failed."""
    task, on = Task({}), model.networks.on

    def second(config):
        if known_scores(store, model):
            task.stopping.set()
        return on(config)

    monkeypatch.setattr(model.networks, "on", second)
    first, *_ = store.list_images()
    assert compute_scores(task, store, model) == {"done": [first], "failed": {}}
    assert list(known_scores(store, model)) == [first]


def test_ranks():
    unlabeled = {
        "a": ImageScores(0.5, [0.0, 0.0], 0.1),
        "b": ImageScores(0.4, [3.0, 4.0]),
    }
    labeled = {"c": ImageScores(0.1, [0.0, 1.0])}
    assert by_entropy(unlabeled, labeled) == {"a": 0.5, "b": 0.4}
    assert by_disagreement(unlabeled, labeled) == {"a": 0.1}
    largest = np.hypot(3, 3)
    assert by_diversity(unlabeled, labeled) == pytest.approx({"a": 0.5 / largest, "b": 0.4})
    assert by_diversity(unlabeled, {}) == by_entropy(unlabeled, {})


@pytest.mark.slow
def test_a_replaced_image_gets_new_scores(model, store):
    """It alone, also where its size and its time stay; scores that an older version left count on."""
    replaced, other, *_ = store.list_images()
    compute_scores(Task({}), store, model)
    before, path = known_scores(store, model), store.image(replaced)
    kept = store.knowledge(other)["scores"]
    del kept[model.bundle.name]["file"]
    store.update_image_info(other, {"scores": kept})
    state = path.stat()
    scan = nib.load(path)
    voxels = np.random.default_rng(0).normal(100, 50, scan.shape).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, scan.affine), path)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert known_scores(store, model).keys() == before.keys() - {replaced}
    assert compute_scores(Task({}), store, model)["done"] == [replaced]
    after = known_scores(store, model)
    assert [image for image in before if after[image] != before[image]] == [replaced]


@pytest.mark.slow
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
    assert all(scores.disagreement is not None for scores in known_scores(store, model).values())


@pytest.mark.slow
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
    assert sample["id"] == max(images, key=lambda image: scores[image].entropy) and "note" not in sample
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
