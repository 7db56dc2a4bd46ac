"""The network behind the clicks, and who waits for whom."""

import json
import threading
import time

import pytest
import torch
from bundle_helpers import ROOT
from interaction_helpers import Place, at

from monailabel_app.bundles import Bundle, choose_bundles, find_prompted, read_bundle
from monailabel_app.errors import RequestError
from monailabel_app.models.clicks import PromptedNetwork
from monailabel_app.models.inference import OtherWeights
from monailabel_app.models.inference_config import InferenceConfig
from monailabel_app.models.turn import Priority, Turn
from monailabel_app.models.warm_up import warm_up_prompted
from rep3d.shipped import write_settings

SMALL = {"feature_size": [4, 8, 8, 8], "hidden_size": 8, "kernel_size": 5}
CUBE = 32


@pytest.fixture
def folder(tmp_path):
    """The bundle that takes prompts, small and without weights, and another one."""
    for name in ("interactive", "kits"):
        (tmp_path / f"bundles/{name}/configs").mkdir(parents=True)
        for path in (ROOT / f"bundles/{name}/configs").glob("*.json"):
            config = json.loads(path.read_text())
            if path.name == "inference.json" and name == "interactive":
                config["network_def"] |= SMALL
                config["patch_size"] = [CUBE] * 3
            (tmp_path / f"bundles/{name}/configs" / path.name).write_text(json.dumps(config))
    return tmp_path / "bundles"


def write_weights(bundle: Bundle, seed: int, place: str = "models/model.pt") -> None:
    torch.manual_seed(seed)
    path = bundle.root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(PromptedNetwork(bundle, Turn())._config.network().state_dict(), path)


def answer(network, priority=Priority.CLICK):
    channels = torch.ones(1, 5, CUBE, CUBE, CUBE)
    with network.answering(priority) as ask:
        return ask(channels)


def test_the_bundle_that_takes_prompts_is_found(folder, tmp_path):
    assert find_prompted(folder).name == "interactive" and find_prompted(tmp_path) is None
    assert choose_bundles(folder, "kits") == {"kits": read_bundle(folder / "kits")}  # it is none of these
    with pytest.raises(ValueError, match="takes no prompts"):
        read_bundle(folder / "kits", prompts=True)


def test_of_several_the_one_with_weights(folder):
    (folder / "another").mkdir()
    (folder / "interactive").rename(folder / "zoom")
    for path in (folder / "zoom").rglob("*.json"):
        target = folder / "another" / path.relative_to(folder / "zoom")
        target.parent.mkdir(exist_ok=True)
        target.write_text(path.read_text())
    assert find_prompted(folder).name == "another"
    write_weights(read_bundle(folder / "zoom", prompts=True), 0)
    assert find_prompted(folder).name == "zoom"


def test_without_weights(folder, tmp_path):
    network = PromptedNetwork(find_prompted(folder), Turn())
    (tmp_path / "place").mkdir()
    place = Place(tmp_path / "place", network)
    one = place.sessions.of_study("ann", "slicer", "scan")
    with pytest.raises(RequestError, match="'interactive' has no weights yet: train it first") as caught:
        one.show("liver", [at(5, 5, 5)])
    assert caught.value.status == 404 and not network.is_valid() and one.labels == ()
    with pytest.raises(RequestError, match="no bundle that follows prompts"), PromptedNetwork(None, Turn()).answering():
        pass


def test_trained_weights_go_before_shipped_ones(folder):
    network = PromptedNetwork(find_prompted(folder), Turn())
    write_weights(network.bundle, 0)
    shipped = answer(network)
    write_weights(network.bundle, 1, "models/trained/model.pt")
    trained = answer(network)
    assert shipped.shape == trained.shape == (1, 1, CUBE, CUBE, CUBE) and not torch.equal(shipped, trained)
    assert network.size == CUBE and torch.isfinite(trained).all() and not trained.is_inference()


def test_weights_answer_as_they_were_trained(folder):
    """Also those that begin to serve later."""
    network = PromptedNetwork(find_prompted(folder), Turn())
    write_weights(network.bundle, 0)
    shipped = answer(network)
    own, config = network.bundle.own_weights, json.loads(network.bundle.config("inference").read_text())
    larger = {**config["network_def"], "hidden_size": 12}
    for _ in range(2):  # the second time they are of the network of their settings
        write_weights(network.bundle, 1, "models/trained/model.pt")
        write_settings({"patch_size": [2 * CUBE] * 3, "network_def": larger}, own)
    assert answer(network).shape == shipped.shape and network.size == 2 * CUBE
    own.unlink()
    assert torch.equal(answer(network), shipped) and network.size == CUBE


def test_weights_that_come_to_serve_meanwhile_get_no_network_of_other_settings(folder, monkeypatch):
    """Also where their state dicts are alike."""
    network = PromptedNetwork(find_prompted(folder), Turn())
    write_weights(network.bundle, 0)
    answer(network)
    config = json.loads(network.bundle.config("inference").read_text())
    write_weights(network.bundle, 1, "models/trained/model.pt")
    other = {**config["network_def"], "block_order": "norm-conv-act"}
    write_settings({"network_def": other}, network.bundle.own_weights)
    with monkeypatch.context() as before:  # the settings were read before those of the new weights were written
        before.setattr(network, "_current_config", lambda: network._config)
        with pytest.raises(OtherWeights):
            answer(network)
    assert torch.equal(answer(network), answer(PromptedNetwork(network.bundle, Turn())))


def test_a_session_with_a_real_network(folder, tmp_path):
    (tmp_path / "place").mkdir()
    network = PromptedNetwork(find_prompted(folder), Turn())
    write_weights(network.bundle, 0)
    place = Place(tmp_path / "place", network)
    one = place.sessions.of_study("ann", "slicer", "scan")
    assert one.show("liver", [at(5, 5, 5)]).mask[5, 5, 5] and one.undo("liver").mask.sum() == 0


def test_a_bundle_that_lacks_something(folder):
    path = folder / "interactive/configs/inference.json"
    config = json.loads(path.read_text())
    del config["inferer"]
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"bundle 'interactive': inference\.json lacks inferer"):
        PromptedNetwork(find_prompted(folder), Turn())


def test_other_ids_of_the_config_are_not_needed(folder):
    """Those that only automatic segmentation has."""
    with pytest.raises(KeyError, match="sliding_window"):
        InferenceConfig(find_prompted(folder))


@pytest.mark.parametrize("other", [Priority.SEGMENTATION, Priority.BATCH, Priority.SCORING])
def test_a_click_goes_before_the_next_window(other, folder):
    turn, log, computes = Turn(), [], threading.Event()
    network = PromptedNetwork(find_prompted(folder), turn)
    write_weights(network.bundle, 0)
    answer(network)  # the first call takes longer

    def windows():
        with turn.line(other) as my_turn:
            for _ in range(50):
                with my_turn():
                    log.append("window")
                    computes.set()
                    time.sleep(0.02)

    worker = threading.Thread(target=windows)
    worker.start()
    assert computes.wait(10)
    before = len(log)
    answer(network)
    log.append("click")
    assert log.index("click") - before <= 2  # the window that was being computed, and hardly another
    worker.join()
    assert log.count("window") == 50


def test_too_little_gpu_memory_for_a_click(folder, tmp_path, monkeypatch):
    """The answer says so in words; the session stays as it was, and the next click is answered."""
    (tmp_path / "place").mkdir()
    network = PromptedNetwork(find_prompted(folder), Turn())
    write_weights(network.bundle, 0)
    one = Place(tmp_path / "place", network).sessions.of_study("ann", "slicer", "scan")
    before = one.show("liver", [at(5, 5, 5)]).mask

    def small_gpu(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    for place, name in ((network._config, "inferer"), (network._networks, "on")):  # of the voxels, of the weights
        with monkeypatch.context() as patch:
            patch.setattr(place, name, small_gpu)
            with pytest.raises(RequestError, match="the GPU's memory does not suffice.*nothing has changed") as caught:
                one.show("liver", [at(20, 20, 15)])
        assert caught.value.status == 503 and one.mask("liver") is not None and one.undoable("liver") == (1, 0)
        assert torch.equal(torch.from_numpy(one.mask("liver")), before)
    assert one.show("liver", [at(20, 20, 15)]).mask[20, 20, 15]


def test_the_first_click_finds_the_network_ready(folder, monkeypatch):
    network = PromptedNetwork(find_prompted(folder), Turn())
    warm_up_prompted(network)  # there are no weights yet
    write_weights(network.bundle, 0)
    warm_up_prompted(network)
    monkeypatch.setattr(network._config, "network", lambda: pytest.fail("it is read again"))
    answer(network)
