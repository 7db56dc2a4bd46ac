"""What earlier code left behind, in `fixtures/recorded`, opens, and goes on."""

import functools
import json
import pydoc
import shutil
import warnings

import monai.bundle
import pytest
import torch
from bundle_helpers import INFERENCE, ROOT, SMALL, TRAIN, assert_label_map, make_dataset, run
from recordings import RECORDED, unpack

import rep3d

MODEL = "msd_hippocampus"
# Names of earlier code may warn that they will go.
pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("DeprecationWarning", "FutureWarning")]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """The one that the recorded training had."""
    return make_dataset(tmp_path_factory.mktemp("data") / "data", ROOT / "bundles" / MODEL, count=4)


@pytest.fixture
def packed(tmp_path):
    """A packed bundle of earlier code."""
    return unpack("packed", tmp_path) / MODEL


def resolves(name: str) -> bool:
    """Whether a config's `_target_`, or a name in one of its `$` expressions after `import rep3d`, leads somewhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        if not name.startswith("$"):
            return pydoc.locate(name) is not None
        try:
            functools.reduce(getattr, name.split(".")[1:], rep3d)
        except AttributeError:
            return False
        return True


def test_names_in_earlier_configs():
    names = (RECORDED / "names.txt").read_text(encoding="utf-8").split()
    assert len(names) > 20
    assert [name for name in names if not resolves(name)] == []


def test_names_that_lead_nowhere():
    assert resolves("rep3d.Rep3D") and resolves("$rep3d.Rep3D")
    assert not resolves("rep3d.absent") and not resolves("$rep3d.absent.name")


@pytest.mark.parametrize("configs", ["earlier", "own"])
def test_a_training_goes_on(configs, packed, dataset, tmp_path):
    bundle = packed if configs == "earlier" else ROOT / "bundles" / MODEL
    models = unpack("training", tmp_path) / "models"
    before = {name: torch.load(models / name, weights_only=True) for name in ("last.pt", "model.pt")}
    log = (models / "training.log").read_text(encoding="utf-8")
    resumed = run(bundle, TRAIN, dataset, tmp_path, "training", resume="true", epochs=2)
    trainer = resumed.parser.get_parsed_content("train#trainer")
    assert (before["last.pt"]["epoch"], trainer.state.epoch, trainer.state.iteration) == (1, 2, 4)
    last = torch.load(models / "last.pt", weights_only=True)
    assert last["epoch"] == 2 and last["network"].keys() == before["model.pt"].keys()
    assert last["best_metric"] >= before["last.pt"]["best_metric"]
    name = "out.conv.conv.weight"
    assert not torch.equal(last["network"][name], before["last.pt"]["network"][name])
    text = (models / "training.log").read_text(encoding="utf-8")
    assert text.startswith(log) and "resume: going on after epoch 1" in text


def test_weights_go_back(dataset, tmp_path):
    """A new training from the recorded best weights leaves them where they can be taken again."""
    models = unpack("training", tmp_path) / "models"
    shutil.copy(models / "model.pt", tmp_path / "kept.pt")
    content = (models / "model.pt").read_bytes()
    run(ROOT / "bundles" / MODEL, TRAIN, dataset, tmp_path, "training", init_from=str(tmp_path / "kept.pt"))
    assert (models / "model.pt").read_bytes() != content
    assert content in [path.read_bytes() for path in models.glob("model_*.pt")]


def test_a_packed_bundle(packed, dataset, tmp_path):
    loaded = monai.bundle.load(MODEL, bundle_dir=str(packed.parent), workflow_type="inference").eval()
    with torch.no_grad():
        assert torch.isfinite(loaded(torch.zeros(1, 1, *SMALL["patch_size"]))).all()
    image = sorted((dataset / "imagesTr").iterdir())[1]
    run(packed, INFERENCE, image, tmp_path, checkpoint=str(packed / "models/model.pt"))
    (label,) = (tmp_path / "eval").glob("*.nii.gz")
    metadata = json.loads((packed / "configs/metadata.json").read_text(encoding="utf-8"))
    assert_label_map(label, image, len(metadata["network_data_format"]["outputs"]["pred"]["channel_def"]))
