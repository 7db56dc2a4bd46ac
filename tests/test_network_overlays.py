"""Every file of configs/networks, at a size that a test affords: what bundles, app and exports do with a network."""

import json
import re
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from bundle_helpers import AUTOMATIC, EVALUATE, ROOT, SHORT, TRAIN, make_dataset
from monai.bundle import ConfigParser
from monai.losses import DeepSupervisionLoss, DiceCELoss
from torch import nn

from rep3d.console.errors import describe, root_cause
from rep3d.deploy import reparameterize
from rep3d.export import pack_bundle
from rep3d.inferers import AutocastInferer, LabelMapInferer
from rep3d.networks.capabilities import encoder_features
from rep3d.networks.input_sizes import check_patch_size, divisor_of
from rep3d.networks.recomputing import recompute
from rep3d.study.run import BundleRun, initialize_here, run_here
from rep3d.training.checkpoints import load_deployed, read_weights
from rep3d.training.parameters import POSITION_TABLE, parameter_groups

pytest.importorskip("dynamic_network_architectures")
pytest.importorskip("einops")

OURS = {"feature_size": [4, 4, 4, 4], "hidden_size": 8, "kernel_size": 5}
SMALL = {  # by class; a number stands for as many as the overlay has
    "rep3d.Rep3D": OURS,
    "rep3d.UXNet": OURS,
    "rep3d.MedNeXt": {"size": "S", "init_filters": 2, "kernel_size": 3, "use_checkpoint": False},
    "rep3d.MedNeXtV2": {"size": "S", "init_filters": 2, "use_checkpoint": False},
    "rep3d.PlainConvUNet": {"features_per_stage": 4, "n_conv_per_stage": 1, "n_conv_per_stage_decoder": 1},
    "rep3d.ResidualEncoderUNet": {"features_per_stage": 4, "n_blocks_per_stage": 1},
    "UNet": {"channels": 4},
    "SegResNet": {},
    "UNETR": {"feature_size": 4, "hidden_size": 24, "mlp_dim": 24, "num_heads": 2},
    "SwinUNETR": {"feature_size": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]},
}
DIVISORS = {"SegResNet": 8, "SwinUNETR": 32, "UNETR": None}  # others: 16, or as many stages say
UNUSED = {"UNETR": r"norm_cross_attn\."}  # parameters that the library defines for nothing
SCRIPTED = ("rep3d.Rep3D", "rep3d.UXNet", "rep3d.MedNeXt", "rep3d.MedNeXtV2", "UNet", "SegResNet")  # others are traced
RECOMPUTING = ("rep3d.Rep3D", "rep3d.UXNet", "rep3d.MedNeXt", "rep3d.MedNeXtV2", "SwinUNETR")


def small_definition(path: Path) -> dict:
    definition = json.loads(path.read_text(encoding="utf-8"))["network_def"]
    for name, value in SMALL[definition["_target_"]].items():
        several = isinstance(definition.get(name), list) and not isinstance(value, list)
        definition[name] = [value] * len(definition[name]) if several else value
    return definition


def definitions() -> dict[str, dict]:
    """By name; one of those that are alike when they are small."""
    paths = [path for path in sorted(ROOT.glob("configs/networks/*.json")) if "network_def" in path.read_text("utf-8")]
    distinct = {json.dumps(small_definition(path), sort_keys=True): path for path in reversed(paths)}
    return {path.stem: json.loads(text) for text, path in distinct.items()}


DEFINITIONS = definitions()
each = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if "swin" in name else []) for name in sorted(DEFINITIONS)]
)


def stages(name: str) -> int:
    return DEFINITIONS[name].get("n_stages", 0)


def patch_size(name: str) -> list[int]:
    return [64, 32, 32] if stages(name) > 5 or kind(name) == "SwinUNETR" else [32, 32, 32]


def kind(name: str) -> str:
    return DEFINITIONS[name]["_target_"]


def build(name: str, **arguments) -> nn.Module:
    torch.manual_seed(0)
    config = {"imports": ["$import torch", "$import monai", "$import rep3d"], "network_def": DEFINITIONS[name]}
    parser = ConfigParser({**config, "in_channels": 1, "out_channels": 3, "patch_size": patch_size(name), **arguments})
    parser.parse()
    return parser.get_parsed_content("network_def")


@pytest.fixture(scope="module")
def networks():
    """Shared: tests leave them as they are."""
    return {name: build(name).eval() for name in DEFINITIONS}


@pytest.fixture(scope="module")
def images():
    return {
        name: torch.randn(1, 1, *patch_size(name), generator=torch.Generator().manual_seed(0)) for name in DEFINITIONS
    }


def test_every_class_has_a_small_form():
    assert {kind(name) for name in DEFINITIONS} == set(SMALL)


@each
def test_two_steps(name, images):
    """As the bundles take them; every parameter learns, and evaluation gets one output of full size."""
    network = build(name).train()
    check_patch_size(network, 1, 3, patch_size(name))
    optimizer = torch.optim.AdamW(parameter_groups(network), lr=1e-3)
    loss_function = DeepSupervisionLoss(DiceCELoss(to_onehot_y=True, softmax=True))
    label, inferer = (images[name] > 0).float(), AutocastInferer(lambda x, network: network(x), enabled=False)
    learnt = set()
    for _ in range(2):
        optimizer.zero_grad()
        loss = loss_function(inferer(images[name], network), label)
        loss.backward()
        optimizer.step()
        learnt |= {key for key, one in network.named_parameters() if one.grad is not None and one.grad.any()}
        assert torch.isfinite(loss)
    assert {key for key, _ in network.named_parameters() if not re.search(UNUSED.get(kind(name), "^$"), key)} == learnt
    with torch.no_grad():
        assert network.eval()(images[name]).shape == (1, 3, *patch_size(name))


@each
def test_decay_acts_on_kernels_only(name, networks):
    decayed, spared, *_ = ({id(p) for p in group["params"]} for group in parameter_groups(networks[name]))
    parameters = dict(networks[name].named_parameters())
    assert len(decayed) + len(spared) == len(parameters)
    for key, parameter in parameters.items():
        spatial = parameter.ndim > 1 and not POSITION_TABLE.search(key) and "response" not in key
        assert (id(parameter) in decayed) == spatial, key


@each
def test_folded(name, networks, images, relative_error, tmp_path):
    """Also from a file, as inference does it."""
    torch.save(networks[name].state_dict(), tmp_path / "model.pt")
    with torch.no_grad():
        expected = networks[name](images[name])
        assert relative_error(reparameterize(networks[name])(images[name]), expected) < 1e-5
        assert relative_error(load_deployed(build(name), tmp_path / "model.pt")(images[name]), expected) < 1e-5


@each
def test_recomputing(name, images, relative_error):
    """The same gradients; networks whose library offers none stay as they are."""
    plain, recomputing = build(name).train(), build(name).train()
    recompute(recomputing)
    flags = [module.use_checkpoint for module in recomputing.modules() if hasattr(module, "use_checkpoint")]
    assert bool(flags) == all([*flags, kind(name) in RECOMPUTING]) and any(flags) == (kind(name) in RECOMPUTING)
    if not flags:
        return
    for network in (plain, recomputing):
        outputs = network(images[name])
        sum(y.square().mean() for y in (outputs if isinstance(outputs, list) else [outputs])).backward()
    largest = max(parameter.grad.abs().max() for parameter in plain.parameters())
    for one, other in zip(plain.parameters(), recomputing.parameters(), strict=True):
        assert (one.grad - other.grad).abs().max() < 1e-4 * largest


@each
def test_windows(name, networks):
    """Of edges that the network takes, whatever is asked for."""
    divisor = DIVISORS.get(kind(name), 2 ** (stages(name) - 1) if stages(name) else 16)
    assert divisor_of(networks[name]) == divisor
    asked = [edge - 3 for edge in patch_size(name)]
    with torch.no_grad():
        label = LabelMapInferer(asked, divisor=16)(torch.randn(1, 1, 20, 41, 37), networks[name])
    assert label.shape == (1, 1, 20, 41, 37)


@each
def test_features(name, networks, images):
    """What the app's active learning tells images apart by."""
    with torch.no_grad():
        features = encoder_features(networks[name], torch.cat([images[name], -images[name]]))
    assert features.ndim == 2 and features.shape[1] >= 4 and features.isfinite().all()
    assert (features[0] - features[1]).abs().max() > 0


@pytest.mark.slow
@each
def test_torchscript(name, networks, images, relative_error):
    """Scripted where the network's code allows it, else traced, for images of this size."""
    deployed = reparameterize(networks[name])
    with torch.no_grad():
        if kind(name) in SCRIPTED:
            exported = torch.jit.script(deployed)
        else:
            exported = torch.jit.trace(deployed, images[name], check_trace=False)  # which is checked below
        other = images[name].flip(2)
        assert relative_error(exported(other), deployed(other)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    "bundle, name",
    zip(AUTOMATIC, ["unet", "segresnet", "nnunet_tiny", "nnunet_resenc_tiny", "unetr", "swin_unetr"], strict=True),
    ids=lambda value: getattr(value, "name", value),
)
def test_a_training_of_each_bundle(bundle, name, tmp_path):
    """By its own commands, with scores; the weights are those of the overlay's network."""
    overlay = tmp_path / f"{name}.json"
    overlay.write_text(json.dumps({"network_def": DEFINITIONS[name]}), encoding="utf-8")
    dataset = make_dataset(tmp_path / "data", bundle, count=5)
    settings = {
        "dataset_dir": str(dataset),
        "ckpt_dir": str(tmp_path / "models"),
        "output_dir": str(tmp_path / "eval"),
        "patch_size": patch_size(name),
        "device": "cpu",
    }
    run_here(BundleRun(bundle, "training", [*TRAIN, overlay], settings | SHORT))
    assert read_weights(tmp_path / "models/model.pt").keys() == build(name).state_dict().keys()
    run_here(BundleRun(bundle, "evaluating", [*EVALUATE, overlay], settings | SHORT))
    assert (tmp_path / "eval/scores.csv").is_file()


@pytest.mark.parametrize("name", ["nnunet", "swin_unetr"])
def test_a_patch_that_does_not_fit_ends_the_training_at_its_start(name, tmp_path):
    overlay = ROOT / f"configs/networks/{name}_tiny.json"
    run = BundleRun(
        ROOT / "bundles/msd_hippocampus",
        "training",
        [*TRAIN, overlay],
        {
            "dataset_dir": str(make_dataset(tmp_path / "data", ROOT / "bundles/msd_hippocampus", count=5)),
            "ckpt_dir": str(tmp_path / "models"),
            "output_dir": str(tmp_path / "eval"),
            "patch_size": [36, 32, 32],
        },
    )
    with pytest.raises(RuntimeError) as raised:
        initialize_here(run)
    assert str(root_cause(raised.value)).startswith("patch_size [36, 32, 32] does not fit")
    assert "expected multiples of" in str(root_cause(raised.value))
    assert not (tmp_path / "models/model.pt").exists()


@pytest.mark.parametrize("name", ["nnunet_tiny", "nnunet_resenc_tiny"])
def test_scales_in_training(name, images, monkeypatch):
    network = build(name).train()
    assert [tuple(y.shape[2:]) for y in network(images[name])] == [(32,) * 3, (16,) * 3, (8,) * 3]
    monkeypatch.setitem(DEFINITIONS, name, DEFINITIONS[name] | {"deep_supervision": False})
    assert build(name)(images[name]).shape == (1, 3, 32, 32, 32)


def test_a_missing_package_says_which_extra_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "dynamic_network_architectures.architectures", None)
    monkeypatch.delitem(sys.modules, "rep3d.networks.nnunet", raising=False)
    with pytest.raises(Exception) as raised:
        build("nnunet")
    assert describe(raised.value).endswith(': pip install "rep3d[baselines]"')


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nnunet_tiny", "unetr"])
def test_packed(name, relative_error, tmp_path):
    """As TorchScript, traced where it cannot be scripted, and as ONNX."""
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    bundle = tmp_path / "msd_hippocampus"
    shutil.copytree(ROOT / "bundles/msd_hippocampus", bundle, ignore=shutil.ignore_patterns("models"))
    for path in (bundle / "configs/train.json", bundle / "configs/inference.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(config | {"network_def": DEFINITIONS[name], "patch_size": patch_size(name)}))
    network, x = build(name).eval(), torch.randn(1, 1, *patch_size(name))
    torch.save(network.state_dict(), tmp_path / "model.pt")
    with zipfile.ZipFile(pack_bundle(bundle, tmp_path / "model.pt", tmp_path / "packed.zip")) as file:
        file.extractall(tmp_path / "unpacked")
    models = tmp_path / "unpacked/msd_hippocampus/models"
    with torch.no_grad():
        expected = network(x)
        assert relative_error(torch.jit.load(models / "model.ts")(x), expected) < 1e-5
    session = onnxruntime.InferenceSession(models / "model.onnx", providers=["CPUExecutionProvider"])
    assert relative_error(torch.from_numpy(session.run(None, {"image": x.numpy()})[0]), expected) < 1e-4
