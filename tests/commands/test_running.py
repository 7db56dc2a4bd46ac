"""`rep3d train`, `evaluate` and `predict`: the line of `python -m monai.bundle` that each runs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_helpers import ROOT

from rep3d.commands import main, running
from rep3d.data.leakage import training_cases
from rep3d.data.lists import load_datalist
from rep3d.data.memory import file_key
from rep3d.shipped import TRAINED as BEST
from rep3d.shipped import settings_beside

KITS = str(ROOT / "bundles/kits")


@pytest.fixture
def lines(monkeypatch):
    """What would be run."""
    found = []
    monkeypatch.setattr(running, "run_line", found.append)
    return found


@pytest.fixture
def type_words(monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    def type_them(*words):
        monkeypatch.setattr(sys, "argv", ["rep3d", *words])
        main()

    return type_them


def config(name):
    return f"{KITS}/configs/{name}.json"


def test_names_and_paths_arrive_as_typed(lines, type_words):
    type_words("train", KITS, "--dataset_dir", "2024_01_05", "--epochs=1e3", "--train#dataset#data", "[1]", "--resume")
    place = ["--bundle_root", KITS]
    options = ["--dataset_dir", "2024_01_05", "--epochs", "1e3", "--train#dataset#data", "[1]", "--resume", "True"]
    assert lines == [["run", "training", "--config_file", config("train"), *place, *options]]


def test_evaluation_and_prediction(lines, type_words, own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "007").mkdir()
    (tmp_path / "0123").touch()
    for path in ("models/trained/fold1/model.pt", BEST):
        write_weights(own, path)
    type_words("evaluate", str(own), "--fold", "1", "--config_file", "['configs/networks/unet.json', '0123']")
    type_words("predict", str(tmp_path / "007"), "--bundle", str(own), "--output", "0123")
    overlays = [str(ROOT / "configs/networks/unet.json"), "0123"]
    train, evaluate, inference = (str(own / f"configs/{name}.json") for name in ("train", "evaluate", "inference"))
    assert lines[0][3] == str([train, evaluate, *overlays])
    assert lines[0][:2] == ["run", "evaluating"] and lines[0][-2:] == ["--fold", "1"]
    assert lines[1] == [
        *("run", "evaluating", "--config_file", inference, "--bundle_root", str(own)),
        *("--dataset_dir", str(tmp_path / "007"), "--output_dir", "0123"),
    ]


def test_prediction_of_what_clicks_show(lines, type_words):
    bundle, scan = ROOT / "bundles/interactive", str(ROOT / "README.md")
    type_words("predict", scan, "--bundle", str(bundle), "--foreground", "[[14,32,10]]", "--output", "x")
    place = ["--bundle_root", str(bundle), "--dataset_dir", scan, "--output_dir", "x"]
    config_file = str(bundle / "configs/inference.json")
    assert lines == [["run", "evaluating", "--config_file", config_file, *place, "--foreground", "[[14,32,10]]"]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["predict", "absent", "--bundle", KITS], "scans is 'absent', expected a file or a folder that is there"),
        (["predict", ".", "--bundle", KITS, "--dataset_dir", "x"], "dataset_dir is given twice"),
        (["train", KITS, "--folds", "some"], "folds is 'some', expected all, or numbers such as 0,2"),
        (["train", KITS, "--folds", "0,1,0"], "folds is '0,1,0', expected each number once"),
        (["evaluate", KITS, "--fold", "1.0"], "fold is '1.0', expected a whole number from 0"),
        (["train", KITS, "--folds", "1", "--ckpt_dir", "$@bundle_root"], "ckpt_dir is '$@bundle_root', expected with"),
        (["train", KITS, "--folds", "1", "--fold", "1"], "fold and folds exclude each other"),
        (["train", KITS, "--config_file", "absent.json"], "config_file 'absent.json' does not exist, neither here nor"),
        (["train", KITS, "--config_file", "[a.json]"], "config_file is '[a.json]', expected a path, or several as"),
        (["train", "kitz"], "bundle is 'kitz', expected the folder of a bundle, or one of "),
        (["trian"], "there is no command 'trian', did you mean 'train'?"),
        (["compare", "a", "b", "--scor", "dice"], "unknown option '--scor', did you mean 'score'?"),
    ],
)
def test_refused_before_anything_runs(words, said, lines, type_words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError, SystemExit)) as refused:
        type_words(*words)
    assert str(refused.value).startswith(said) and not lines


def test_a_word_too_many_starts_no_training(lines, type_words, capsys):
    with pytest.raises(SystemExit) as refused:
        type_words("train", KITS, "2")
    assert refused.value.code == 2 and "Could not consume arg: 2" in capsys.readouterr().err and not lines


def test_all_folds(lines, type_words, tmp_path):
    pairs = [{"image": f"{i}.nii.gz", "label": f"l{i}.nii.gz"} for i in range(3)]
    (tmp_path / "dataset.json").write_text(json.dumps({"training": pairs}))
    splits = [{"train": ["1", "2"], "val": ["0"]}, {"train": ["0", "2"], "val": ["1"]}]
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    type_words("train", KITS, "--folds", "all", "--dataset_dir", str(tmp_path))
    type_words("train", KITS, "--folds", "2,0")
    with pytest.raises(ValueError, match=f"folds is '0,2', but '{tmp_path}' has fold 0 to 1"):
        type_words("train", KITS, "--folds", "0,2", "--dataset_dir", str(tmp_path))
    assert [line[-2:] for line in lines] == [["--fold", number] for number in "0120"[:2] + "20"]
    (tmp_path / "splits.json").unlink()
    with pytest.raises(ValueError, match="has no folds: neither a splits.json nor"):
        type_words("train", KITS, "--folds", "all", "--dataset_dir", str(tmp_path))
    (tmp_path / "dataset.json").write_text(json.dumps({"training": [pair | {"fold": 1} for pair in pairs]}))
    type_words("train", KITS, "--folds", "all", "--dataset_dir", str(tmp_path))
    assert [line[-1] for line in lines[4:]] == ["0", "1"]


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A `python -m monai.bundle` that does what a test says."""
    (tmp_path / "monai").mkdir()
    (tmp_path / "monai/__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    return lambda code: (tmp_path / "monai/bundle.py").write_text(textwrap.dedent(code))


def test_the_line_is_printed_and_its_status_passed_on(stand_in, capfd):
    stand_in("import sys; print(sys.argv[1:]); sys.exit(3 if sys.argv[1:] else 0)")
    running.run_line([])
    with pytest.raises(SystemExit) as ended:
        running.run_line(["a b"])
    assert ended.value.code == 3
    assert capfd.readouterr().out.splitlines()[-2:] == ["python -m monai.bundle 'a b'", "['a b']"]


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_what_ends_the_command_ends_the_run(stand_in):
    stand_in("import os, signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(9)")
    with pytest.raises(SystemExit) as ended:
        running.run_line([])
    assert ended.value.code == 128 + signal.SIGTERM


def test_old_scripts_tell_the_new_command(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/compare.py", "a b", "--scor=x"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stderr.splitlines() == [
        "scripts/compare.py is now: rep3d compare 'a b' --scor=x",
        "unknown option '--scor', did you mean 'score'?",
    ]
    assert done.returncode == 1


def write_weights(bundle, path, settings=None):
    """A checkpoint of no weights, and what its training was told."""
    (bundle / path).parent.mkdir(parents=True, exist_ok=True)
    torch.save({}, bundle / path)
    if settings is not None:
        settings_beside(bundle / path).write_text(json.dumps(settings))


@pytest.fixture
def own(tmp_path):
    shutil.copytree(ROOT / "bundles/kits/configs", tmp_path / "kits/configs")
    return tmp_path / "kits"


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("models/trained/model.pt", []),
        ("models/trained/fold2/model.pt", ["--fold", "2"]),
        ("elsewhere/model.pt", ["--ckpt_dir", "{own}/elsewhere"]),
        ("models/trained/last.pt", ["--checkpoint", "{own}/models/trained/last.pt"]),
        ("models/trained/model_20260101-101010.pt", ["--checkpoint", "{own}/models/trained/model_20260101-101010.pt"]),
    ],
)
def test_what_the_training_was_told_is_not_typed_again(weights, words, own, lines, type_words):
    """It lies between the bundle's own configs and what is typed."""
    words = [word.format(own=own) for word in words]
    write_weights(own, weights)
    type_words("evaluate", str(own), *words)
    write_weights(own, weights, {})
    type_words("evaluate", str(own), *words)
    write_weights(own, weights, {"patch_size": [32, 32, 32]})
    overlay = str(ROOT / "configs/networks/unet.json")
    type_words("evaluate", str(own), *words, "--config_file", overlay)
    configs = [str(own / f"configs/{name}.json") for name in ("train", "evaluate")]
    assert [line[3] for line in lines] == [
        str(configs),
        str(configs),
        str([*configs, str(settings_beside(own / weights)), overlay]),
    ]


def test_prediction_with_the_settings_of_the_weights(own, lines, type_words, tmp_path):
    write_weights(own, "models/trained/model.pt", {"spacing": [1, 1, 1]})
    type_words("predict", str(tmp_path), "--bundle", str(own), "--preview", "--output_format", "seg.nrrd")
    told = str(own / "models/trained/as_trained.json")
    assert lines[0][3] == str([str(own / "configs/inference.json"), told])
    assert lines[0][6:] == [
        *("--dataset_dir", str(tmp_path), "--output_format", "seg.nrrd", "--preview", "True"),
    ]


def test_weights_of_different_settings_are_refused(own, lines, type_words, tmp_path):
    for fold in "12":
        write_weights(own, f"fold{fold}/model.pt", {"spacing": [1, 1, int(fold)]})
    both = str([str(own / f"fold{fold}/model.pt") for fold in "12"])
    with pytest.raises(ValueError, match="fold1/as_trained.json and .*fold2/as_trained.json differ"):
        type_words("predict", str(tmp_path), "--bundle", str(own), "--checkpoint", both)
    assert not lines


def test_weights_that_are_not_there(own, lines, type_words, tmp_path):
    for words in (
        ["predict", str(tmp_path), "--bundle", str(own)],
        ["evaluate", str(own), "--checkpoint", "absent.pt"],
    ):
        with pytest.raises(FileNotFoundError, match=r"no weights at '.*(model|absent)\.pt': train first, or give a"):
            type_words(*words)
    assert not lines and not (own / "eval").exists()
    write_weights(own, tmp_path / "a.pt", {"spacing": [1, 1, 1]})
    for overlay in (tmp_path / "overlay.json", tmp_path / "overlay.yaml"):
        overlay.write_text(json.dumps({"checkpoint": str(tmp_path / "a.pt")}))  # which is YAML as well
        type_words("predict", str(tmp_path), "--bundle", str(own), "--config_file", str(overlay))
        assert str(tmp_path / "as_trained.json") in lines.pop()[3]


def test_weights_that_know_other_labels_do_not_judge_the_bundles_own_data(own, lines, type_words):
    """`rep3d new` made that anew; the ids may mean something else by now."""
    write_weights(own, BEST, {"label_names": ["background", "kidney"], "spacing": [1, 1, 1]})
    with pytest.raises(ValueError, match='model.pt was trained with label_names .*"kidney".*, now .*: train anew'):
        type_words("evaluate", str(own))
    assert not lines
    type_words("evaluate", str(own), "--dataset_dir", "elsewhere")
    write_weights(own, BEST, {"label_names": json.loads((own / "configs/train.json").read_text())["label_names"]})
    type_words("evaluate", str(own))
    assert len(lines) == 2


@pytest.mark.parametrize("name", ["configs/inference.json", "models/trained/as_trained.json", "configs/metadata.json"])
@pytest.mark.parametrize("content", ["{", "[]"])
def test_damaged_json_is_named(name, content, own, lines, type_words, tmp_path, monkeypatch):
    monkeypatch.chdir(own.parent)
    write_weights(own, BEST)
    (own / name).write_text(content)
    said = f"{name}: (no valid JSON|holds a list, expected a JSON object)"
    with pytest.raises(ValueError, match=said):
        if "metadata" in name:
            type_words("bundles", "--bundle_dir", ".")
        type_words("predict", str(tmp_path), "--bundle", str(own))
    assert not lines


def test_a_refinement_is_chosen_before_the_scores(own, lines, type_words):
    write_weights(own, "models/trained/model.pt", {"spacing": [1, 1, 1]})
    type_words("evaluate", str(own), "--choose_refinement", "--fold", "0")
    type_words("evaluate", str(own), "--choose_refinement=false")
    own_files, told = [str(own / f"configs/{name}.json") for name in ("train", "evaluate")], settings_beside(own / BEST)
    assert lines[0][3] == str([*own_files, str(own / "configs/choose_refinement.json"), str(told)])
    assert [line[3] for line in lines[1:]] == [str([*own_files, str(told)])] * 2
    assert lines[0][:2] == ["run", "evaluating"] and lines[0][4:] == lines[1][4:]
    with pytest.raises(ValueError, match="choose_refinement is 'kits', expected nothing behind it"):
        type_words("evaluate", str(own), "--choose_refinement", "kits")
    (own / "configs/choose_refinement.json").unlink()
    with pytest.raises(FileNotFoundError, match="kits has no configs/choose_refinement.json"):
        type_words("evaluate", str(own), "--choose_refinement")
    assert len(lines) == 3


def tell_end(folder, state="finished", epochs=250, **told):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "training.status.json").write_text(json.dumps({"state": state, "epochs": epochs, **told}))


def test_folds_that_are_trained_already(own, lines, type_words, capsys, tmp_path):
    """They are told by the run's own status; a longer training goes on, and so does one that was stopped."""
    models = own / "models/trained"
    for fold, folder in enumerate((models, models / "fold1", models / "fold2")):
        write_weights(own, folder / "model.pt")
        tell_end(folder, "stopped" if fold == 1 else "finished")
    type_words("train", str(own), "--folds", "0,1,2,3", "--resume", "auto")
    assert [line[-1] for line in lines] == ["1", "3"]
    assert "fold 0 is trained already" in capsys.readouterr().out
    lines.clear()
    (tmp_path / "short.json").write_text(json.dumps({"epochs": 3}))
    for words in (["--epochs", "2.5e2"], ["--epochs", "251"], ["--config_file", str(tmp_path / "short.json")]):
        type_words("train", str(own), "--folds", "0,2", "--resume", "auto", *words)
    assert [line[-1] for line in lines] == ["0", "2"] * 2
    lines.clear()
    type_words("train", str(own), "--folds", "0,2")
    (models / "fold2/model.pt").unlink()
    type_words("train", str(own), "--folds", "2", "--resume", "auto")
    assert [line[-1] for line in lines] == ["0", "2", "2"]


def test_folds_that_were_trained_with_other_settings(own, lines, type_words, tmp_path):
    """They are neither left as they are nor trained over: folds of one bundle belong together."""
    models, patch = own / "models/trained", json.loads((own / "configs/train.json").read_text())["patch_size"]
    write_weights(own, models / "model.pt", {"patch_size": [32, 32, 32]})
    tell_end(models)
    with pytest.raises(ValueError, match=r"fold 0: .*model.pt was trained with patch_size \[32, 32, 32\], now \["):
        type_words("train", str(own), "--folds", "0", "--resume", "auto")
    overlay = tmp_path / "patch.json"
    overlay.write_text('{"patch_size": [32, 32, 32], "network_def#kernel_size": 5}')
    write_weights(own, models / "model.pt", {"patch_size": [32, 32, 32], "network_def": {"kernel_size": 5}})
    type_words("train", str(own), "--folds", "0", "--resume", "auto", "--config_file", str(overlay))
    write_weights(own, models / "model.pt", {"patch_size": patch})
    type_words("train", str(own), "--folds", "0", "--resume", "auto")
    assert not lines


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--hours", "4"], "hours 0.1, now 4"),
        (["--learning_rate", "1e-2"], "learning_rate 0.001, now 0.01"),
        (["--batch_size", "8", "--deep", "False"], r"batch_size 2, now 8; deep true, now false"),
        (["--patch_size", "(64,64,64)"], r"patch_size \[32, 32, 32\], now \[64, 64, 64\]"),
        ([], "hours 0.1, now null"),
    ],
)
def test_folds_that_were_trained_otherwise(words, said, own, lines, type_words):
    """In what only their training knows: an ensemble of them would be mixed."""
    models = own / "models/trained"
    write_weights(own, models / "model.pt")
    settings = {"hours": 0.1, "learning_rate": 0.001, "batch_size": 2, "deep": True, "patch_size": [32, 32, 32]}
    config = own / "configs/train.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | settings | {"hours": None}))
    tell_end(models, settings=settings)
    line = ["train", str(own), "--folds", "0", "--resume", "auto"]
    type_words(*line, "--hours", "0.1", "--learning_rate", "0.001", "--num_workers", "3")
    assert not lines
    with pytest.raises(ValueError, match=f"fold 0: .*model.pt was trained with {said}: give what it was, or train"):
        type_words(*line, *(["--hours", "0.1"] if words and "--hours" not in words else []), *words)


def write_data(folder, cases, folds):
    """A data set whose images are told apart, and its split."""
    folder.mkdir(exist_ok=True)
    for case in range(cases):
        voxels = np.random.default_rng(case).integers(0, 1000, (5, 5, 5)).astype(np.int16)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / f"c{case}.nii")
    pairs = [{"image": f"c{case}.nii", "label": f"l{case}.nii"} for case in range(cases)]
    (folder / "dataset.json").write_text(json.dumps({"training": pairs}))
    splits = [{"train": train.split(), "val": val.split()} for train, val in folds]
    (folder / "splits.json").write_text(json.dumps(splits))


def write_trained(bundle, fold=0):
    """The weights of a training that has come to its end."""
    cases = training_cases(*(load_datalist(bundle / "data", part, fold) for part in ("training", "validation")))
    folder = bundle / "models/trained" / ("" if fold == 0 else f"fold{fold}")
    tell_end(folder)
    torch.save(cases.mark(torch.nn.Linear(1, 1).state_dict()), folder / "model.pt")


def test_folds_whose_cases_have_changed(own, lines, type_words, capsys):
    """They are refused: weights of an earlier split know what the fold judges with now."""
    folds = [("c2 c3", "c0 c1"), ("c0 c1", "c2 c3")]
    write_data(own / "data", 4, folds)
    for fold in range(2):
        write_trained(own, fold)
    words = ["train", str(own), "--folds", "all", "--resume", "auto"]
    type_words(*words)
    assert "fold 0 is trained already\nfold 1 is trained already" in capsys.readouterr().out
    write_data(own / "data", 5, [("c2 c3", "c0 c1 c4"), ("c0 c1 c4", "c2 c3")])
    told = r"fold 1: .*fold1/model.pt is of other cases: it was not trained on 1 of the 3 training cases: c4; train"
    with pytest.raises(ValueError, match=told):
        type_words(*words)
    write_data(own / "data", 4, [("c0 c3", "c1 c2"), ("c1 c2", "c0 c3")])
    told = (
        "fold 0: .*model.pt is of other cases: it was trained on 1 of the 2 validation cases: c2; it was not trained "
        "on 1 of the 2 training cases: c0; train anew, without --resume"
    )
    with pytest.raises(ValueError, match=told):
        type_words(*words)
    assert not lines


@pytest.mark.parametrize("is_copied", [False, True])
def test_folds_whose_labels_have_changed(is_copied, own, lines, type_words, capsys, tmp_path):
    """They are refused, and none for a copy of a label map that `rep3d new` wrote anew."""
    data = own / "data"
    write_data(data, 2, [("c0", "c1"), ("c1", "c0")])
    labels = [data / f"l{case}.nii" for case in range(2)]
    sources = [tmp_path / f"s{case}.nii" for case in range(2)] if is_copied else labels
    for path in {*labels, *sources}:
        path.touch()
        os.utime(path, (1e9, 1e9))
    write_trained(own)
    words = ["train", str(own), "--folds", "0", "--resume", "auto"]

    def list_copies():
        if is_copied:
            pairs = [
                {"image": f"c{i}.nii", "label": str(label), "copy_of": file_key(source)}
                for i, (label, source) in enumerate(zip(labels, sources, strict=True))
            ]
            (data / "dataset.json").write_text(json.dumps({"training": pairs}))
            for label in labels:
                os.utime(label, (4e9, 4e9))

    list_copies()
    type_words(*words)
    assert "fold 0 is trained already" in capsys.readouterr().out
    os.utime(sources[0], (4e9, 4e9))
    list_copies()
    told = rf"fold 0: 1 label map\(s\) were changed after the training of .*model.pt began: {sources[0]}; train anew"
    with pytest.raises(ValueError, match=told):
        type_words(*words)
    os.utime(sources[0], (1.5e9, 1.5e9))
    list_copies()
    type_words(*words)
    tell_end(own / "models/trained", started=1.4e9)
    with pytest.raises(ValueError, match=told):
        type_words(*words)
    assert not lines


def test_a_fold_that_nothing_validates(own, lines, type_words, capsys, tmp_path):
    write_data(own / "data", 1, [("c0", "")])
    overlay = tmp_path / "nothing.json"
    overlay.write_text('{"validate#dataset#data": []}')
    tell_end(own / "models/trained")
    cases = training_cases(load_datalist(own / "data", "training"), [])
    torch.save(cases.mark(torch.nn.Linear(1, 1).state_dict()), own / "models/trained/model.pt")
    type_words("train", str(own), "--folds", "all", "--resume", "auto", "--config_file", str(overlay))
    assert "fold 0 is trained already" in capsys.readouterr().out and not lines


@pytest.mark.parametrize("typed", [True, False])
def test_each_fold_has_folders_of_its_own(typed, own, lines, type_words, tmp_path):
    """Whether they are typed or stand in a config file that is laid over."""
    write_data(tmp_path / "data", 2, [("c0", "c1"), ("c1", "c0")])
    told = {"ckpt_dir": "weights", "output_dir": "curves", "dataset_dir": str(tmp_path / "data")}
    overlay = tmp_path / "overlay.json"
    overlay.write_text(json.dumps(told))
    words = [word for name, value in told.items() for word in (f"--{name}", value)]
    type_words("train", str(own), "--folds", "all", *(words if typed else ["--config_file", str(overlay)]))
    assert [line[line.index("--ckpt_dir") + 1] for line in lines] == ["weights", "weights/fold1"]
    assert [line[line.index("--output_dir") + 1] for line in lines] == ["curves", "curves/fold1"]
