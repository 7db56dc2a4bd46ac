"""What the app reaches into in a bundle is there, in every bundle of the repository."""

import json
import shutil

import pytest
from bundle_helpers import AUTOMATIC, ROOT
from monai.bundle import ConfigParser

from monailabel_app.bundles import choose_bundles, find_prompted, read_bundle
from monailabel_app.models import contract
from monailabel_app.models.contract import check_contract
from monailabel_app.models.inference import serve_bundles
from monailabel_app.models.inference_config import InferenceConfig
from monailabel_app.models.out_of_memory import TO_SCORE, TO_SEGMENT
from rep3d.inferers import LabelMapInferer


@pytest.mark.parametrize("root", AUTOMATIC, ids=lambda root: root.name)
def test_bundles_of_the_repository(root):
    bundle = read_bundle(root)
    check_contract(bundle)
    parser = ConfigParser()
    parser.read_config(str(bundle.config("inference")))
    inferer = parser.get_parsed_content(contract.WINDOWS)
    assert isinstance(inferer, LabelMapInferer)  # which takes what the app adds
    for step in TO_SEGMENT + TO_SCORE:
        config = InferenceConfig(bundle, changes={contract.DEVICE: "cpu", **step.changes})
        assert config.device.type == "cpu" and config.sw_batch_size > 0
        size = config.window_size(lambda x: x, (64, 64, 64))
        assert all(edge % 16 == 0 for edge in size)


def edited(root, folder, name, edit):
    """A bundle whose config was edited."""
    copy = shutil.copytree(root / "configs", folder / "lacking/configs").parent
    path = copy / f"configs/{name}.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    edit(config)
    path.write_text(json.dumps(config), encoding="utf-8")
    return read_bundle(copy)


@pytest.mark.parametrize(
    ("name", "lost", "told"),
    [
        ("inference", "preprocessing", "inference.json lacks preprocessing,"),
        ("inference", "to_native_grid", "inference.json lacks to_native_grid,"),
        ("inference", "sliding_window", "inference.json lacks sliding_window#inferer#roi_size, sliding_window#inferer"),
        ("train", "init_from", "train.json lacks init_from,"),
        ("train", "validate", "train.json lacks validate#dataset#data,"),
        ("evaluate", "evaluating", "train.json and evaluate.json lacks evaluating,"),
    ],
)
def test_a_bundle_that_lacks_an_id(name, lost, told, tmp_path):
    bundle = edited(AUTOMATIC[0], tmp_path, name, lambda config: config.pop(lost))
    with pytest.raises(ValueError, match=f"^bundle 'lacking': {told}.* which the app needs$") as error:
        serve_bundles({"lacking": bundle})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", [None, "{broken"])
def test_a_config_that_cannot_be_read(text, tmp_path):
    bundle = edited(AUTOMATIC[0], tmp_path, "train", lambda config: None)
    bundle.config("train").write_text(text) if text else bundle.config("train").unlink()
    with pytest.raises(ValueError, match="^bundle 'lacking': configs/train.json cannot be read: "):
        check_contract(bundle)


def test_a_bundle_that_takes_prompts_is_no_automatic_model(tmp_path):
    """It is served besides, whatever the models are, and may be all that is."""
    for name in ("interactive", "msd_hippocampus"):
        shutil.copytree(ROOT / "bundles" / name / "configs", tmp_path / name / "configs")
        (tmp_path / name / "models").mkdir()
        (tmp_path / name / "models/model.pt").touch()
    for models in ("all", "msd_hippocampus", "msd_hippocampus,interactive"):
        assert list(choose_bundles(tmp_path, models)) == ["msd_hippocampus"]
    assert find_prompted(tmp_path).name == "interactive"
    (tmp_path / "msd_hippocampus/models/model.pt").unlink()
    assert choose_bundles(tmp_path, "all") == choose_bundles(tmp_path, "interactive") == {}
    (tmp_path / "interactive/models/model.pt").unlink()
    with pytest.raises(ValueError, match="models is 'all', but no bundle in"):
        choose_bundles(tmp_path, "all")
    with pytest.raises(ValueError, match="interactive is no model for automatic segmentation: it takes prompts"):
        read_bundle(tmp_path / "interactive")
