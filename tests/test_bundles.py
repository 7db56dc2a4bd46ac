"""Every bundle, found by glob: its files, its configs against the code they drive, and whole runs on phantoms."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from pydoc import locate
from types import SimpleNamespace

import monai.bundle
import nibabel as nib
import numpy as np
import programs
import pytest
import torch
from bundle_helpers import (
    AUTOMATIC,
    BUNDLES,
    EVALUATE,
    INFERENCE,
    ROOT,
    SHORT,
    SMALL,
    TEST_CASES,
    TRAIN,
    TRAINED,
    assert_label_map,
    image_format,
    label_names,
    make_dataset,
    options,
    read,
    readme_commands,
    run,
    small_network,
    suffixless,
    takes_prompts,
    workflow,
)
from monai.bundle import ConfigParser, ckpt_export, verify_metadata, verify_net_in_out
from monai.bundle.config_item import ComponentLocator, ConfigComponent
from monai.bundle.reference_resolver import ReferenceResolver
from score_helpers import score_label_map

from rep3d.console.errors import root_cause
from rep3d.console.logs import file_only
from rep3d.console.status import read_status
from rep3d.data.lists import load_datalist
from rep3d.data.splits import make_splits
from rep3d.evaluation.scores import read_scores
from rep3d.training.checkpoints import load_deployed, read_weights

SCHEMA = ROOT / "tests/fixtures/metadata_schema.json"
REAL_DATA = ROOT.parent / "shared/data"
MULTI_GPU = ["train.json", "multi_gpu_train.json"]
METADATA_KEYS = {  # those of the bundles in the MONAI Model Zoo
    "schema", "version", "changelog", "monai_version", "pytorch_version", "numpy_version", "required_packages_version",
    "supported_apps", "name", "task", "description", "authors", "copyright", "data_source", "data_type",
    "image_classes", "label_classes", "pred_classes", "eval_metrics", "intended_use", "references",
    "network_data_format",
}  # fmt: skip

each_bundle = pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
each_automatic = pytest.mark.parametrize("bundle", AUTOMATIC, ids=lambda path: path.name)
each_config = pytest.mark.parametrize("files", [TRAIN, EVALUATE, MULTI_GPU, INFERENCE], ids=lambda files: files[-1])


# One that has the paper's recipe, and those that have not: configs of the others differ in their data's facts alone.
# Their whole runs are quick enough for every commit.
QUICK = ("interactive", "kits", "msd_hippocampus")


def runs_of(bundles):
    return [pytest.param(path, marks=[] if path.name in QUICK else pytest.mark.slow, id=path.name) for path in bundles]


@pytest.fixture(scope="module")
def train_once(tmp_path_factory):
    """Trains a bundle on a phantom for one epoch of two steps, unless an earlier test has."""
    done = {}

    def train(bundle):
        if bundle not in done:
            folder = tmp_path_factory.mktemp(bundle.name)
            dataset = make_dataset(folder / "data", bundle)
            run(bundle, TRAIN, dataset, folder, "training")
            done[bundle] = SimpleNamespace(bundle=bundle, dataset=dataset, folder=folder, models=folder / "models")
        return done[bundle]

    return train


@pytest.fixture(params=runs_of(BUNDLES))
def trained(request, train_once):
    """Each bundle, trained."""
    return train_once(request.param)


@pytest.fixture(params=runs_of(AUTOMATIC))
def automatic(request, train_once):
    """Each bundle that segments by itself, trained."""
    return train_once(request.param)


def quick_ones(bundles):
    return {"params": [path for path in bundles if path.name in QUICK], "ids": lambda path: path.name}


@pytest.fixture(**quick_ones(BUNDLES))
def example(request, train_once):
    """One bundle of each kind, trained: for what the data's facts do not change."""
    return train_once(request.param)


@pytest.fixture(**quick_ones(AUTOMATIC))
def automatic_example(request, train_once):
    """The same, of those that segment by themselves."""
    return train_once(request.param)


@pytest.fixture
def models(example, tmp_path):
    """A folder with a copy of the trained models."""
    shutil.copytree(example.models, tmp_path / "models")
    return tmp_path / "models"


# --- files


def test_there_are_bundles():
    names = {path.name for path in BUNDLES}
    automatic = {"amos_ct", "amos_mri", "kits", "msd_hepatic_vessel", "msd_hippocampus", "msd_pancreas"}
    assert names == {*automatic, "interactive"} and {path.name for path in AUTOMATIC} == automatic


@each_bundle
def test_required_files(bundle):
    configs = ["train", "inference", "evaluate", "multi_gpu_train", "metadata"]
    configs += [] if takes_prompts(bundle) else ["refine", "choose_refinement", "multi_gpu_evaluate"]
    for name in (*(f"configs/{name}.json" for name in configs), "configs/logging.conf", "docs/README.md", "LICENSE"):
        assert (bundle / name).stat().st_size > 0, name
    for path in bundle.glob("configs/*.json"):
        json.loads(path.read_text(encoding="utf-8"))


@each_bundle
def test_metadata(bundle):
    metadata = read(bundle, "metadata")
    assert metadata.keys() >= METADATA_KEYS
    assert metadata["version"] in metadata["changelog"]
    for tensor in (image_format(bundle), metadata["network_data_format"]["outputs"]["pred"]):
        assert list(tensor["channel_def"]) == [str(i) for i in range(tensor["num_channels"])]
    assert image_format(bundle)["spatial_shape"] == read(bundle, "inference")["patch_size"]


@each_automatic
def test_labels_in_the_metadata(bundle):
    labels = label_names(bundle)
    pred = read(bundle, "metadata")["network_data_format"]["outputs"]["pred"]
    assert list(pred["channel_def"].values()) == labels and len(labels) == len(set(labels))
    assert read(bundle, "inference")["label_names"] == labels


@each_bundle
def test_required_packages(bundle):
    """As the model zoo installs them: by name and version."""
    packages = read(bundle, "metadata")["required_packages_version"]
    assert "rep3d" in packages
    for name, version in packages.items():
        assert re.fullmatch(r"\d+(\.\d+)+", version), name
        assert importlib.metadata.version(name)


@each_bundle
def test_metadata_follows_the_schema(bundle):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.validate(read(bundle, "metadata"), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**read(bundle, "metadata"), "version": 1}, schema)


def test_verify_metadata(tmp_path):
    pytest.importorskip("jsonschema")
    shutil.copy(SCHEMA, tmp_path / "schema.json")  # MONAI downloads it only where it is not there
    verify_metadata(meta_file=str(BUNDLES[0] / "configs/metadata.json"), filepath=str(tmp_path / "schema.json"))


@each_bundle
def test_readme(bundle):
    text = (bundle / "docs/README.md").read_text(encoding="utf-8")
    assert not re.search(r"\{\w*\}", text), "a placeholder was left"
    for index, name in enumerate([] if takes_prompts(bundle) else label_names(bundle)):
        assert f"{index} {name}" in text
    for name in re.findall(r"configs/\w+\.json", text):
        assert (bundle / name).is_file(), name


def test_bundles_of_the_paper_differ_in_facts_alone():
    """So that `example` speaks for all of them."""
    of_data = {"epochs", "intensity_window", "known_values", "label_names", "modality", "spacing", "val_interval"}
    recipe = {path.stem for path in ROOT.glob("configs/datasets/*.json") if "recipe" in json.loads(path.read_text())}
    assert {path.name for path in BUNDLES} - recipe < set(QUICK)
    for path in AUTOMATIC[0].glob("configs/*.json"):
        if path.stem != "metadata":
            of_recipe = [read(bundle, path.stem) for bundle in AUTOMATIC if bundle.name in recipe]
            one, *others = [{key: config[key] for key in config.keys() - of_data} for config in of_recipe]
            assert all(other == one for other in others), path.name


# --- configs against the code


def walk(config, key=""):
    """Every value of a config with its id."""
    yield key, config
    pairs = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for name, value in pairs:
        yield from walk(value, f"{key}::{name}" if key else str(name))


@each_bundle
@each_config
def test_targets_and_references_exist(bundle, files):
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs" / name) for name in files])
    parser.parse()
    locator = ComponentLocator()
    for key, value in walk(parser.config):
        if isinstance(value, dict) and "_target_" in value:
            target = ConfigComponent(value, key, locator).resolve_module_name()
            assert callable(locate(target)), f"{key}: {target}"
        if isinstance(value, str):
            for reference in ReferenceResolver.match_refs_pattern(value):
                assert reference in parser, f"{key}: {value}"
    for name in re.findall(r"rep3d(?:\.\w+)+", json.dumps(parser.config)):
        assert locate(name) is not None, name


@each_bundle
@pytest.mark.parametrize("files", [TRAIN, INFERENCE], ids=lambda files: files[-1])
def test_run_ids(bundle, files):
    config = read(bundle, Path(files[0]).stem)
    assert config["run"] == config["training" if files == TRAIN else "evaluating"]


@pytest.mark.parametrize("files", [TRAIN, EVALUATE, INFERENCE], ids=lambda files: files[-1])
def test_everything_is_instantiated(files, trained, tmp_path):
    shutil.copytree(trained.models, tmp_path / "models")
    created = workflow(trained.bundle, files, trained.dataset, tmp_path)
    assert created.check_properties() == []
    for key in created.parser.config:
        if key not in ("run", "training", "evaluating", "initialize", "imports", "_meta_"):
            created.parser.get_parsed_content(key)


@each_bundle
def test_verify_net_in_out(bundle):
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(bundle / "configs/metadata.json"),
        config_file=str(bundle / "configs/inference.json"),
        **SMALL,
        **{"_meta_#network_data_format#inputs#image#spatial_shape": [32, 32, 32]},
    )


# --- whole runs


def test_training_leaves_its_files(trained):
    assert sorted(path.name for path in trained.models.iterdir()) == TRAINED
    told = json.loads((trained.models / "as_trained.json").read_text(encoding="utf-8"))
    inference = read(trained.bundle, "inference")
    assert told["network_def"]["kernel_size"] == SMALL["network_def#kernel_size"]
    if not takes_prompts(trained.bundle):
        own = {"label_names", "spacing", "intensity_window", "preprocessing", "out_channels", "channel_names"}
        assert own <= told.keys() and all(told[name] == inference[name] for name in own)
        assert told["patch_size"] == SMALL["patch_size"]
    of_a_run = {"imports", "dataset_dir", "device", "refinement", "sw_batch_size", "max_grid_bytes", "modality"}
    assert not told.keys() & of_a_run
    status = read_status(trained.models / "training.status.json")
    assert (status.state, status.epoch, status.step, status.steps) == ("finished", 1, 2, 2)
    assert {"seed", "batch_size", "learning_rate", "hours"} <= status.settings.keys()
    assert status.settings["patch_size"] == SMALL["patch_size"] and not {"fold", "device"} & status.settings.keys()
    assert list(trained.folder.glob("eval/tensorboard/events*"))
    weights = read_weights(trained.models / "model.pt")
    assert weights.keys() == small_network(trained.bundle).state_dict().keys()
    assert all(tensor.isfinite().all() for tensor in weights.values())
    last = torch.load(trained.models / "last.pt", weights_only=True)
    assert last["epoch"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("refine", [False, True])
def test_scores_are_those_of_the_written_label_maps(refine, automatic, tmp_path):
    """Per case and label, in the grid of the labels."""
    if refine:
        pytest.importorskip("skimage")
    refinement = ["refine.json"] if refine else []
    override = {"ckpt_dir": str(automatic.models)}
    run(automatic.bundle, EVALUATE + refinement, automatic.dataset, tmp_path, "evaluating", **override)
    run(automatic.bundle, INFERENCE + refinement, automatic.dataset, tmp_path, **override)
    scores, names = read_scores(tmp_path / "eval"), label_names(automatic.bundle)
    items = load_datalist(automatic.dataset, "test")
    assert sorted(scores) == sorted(suffixless(Path(item["image"])) for item in items) and len(items) == TEST_CASES
    for item in items:
        case = suffixless(Path(item["image"]))
        pred, label = (nib.load(path) for path in (tmp_path / f"eval/{case}_seg.nii.gz", item["label"]))
        masks, ids = (np.asarray(volume.dataobj) for volume in (pred, label)), range(1, len(names))
        expected = score_label_map(*masks, ids, nib.affines.voxel_sizes(label.affine))
        assert list(scores[case]) == names[1:]
        for i in ids:
            assert scores[case][names[i]] == pytest.approx(expected[i], rel=1e-3, nan_ok=True)
    assert (tmp_path / "eval/summary.md").read_text(encoding="utf-8").startswith(f"Means over {TEST_CASES} case(s)")


@pytest.mark.slow
def test_ensemble_of_checkpoints(automatic_example, tmp_path):
    """The label maps of the mean softmax of two networks."""
    other = small_network(automatic_example.bundle).state_dict()
    torch.save(other, tmp_path / "other.pt")
    checkpoints = [str(automatic_example.models / "model.pt"), str(tmp_path / "other.pt")]
    created = workflow(automatic_example.bundle, INFERENCE, automatic_example.dataset, tmp_path, checkpoint=checkpoints)
    x = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        single = [load_deployed(small_network(automatic_example.bundle), path)(x).softmax(1) for path in checkpoints]
        ensemble = created.parser.get_parsed_content("network").eval()(x)
    torch.testing.assert_close(ensemble, sum(single) / 2)
    created.run()
    assert len(list((tmp_path / "eval").glob("*_seg.nii.gz"))) == TEST_CASES


def test_monai_loads_it_from_another_folder(example, tmp_path, monkeypatch):
    """By default the config that trains tells the network; there are no data."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    elsewhere = tmp_path / "elsewhere" / example.bundle.name
    shutil.copytree(example.bundle / "configs", elsewhere / "configs")
    shutil.copytree(example.models, elsewhere / "models")
    small = {name.partition("#")[2]: value for name, value in SMALL.items() if name.startswith("network_def#")}
    place = {"bundle_dir": str(elsewhere.parent), "net_override": small}
    told = monai.bundle.load(elsewhere.name, workflow_type="inference", **place).eval()
    by_default = monai.bundle.load(elsewhere.name, **place).eval()
    x = torch.randn(1, image_format(example.bundle)["num_channels"], 32, 32, 32)
    with torch.no_grad():
        expected = load_deployed(small_network(example.bundle), example.models / "model.pt")(x)
        for loaded in (told, by_default):
            torch.testing.assert_close(loaded(x), expected, rtol=1e-4, atol=1e-4)
    assert list(Path.cwd().iterdir()) == []  # loading leaves nothing behind


def test_folds(example, tmp_path):
    """Each fold trains on its own cases, and its weights lie apart."""
    cases = [suffixless(path) for path in (example.dataset / "imagesTr").iterdir()]
    dataset = tmp_path / "data"
    shutil.copytree(example.dataset, dataset)
    splits = make_splits(cases, {"training": 6, "validation": 1, "test": 1}, folds=3)
    (dataset / "splits.json").write_text(json.dumps(splits), encoding="utf-8")
    for fold, models in ((0, "models/trained"), (2, "models/trained/fold2")):
        parser = ConfigParser()
        parser.read_config(str(example.bundle / "configs/train.json"))
        parser.update({"fold": fold, "dataset_dir": str(dataset), "bundle_root": "root"})
        data = parser.get_parsed_content("train#dataset#data")
        assert sorted(suffixless(Path(item["image"])) for item in data) == splits[fold]["train"]
        assert parser.get_parsed_content("ckpt_dir") == f"root/{models}"


@pytest.mark.slow
def test_inference_writes_label_maps_on_the_images_own_grid(automatic, tmp_path):
    images = tmp_path / "plain folder"
    images.mkdir()
    for item in load_datalist(automatic.dataset, "test"):  # one is smaller than the patch
        shutil.copy(item["image"], images)
    override = {"ckpt_dir": str(automatic.models)}
    run(automatic.bundle, INFERENCE, images, tmp_path, "evaluating", **override)
    written = sorted(path.name for path in (tmp_path / "eval").glob("*_seg.nii.gz"))
    assert written == sorted(f"{suffixless(path)}_seg.nii.gz" for path in images.iterdir())
    for image in images.iterdir():
        path = tmp_path / "eval" / f"{suffixless(image)}_seg.nii.gz"
        assert_label_map(path, image, len(label_names(automatic.bundle)))


def test_inference_goes_on_after_bad_files(automatic_example, tmp_path, caplog):
    good = Path(load_datalist(automatic_example.dataset, "test")[0]["image"])
    scans = tmp_path / "scans"
    scans.mkdir()
    for name in ("a_good", "z_good"):
        shutil.copy(good, scans / f"{name}.nii.gz")
    volume = nib.load(good)
    voxels = np.asarray(volume.dataobj).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels[:, :, 0], volume.affine), scans / "flat.nii.gz")
    voxels[2, 3, 4] = np.nan
    nib.save(nib.Nifti1Image(voxels, volume.affine), scans / "holes.nii.gz")
    (scans / "nothing.nii.gz").touch()
    override = {"ckpt_dir": str(automatic_example.models)}
    with pytest.raises(RuntimeError) as raised:
        run(automatic_example.bundle, INFERENCE, scans, tmp_path, **override)
    message = str(root_cause(raised.value))
    assert message.startswith("3 of 5 case(s) could not be segmented")
    for name in ("flat", "holes", "nothing"):
        assert str(scans / f"{name}.nii.gz") in message
    assert "NaN" in message and "expected three dimensions" in message
    written = sorted(path.name for path in (tmp_path / "eval").glob("*_seg*"))
    assert written == [f"{case}_good_seg.{suffix}" for case in "az" for suffix in ("json", "nii.gz")]
    assert_label_map(tmp_path / "eval/z_good_seg.nii.gz", good, len(label_names(automatic_example.bundle)))
    shown = [record.getMessage() for record in caplog.records if record.name != file_only.name]
    assert "Traceback" not in "".join(shown)


def test_training_stops_at_once_for_bad_files(example, tmp_path):
    dataset = tmp_path / "data"
    shutil.copytree(example.dataset, dataset)
    path = Path(load_datalist(dataset, "training")[1]["label"])
    label = nib.load(path)
    nib.save(nib.Nifti1Image(np.full(label.shape, 77.5, np.float32), label.affine), path)
    with pytest.raises(RuntimeError) as raised:
        workflow(example.bundle, TRAIN, dataset, tmp_path / "out")
    assert re.search(rf"{path.name}: label value\(s\) \[77.5\]", str(root_cause(raised.value)))
    assert [path.name for path in (tmp_path / "out/models").glob("[!.]*")] == ["training.log"]


@pytest.mark.slow
def test_resume(example, models, tmp_path):
    before = read_weights(models / "last.pt")
    resumed = run(example.bundle, TRAIN, example.dataset, tmp_path, "training", resume="true", epochs=2)
    trainer = resumed.parser.get_parsed_content("train#trainer")
    assert (trainer.state.epoch, trainer.state.iteration) == (2, 4)
    last = torch.load(models / "last.pt", weights_only=True)
    assert last["epoch"] == 2
    assert not torch.equal(last["network"]["out.conv.conv.weight"], before["out.conv.conv.weight"])
    assert sorted(path.name for path in models.iterdir()) == TRAINED
    assert read_status(models / "training.status.json").step == 4
    log = (models / "training.log").read_text(encoding="utf-8")
    assert "epoch 1/1, step 2/2" in log and "epoch 2/2, step 4/4" in log  # appended


def test_init_from(example, models, tmp_path):
    file = str(models / "model.pt")
    created = workflow(example.bundle, TRAIN, example.dataset, tmp_path, init_from=file)
    state = created.parser.get_parsed_content("network_def").state_dict()
    for name, tensor in read_weights(models / "model.pt").items():
        assert torch.equal(state[name], tensor), name


@pytest.mark.slow
def test_same_seed_same_weights(example, tmp_path):
    weights = []
    for name, seed in (("again", 0), ("other", 1)):
        run(example.bundle, TRAIN, example.dataset, tmp_path / name, seed=seed)
        weights.append(read_weights(tmp_path / name / "models/last.pt"))
    first = read_weights(example.models / "last.pt")
    assert all(torch.equal(first[name], weights[0][name]) for name in first)
    assert not all(torch.equal(first[name], weights[1][name]) for name in first)


@pytest.mark.slow
def test_torchscript_export(example, tmp_path):
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(example.models / "model.pt"),
        meta_file=str(example.bundle / "configs/metadata.json"),
        config_file=str(example.bundle / "configs/inference.json"),
        **SMALL,
    )
    x = torch.randn(1, image_format(example.bundle)["num_channels"], 32, 48, 32)
    with torch.no_grad():
        expected = load_deployed(small_network(example.bundle), example.models / "model.pt")(x)
        torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts").eval()(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real volumes are not here")
@pytest.mark.parametrize(
    ("name", "scan", "orders"),
    [("amos_ct", "abdomen_ct", ("RAS", "LPS", "LAS", "IPL")), ("amos_mri", "abdomen_mr", ("RAS", "IPL"))],
)
def test_inference_of_a_real_volume(name, scan, orders, tmp_path):
    """The same labels at the same places of its middle, several windows, in whatever order the voxels are stored."""
    bundle, original = ROOT / "bundles" / name, nib.load(REAL_DATA / scan / "image.nii.gz").slicer[30:86, 20:76]
    (tmp_path / "models").mkdir()
    torch.manual_seed(0)
    torch.save(small_network(bundle).state_dict(), tmp_path / "models/model.pt")
    settings = {"patch_size": [96, 96, 48], "sliding_window#inferer#overlap": 0.25}
    label_maps = {}
    for codes in orders:
        nib.save(reoriented(original, codes), tmp_path / f"{codes}.nii.gz")
        run(bundle, INFERENCE, tmp_path / f"{codes}.nii.gz", tmp_path, **settings)
        written = tmp_path / f"eval/{codes}_seg.nii.gz"
        assert_label_map(written, tmp_path / f"{codes}.nii.gz", len(label_names(bundle)))
        label_maps[codes] = np.asarray(reoriented(nib.load(written), "RAS").dataobj)
        assert (label_maps[codes] == label_maps["RAS"]).mean() > 0.999
    assert len(np.unique(label_maps["RAS"])) > 1


def reoriented(volume, codes: str):
    """The volume with its voxels stored in another order."""
    wanted = nib.orientations.axcodes2ornt(codes)
    return volume.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(volume.affine), wanted))


# --- as users type them


ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A repository with one bundle and a data set, to write into."""
    folder = tmp_path_factory.mktemp("checkout") / "with space"
    bundle = folder / "bundles/msd_hippocampus"
    ignore = shutil.ignore_patterns("eval", "*.pt")
    shutil.copytree(ROOT / "bundles/msd_hippocampus", bundle, ignore=ignore)
    make_dataset(folder / "data set", bundle, count=5)
    return SimpleNamespace(root=folder, bundle=bundle, dataset=folder / "data set")


def typed(words: list[str], dataset: Path, **settings) -> list[str]:
    """A README command with this interpreter and data set, and the small network."""
    words = [str(dataset) if word in ("DIR", "SCANS") else word for word in words]
    return [sys.executable, *words[1:], *options(**settings)]


@pytest.mark.slow
def test_readme_commands_in_the_bundles_folder(checkout, tmp_path):
    training, evaluation, inference = readme_commands(checkout.bundle, "python")
    place = {"cwd": checkout.bundle, "environment": ENVIRONMENT, "output": tmp_path / "printed.txt"}
    programs.execute(typed(training, checkout.dataset, **SMALL, **SHORT), **place)
    assert (checkout.bundle / "models/trained/model.pt").is_file()
    printed = programs.execute(typed(evaluation, checkout.dataset, **SMALL), **place)
    assert (checkout.bundle / "eval/scores.csv").is_file(), printed
    programs.execute(typed(inference, checkout.dataset, **SMALL), **place)
    assert len(list(checkout.bundle.glob("eval/*_seg.nii.gz"))) == len(load_datalist(checkout.dataset, "test"))
    left = {path.name for path in checkout.bundle.iterdir()}
    assert left == {"configs", "docs", "models", "eval", "LICENSE"}


@pytest.mark.slow
def test_commands_in_the_repositorys_folder(checkout, tmp_path):
    """Without a run id, as MONAI Label runs bundles; the weights are of another folder."""
    python = [sys.executable, "-m", "monai.bundle", "run"]
    folder = "bundles/msd_hippocampus"
    common = {"bundle_root": folder, "dataset_dir": "data set", "output_dir": tmp_path / "out"}
    weights = {"ckpt_dir": tmp_path / "models"}
    settings = {**common, **weights, **SMALL}
    place = {"cwd": checkout.root, "environment": ENVIRONMENT, "output": tmp_path / "printed.txt"}
    programs.execute([*python, *options(config_file=f"{folder}/configs/train.json", **settings, **SHORT)], **place)
    assert (tmp_path / "models/model.pt").is_file()
    programs.execute([*python, *options(config_file=f"{folder}/configs/inference.json", **settings)], **place)
    assert len(list(tmp_path.glob("out/*_seg.nii.gz"))) == len(load_datalist(checkout.dataset, "test"))
    assert {path.name for path in checkout.root.iterdir()} == {"bundles", "data set"}


@pytest.mark.slow
def test_error_of_a_command_is_one_line(checkout, tmp_path):
    status = checkout.bundle / "models/trained/training.status.json"
    before = read_status(status)  # of a training that another test ran here, or none
    words = typed(readme_commands(checkout.bundle, "python")[0], tmp_path / "nowhere")
    result = subprocess.run(words, cwd=checkout.bundle, capture_output=True, text=True, check=False)
    assert result.returncode != 0 and "Traceback" not in result.stdout + result.stderr
    last = result.stderr.rstrip().splitlines()[-1]
    assert re.match(r"FileNotFoundError: dataset_dir '.*nowhere' does not exist.*--dataset_dir DIR", last)
    assert "Traceback" in (checkout.bundle / "models/trained/training.log").read_text(encoding="utf-8")
    assert read_status(status) == before  # refused before it began
