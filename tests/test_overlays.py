"""Networks and ablations that are laid over a bundle: which sizes, and how many parameters."""

import functools
import json
from functools import cache
from unittest import mock

import pytest
import torch
from bundle_helpers import BUNDLES, EVALUATE, INFERENCE, ROOT, SMALL, TRAIN, make_dataset, read, run, workflow
from monai.bundle import ConfigParser

from rep3d.console.errors import root_cause
from rep3d.training.checkpoints import read_weights

ALL_ABLATIONS = sorted(ROOT.glob("configs/ablations/*.json"))
ABLATIONS = [path for path in ALL_ABLATIONS if "+network_def" in path.read_text(encoding="utf-8")]
NETWORKS = {path: json.loads(path.read_text(encoding="utf-8")) for path in sorted(ROOT.glob("configs/networks/*.json"))}
FAMILIES = [path for path, content in NETWORKS.items() if "network_def" in content]
MOVED = [path for path in NETWORKS if path not in FAMILIES]
CONFIGS = [TRAIN, EVALUATE, INFERENCE]
HIPPOCAMPUS = ROOT / "bundles/msd_hippocampus"
BUILT = ("amos_ct", "interactive", "msd_hippocampus")  # the others have the patch size of the first, and fewer classes

each_bundle = pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
each_ablation = pytest.mark.parametrize("ablation", ABLATIONS, ids=lambda path: path.stem)


def config_of(bundle, files, *overlays) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs" / name) for name in [*files, *overlays]])
    return parser


def parameters(parser) -> float:
    """Millions."""
    real = functools.partial(torch.linspace, device="cpu")  # whose values SwinUNETR asks for
    with torch.device("meta"), mock.patch("torch.linspace", real):  # full size, and no memory
        network = parser.get_parsed_content("network_def")
    return sum(parameter.numel() for parameter in network.parameters()) / 1e6


@cache
def own_parameters(bundle) -> float:
    return parameters(config_of(bundle, TRAIN))


def test_families_and_what_was_moved():
    assert {"rep3d", "rep3d_interactive", "rep3d_tiny"} <= {path.stem for path in FAMILIES}
    assert [path.stem for path in MOVED] == ["rep3d_csla", "rep3d_fixed", "rep3d_none"]


def test_an_ablation_of_each_modulation():
    assert [path.stem for path in ABLATIONS] == ["csla", "fixed", "lrbm", "none"]


@each_ablation
@each_bundle
def test_an_ablation_keeps_the_sizes(bundle, ablation):
    """In training, evaluation and inference."""
    own = read(bundle, "train")["network_def"]
    for files in CONFIGS:
        parser = config_of(bundle, files, ablation)
        assert parser["network_def"] == own | {"modulation": ablation.stem}
    # With small kernels, the generator of the masks weighs more.
    assert parameters(parser) == pytest.approx(own_parameters(bundle), rel=0.08)


@pytest.mark.parametrize(("name", "expected"), [("msd_hippocampus", 10.3), ("kits", 65.8)])
def test_number_of_parameters(name, expected):
    parser = config_of(ROOT / "bundles" / name, TRAIN, ROOT / "configs/ablations/none.json")
    assert parameters(parser) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda path: path.stem)
@each_bundle
def test_a_family_brings_its_own_sizes(bundle, family):
    pytest.importorskip("dynamic_network_architectures")
    definition = json.loads(family.read_text(encoding="utf-8"))
    for files in CONFIGS:
        parser = config_of(bundle, files, family)
        assert parser["network_def"] == definition["network_def"]
    if bundle.name in BUILT:
        assert parameters(parser) > 0.1


# 4.81 M with 1 to 4 classes, 102.36 M with 14 or 16; the other counts are the same for all.
COUNTS = {
    "unet": ("kits", 4.81, 0.005),
    "segresnet": ("kits", 1.18, 0.005),
    "nnunet": ("kits", 31.2, 0.05),
    "nnunet_resenc": ("amos_ct", 102.36, 0.005),
    "unetr": ("kits", 92.8, 0.05),
    "swin_unetr": ("kits", 62.2, 0.05),
}


@pytest.mark.parametrize("family", COUNTS)
def test_counts_of_the_papers_table(family):
    """In millions, to its digits; tests of our own families have theirs."""
    bundle, expected, tolerance = COUNTS[family]
    pytest.importorskip("dynamic_network_architectures")
    parser = config_of(ROOT / "bundles" / bundle, INFERENCE, ROOT / f"configs/networks/{family}.json")
    assert parameters(parser) == pytest.approx(expected, abs=tolerance)


@each_ablation
def test_an_ablation_of_another_family(ablation):
    family = ROOT / "configs/networks/rep3d.json"
    parser = config_of(HIPPOCAMPUS, TRAIN, family, ablation)
    definition = json.loads(family.read_text(encoding="utf-8"))["network_def"]
    assert parser["network_def"] == definition | {"modulation": ablation.stem}


@pytest.mark.slow
def test_a_run_with_an_ablation(tmp_path):
    """As `python -m monai.bundle run` does it, options included."""
    overlay = str(ROOT / "configs/ablations/csla.json")
    dataset = make_dataset(tmp_path / "data", HIPPOCAMPUS, count=5)
    run(HIPPOCAMPUS, [*TRAIN, overlay], dataset, tmp_path, "training")
    assert any(name.endswith("small_weight") for name in read_weights(tmp_path / "models/model.pt"))
    for files in (EVALUATE, INFERENCE):
        run(HIPPOCAMPUS, [*files, overlay], dataset, tmp_path, "evaluating")
    assert (tmp_path / "eval/scores.csv").is_file() and list(tmp_path.glob("eval/*_seg.nii.gz"))


def test_an_ablation_of_the_optimizer():
    """It goes with another one of the network, or with another family."""
    (ablation,) = set(ALL_ABLATIONS) - set(ABLATIONS)
    assert ablation.stem == "rep_optimizer"
    parser = config_of(HIPPOCAMPUS, TRAIN, ROOT / "configs/ablations/none.json", ablation)
    parser.update(SMALL)
    optimizer = parser.get_parsed_content("optimizer")
    assert isinstance(optimizer, torch.optim.SGD) and optimizer.param_groups[0]["gradient_scales"] == [1.0, 1.0, 3]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.08, 0.0]


@pytest.mark.parametrize("files", CONFIGS, ids=lambda files: files[-1])
@pytest.mark.parametrize("old", MOVED, ids=lambda path: path.stem)
def test_ablations_of_version_0_1_0_say_where_they_are(old, files, tmp_path):
    with pytest.raises(RuntimeError) as raised:
        workflow(HIPPOCAMPUS, [*files, str(old)], tmp_path, tmp_path)
    new = f"configs/ablations/{old.stem.removeprefix('rep3d_')}.json"
    assert str(root_cause(raised.value)).startswith(f"configs/networks/{old.name} is now {new}, which keeps")
    assert (ROOT / new).is_file() and list(tmp_path.iterdir()) == []
