"""What is typed is done, or refused: before anything is read or written."""

import json
import sys

import numpy as np
import pytest
from bundle_helpers import BUNDLES, EVALUATE, INFERENCE, ROOT, SHORT, SMALL, TRAIN, read, takes_prompts
from fire.parser import DefaultParseValue
from monai.bundle import ConfigWorkflow

from rep3d.console.configurations import is_runnable, option_ids, plain_values, undefined_ids, unused_ids
from rep3d.console.errors import root_cause
from rep3d.console.nearest import nearest
from rep3d.console.options import refuse_training_options
from rep3d.console.typed import as_text

BUNDLE = ROOT / "bundles/msd_hippocampus"
RUN_IDS = {"train.json": "training", "evaluate.json": "evaluating", "inference.json": "evaluating"}
MULTI_GPU = ["train.json", "multi_gpu_train.json"]


def check(files, run_id=None, overlay=None, folder=None, bundle=BUNDLE, known="@known_ids, @known_values", **override):
    """A command's workflow after the check of its options, which is all that `initialize` does here."""
    paths = [str(bundle / "configs" / name) for name in files]
    if overlay is not None:
        (folder / "overlay.json").write_text(json.dumps(overlay), encoding="utf-8")
        paths.append(str(folder / "overlay.json"))
    initialize = [f"$rep3d.console.check_options({known})"]
    workflow = ConfigWorkflow(
        config_file=paths,
        meta_file=str(bundle / "configs/metadata.json"),
        logging_file=False,
        run_id=run_id or RUN_IDS.get(files[-1], "training"),
        initialize=initialize,
        **override,
    )
    workflow.initialize()
    return workflow.parser


def refusal(*arguments, **override) -> str:
    with pytest.raises(RuntimeError) as raised:
        check(*arguments, **override)
    assert isinstance(root_cause(raised.value), ValueError)
    return str(root_cause(raised.value))


@pytest.mark.parametrize(
    ("files", "option", "near"),
    [
        (TRAIN, "epoch", "epochs"),
        (TRAIN, "datasetdir", "dataset_dir"),
        (TRAIN, "train#batch_sise", "batch_size"),
        (TRAIN, "validate#datset", "validate#dataset"),
        (EVALUATE, "outputdir", "output_dir"),
        (INFERENCE, "sw_batchsize", "sw_batch_size"),
        (INFERENCE, "checkpoints", "checkpoint"),
    ],
)
def test_misspelt_options(files, option, near):
    assert refusal(files, **{option: 1}) == (
        f"unknown option {option!r}, nothing in the bundle's configuration uses it, did you mean {near!r}?"
    )


@pytest.mark.parametrize(("files", "option"), [(INFERENCE, "fold"), (INFERENCE, "epochs"), (TRAIN, "xyzzy")])
def test_options_of_another_command(files, option):
    """What inference would have ignored: its weights are `--checkpoint`, not `--fold`."""
    assert refusal(files, **{option: 1}).startswith(f"unknown option {option!r}, nothing in")


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
@pytest.mark.parametrize("files", [TRAIN, MULTI_GPU, EVALUATE, INFERENCE], ids=lambda files: files[-1])
def test_the_bundles_own_options(files, bundle):
    check(files, bundle=bundle)
    refinement = [] if takes_prompts(bundle) else ["refine.json"]
    check([*files, *refinement], bundle=bundle, run_id=RUN_IDS.get(files[-1], "training"), **SMALL)


def test_options_of_tests_of_the_app_and_of_monai_label():
    check(TRAIN, **SMALL, **SHORT, resume="auto", init_from="a.pt", progress_seconds=2, fold=1)
    of_monai_label = {"bundle_root": "x", "train#trainer#max_epochs": 2, "train#dataset#data": [], "device": "cpu"}
    of_monai_label |= {"validate#dataset#data": [], "train#handlers": [{"_target_": "StatsHandler"}]}
    check(TRAIN, run_id="run", **of_monai_label)
    of_inference = {"sliding_window#inferer#sw_device": "@device", "sliding_window#inferer#overlap": 0.5}
    check(INFERENCE, **of_inference, **{"dataset#data": [{"image": "a"}], "sliding_window#inferer#progress": False})


@pytest.mark.parametrize(
    "overlay",
    [
        {"margin": 3, "train#trainer#max_epochs": "$@margin + 1"},
        {"settings": {"rate": 0.1}, "learning_rate": "@settings#rate"},
        {"settings": {"rate": 0.1}, "learning_rate": "$min(@settings.values())"},
        {"verify": ["$print(1)"]},
        {"_note": "for the paper"},
    ],
)
def test_overlays_may_define_what_they_use(overlay, tmp_path):
    check(TRAIN, overlay=overlay, folder=tmp_path)


def test_overlays_that_are_misspelt(tmp_path):
    assert "did you mean 'epochs'?" in refusal(TRAIN, overlay={"epoch": 3}, folder=tmp_path)


@pytest.mark.parametrize(
    ("files", "run_id", "near"),
    [
        (TRAIN, "train", "training"),
        (TRAIN, "trainning", "training"),
        (TRAIN, "epochs", ""),
        (TRAIN, "device", ""),
        (TRAIN, 5, ""),
        (TRAIN, "evaluating", ""),
        (TRAIN, "imports", ""),
        (TRAIN, "initialize", ""),
        (INFERENCE, "preprocessing#transforms", ""),
        (EVALUATE, "training", ""),
        (INFERENCE, "evaluate", "evaluating"),
        (INFERENCE, "evaluator", "evaluating"),
    ],
)
def test_run_ids_that_run_nothing(files, run_id, near):
    message = refusal(files, run_id=run_id)
    expected = "training, run" if files == TRAIN else "evaluating, run"
    assert message.startswith(f"run id {str(run_id)!r} runs nothing, expected one of {expected}")
    assert message.endswith(f", did you mean {near!r}?") or not near


@pytest.mark.parametrize("form", [["--{}", "{}"], ["--{}={}"], ["-{}", "{}"]], ids=["space", "equals", "one dash"])
@pytest.mark.parametrize(
    ("name", "typed", "value"),
    [
        ("dataset_dir", "2024_01_05", 20240105),
        ("ckpt_dir", "1e3", 1000.0),
        ("output_dir", "0x10", 16),
        ("init_from", "1_0", 10),
        ("bundle_root", "True", True),
        ("dataset_dir", "a,b", ("a", "b")),
        ("dataset_dir", "scans#2", "scans"),
        ("output_dir", "/data/Patient #2's@home", "/data/Patient #2's@home"),
        ("ckpt_dir", "(a)", "a"),
        ("dataset_dir", "/data/a::b", "/data/a::b"),
    ],
)
def test_folders_that_look_like_python(name, typed, value, form, monkeypatch):
    words = "\n".join(form).format(name, typed).split("\n")
    monkeypatch.setattr(sys, "argv", ["run", "--epochs", "3", *words, "--seed", "1"])
    assert DefaultParseValue(typed) == value
    assert check(TRAIN, **{name: value}).get_parsed_content(name) == typed


def test_quoted_folders(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run", "--output_dir", "'a #1'", "--dataset_dir", "scans"])
    parser = check(TRAIN, output_dir="a #1", dataset_dir="of a caller", init_from="$'a' + @dataset_dir")
    assert parser.get_parsed_content("output_dir") == "a #1"
    assert parser.get_parsed_content("init_from") == "aof a caller"


def test_several_files_with_a_sign(monkeypatch):
    files = ["a#1.pt", "b::2.pt", "c.pt"]
    monkeypatch.setattr(sys, "argv", ["run", "--checkpoint", str(files)])
    assert check(INFERENCE, checkpoint=list(files)).get_parsed_content("checkpoint") == files


@pytest.mark.parametrize("path", ["runs #2", "runs ::2"])
def test_paths_that_a_configuration_takes_for_others(path, tmp_path):
    """Where nobody typed them."""
    said = "is 'runs ::2', or with # for ::, which a configuration takes alike: expected a path without them"
    assert refusal(TRAIN, output_dir=path) == f"output_dir {said}"
    assert refusal(INFERENCE, checkpoint=[path]) == f"checkpoint {said}"
    assert check(TRAIN, output_dir=as_text(path.replace("::", "#"))).get_parsed_content("output_dir") == "runs #2"


def test_folders_whose_text_is_lost():
    """As where a Python program gives a number."""
    assert refusal(TRAIN, dataset_dir=20240105) == (
        "dataset_dir is 20240105, expected text: write a name that looks like a number as ./NAME"
    )


def test_true_and_false_in_words():
    """`--keep_freed_memory false` arrives as text, which Python takes for true."""
    parser = check(TRAIN, keep_freed_memory="false", resume="True", **{"train#dataloader#shuffle": "False"})
    assert parser["keep_freed_memory"] is False and parser["resume"] is True
    assert parser["train#dataloader#shuffle"] is False
    assert parser.get_parsed_content("keep_freed_memory") is False
    assert check(TRAIN, resume="auto")["resume"] == "auto"


# --- the parts


def test_ids():
    config = {"seed": 0, "train": {"data": {"_target_": "Dataset", "data": []}, "more": {"x": 1}}, "_meta_": {"y": 1}}
    assert list(option_ids(config)) == ["seed", "train", "train::data", "train::more", "train::more::x"]
    assert unused_ids({**config, "run": ["$@train#more"]}) == ["seed", "train::data"]
    assert undefined_ids({"a": "@b", "c": "$@a + @d#e", "f": [{"g": "@h::0"}]}) == ["b", "d::e", "h::0"]


def test_runnable():
    assert is_runnable(["$a", "$b"])
    assert not any(map(is_runnable, [[], ["$a", "b"], "$a", {"_target_": "x"}, None, 1]))


def test_nearest():
    assert nearest("epoch", ["epochs", "seed"]) == ", did you mean 'epochs'?"
    assert nearest("xyzzy", ["epochs", "seed"]) == ""


def test_known_ids_are_those_of_the_config():
    for name in ("train", "inference"):
        config = read(BUNDLE, name)
        ids, values = config.pop("known_ids"), config.pop("known_values")
        assert ids == list(option_ids(config)) and values == plain_values(config)


def test_a_folder_called_true(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["monai.bundle", "run", "--dataset_dir", "true"])
    assert check(TRAIN, dataset_dir="true")["dataset_dir"] == "true"


@pytest.mark.parametrize("typed", [["--dataset_dir"], ["--dataset_dir", "--epochs", "3"]])
def test_a_path_that_was_forgotten(typed, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["monai.bundle", "run", *typed])
    assert refusal(TRAIN, dataset_dir=True) == "--dataset_dir has no value, expected a path after it"


@pytest.mark.parametrize("files", [TRAIN, EVALUATE, INFERENCE], ids=lambda files: files[-1])
def test_a_stray_word(files, monkeypatch):
    """MONAI runs `folder` in the place of `initialize`, which is nothing."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    paths = [str(BUNDLE / "configs" / name) for name in files]
    workflow = ConfigWorkflow(config_file=paths, logging_file=False, run_id=RUN_IDS[files[-1]], init_id="folder")
    workflow.initialize()
    with pytest.raises(RuntimeError) as raised:
        workflow.run()
    assert str(root_cause(raised.value)).startswith("'folder' is no option: they begin with --")


@pytest.mark.parametrize("told", [("weights.pt", False), (None, "true"), (None, "auto")])
def test_an_evaluation_takes_a_checkpoint(told):
    with pytest.raises(ValueError, match="expected --checkpoint FILE"):
        refuse_training_options(*told)
    refuse_training_options(None, "False")


# --- what is given is of the kind of the bundle's own


@pytest.mark.parametrize(
    ("files", "option", "value", "expected"),
    [
        (TRAIN, "epochs", "three", "a whole number such as 110"),
        (TRAIN, "epochs", 1.5, "a whole number such as 110"),
        (TRAIN, "epochs", True, "a whole number such as 110"),
        (TRAIN, "epochs", [3], "a whole number such as 110"),
        (TRAIN, "learning_rate", "fast", "a number such as 0.002"),
        (TRAIN, "gradient_clipping", "off", "a number such as 12.0"),
        (TRAIN, "keep_freed_memory", "maybe", "true or false"),
        (TRAIN, "traceback", "yes", "true or false"),
        (TRAIN, "patch_size", [32, 48], "3 numbers such as [32, 48, 32]"),
        (TRAIN, "spacing", ["1mm", 1, 1], "3 numbers such as [1.0, 1.0, 1.0]"),
        (EVALUATE, "fold", "two", "a whole number such as 0"),
        (INFERENCE, "sw_batch_size", "4x", "a whole number such as 4"),
    ],
)
def test_values_of_another_kind(files, option, value, expected):
    assert refusal(files, **{option: value}) == f"{option} is {value!r}, expected {expected}"


def test_values_of_another_kind_in_a_config_file(tmp_path):
    message = refusal(TRAIN, overlay={"epochs": "10"}, folder=tmp_path)
    assert message == "epochs is '10', expected a whole number such as 110"


@pytest.mark.parametrize(
    "told",
    [
        {"epochs": 1e2},
        {"learning_rate": 1},
        {"gradient_clipping": 0.5},
        {"epochs": "$3 + 4", "batch_size": "@sw_batch_size"},
        {"patch_size": (32, 32, 32), "spacing": [0.5, 1, 1.5]},
        {"resume": "auto"},
        {"seed": np.int64(3), "learning_rate": np.float32(0.1)},
    ],
)
def test_values_of_the_same_kind(told):
    parser = check(TRAIN, **told)
    assert all(parser[name] == value for name, value in told.items())
    assert isinstance(parser.get_parsed_content("epochs"), int)


def test_null_stays(tmp_path):
    assert check(TRAIN, overlay={"gradient_clipping": None}, folder=tmp_path)["gradient_clipping"] is None


def test_a_window_for_each_channel():
    """As weights of several channels have it, whose bundle has one channel by now."""
    windows = [[-100, 300], None]
    assert check(INFERENCE, bundle=ROOT / "bundles/kits", intensity_window=windows)["intensity_window"] == windows


@pytest.mark.parametrize("name", ["msd_hippocampus", "interactive"])
def test_a_window_that_no_transform_takes_trains_nothing(name):
    told = "intensity_window is [0, 100], expected null: the preprocessing of this bundle takes no window"
    assert refusal(TRAIN, bundle=ROOT / "bundles" / name, intensity_window=[0, 100]) == told


@pytest.mark.parametrize("files", [EVALUATE, INFERENCE], ids=["evaluate", "inference"])
def test_weights_that_were_trained_with_such_a_window_are_used(files, caplog):
    check(files, intensity_window=[0, 100])
    assert "intensity_window is [0, 100], expected null" in caplog.text


@pytest.mark.parametrize(
    "transforms",
    [
        [{"_target_": "rep3d.transforms.NormalizeChannelsd", "keys": "image", "windows": "@intensity_window"}],
        "$[rep3d.transforms.NormalizeChannelsd('image', @intensity_window)]",
    ],
)
def test_a_window_that_a_transform_takes(transforms, tmp_path):
    """Of a config file of one's own, too."""
    overlay = {"preprocessing#transforms": transforms, "intensity_window": [0, 100]}
    assert check(TRAIN, overlay=overlay, folder=tmp_path)["intensity_window"] == [0, 100]


@pytest.mark.parametrize(("name", "value"), [("ignored_label", 2), ("regions", {"whole": [1, 2]})])
def test_judging_that_the_loss_does_not_take_trains_nothing(name, value, tmp_path):
    told = f"{name} is {value!r}, expected null: the loss of this bundle takes none; `rep3d new` makes a bundle whose "
    assert refusal(TRAIN, **{name: value}).startswith(told)
    assert check(EVALUATE, **{name: value})[name] == value
    loss = {"_target_": "rep3d.training.JudgedDiceCELoss", name: f"@{name}"}
    for own in ({"loss#loss": loss}, {"loss": "@own#loss", "own": {"loss": loss}}):
        assert check(TRAIN, overlay=own, folder=tmp_path, **{name: value})[name] == value
    assert check(TRAIN, **{name: "$None"})[name] == "$None"


def test_bundles_that_were_rendered_without_their_values():
    """Packed ones of an earlier version."""
    assert check(TRAIN, known="@known_ids, None and @known_values", epochs="three")["epochs"] == "three"
    assert "did you mean 'epochs'?" in refusal(TRAIN, known="@known_ids, None and @known_values", epoch=3)


@pytest.mark.parametrize("device", ["cud:0", "$torch.device('cud:0')", "gpu", "$torch.device('cuda', 99)", "cpu:x"])
def test_devices_that_are_none(device):
    assert refusal(TRAIN, device=device).startswith(f"device is {device!r}, expected for example cpu, cuda or cuda:1 (")


# --- what people have in mind


@pytest.mark.parametrize(
    ("files", "option", "near"),
    [
        (TRAIN, "lr", "learning_rate"),
        (TRAIN, "max_epochs", "epochs"),
        (TRAIN, "ckpt", "init_from"),
        (TRAIN, "data_dir", "dataset_dir"),
        (EVALUATE, "weights", "checkpoint"),
        (INFERENCE, "ckpt_file", "checkpoint"),
    ],
)
def test_names_of_other_programs(files, option, near):
    assert refusal(files, **{option: 1}).endswith(f"uses it, did you mean {near!r}?")


@pytest.mark.parametrize(
    ("files", "run_id", "elsewhere"),
    [
        (TRAIN, "evaluating", "configs/evaluate.json"),
        (EVALUATE, "training", "configs/train.json"),
        (INFERENCE, "training", "configs/train.json"),
    ],
)
def test_run_ids_of_another_command(files, run_id, elsewhere):
    message = refusal(files, run_id=run_id)
    assert "runs nothing, expected one of" in message and elsewhere in message.partition("; its --config_file is ")[2]


@pytest.mark.parametrize(
    ("overlay", "missing", "whole"),
    [
        ({"train": {"trainer": {"max_epochs": 3}}}, "train#", "train"),
        ({"validate": {"evaluator": {}}}, "validate#", "validate"),
        ({"learning_rate": "@rate"}, "rate", None),
        ({"epochs": "$@settings#epochs + 1"}, "settings#epochs", None),
    ],
)
def test_config_files_that_take_something_away(overlay, missing, whole, tmp_path):
    message = refusal(TRAIN, overlay=overlay, folder=tmp_path)
    assert message.startswith(f"nothing defines '{missing}") and "which the configuration uses" in message
    hint = f"; a config file that has {whole!r} takes the place of the whole, expected '{whole}#...'"
    assert message.endswith(hint) if whole else ";" not in message


@pytest.mark.parametrize("words", [["--seed", "None"], ["--seed=None"], ["--train#trainer#epoch_length", "(None)"]])
def test_none_is_no_value(words, monkeypatch):
    """`monai.bundle` leaves such an option out without a word."""
    monkeypatch.setattr(sys, "argv", ["monai.bundle", "run", "training", *words])
    name = words[0].removeprefix("--").partition("=")[0]
    assert refusal(TRAIN).endswith(f"which monai.bundle leaves out: for nothing write --{name} '$None'")
    monkeypatch.setattr(sys, "argv", ["monai.bundle", "run", "training", "--seed", "$None", "--init_from", "None.pt"])
    check(TRAIN)
