import base64
import math
import re
from html.parser import HTMLParser

import nibabel as nib
import numpy as np
import pytest
from matplotlib.image import imread
from torch.utils.tensorboard import SummaryWriter

from rep3d.datasets.phantom import make_phantom, write_decathlon
from rep3d.evaluation import report
from rep3d.evaluation.report import dice_table, divergence, overlay_montage, training_curve, write_report

NAMES = {1: "anterior", 2: "posterior"}


def save(path, volume, affine=None):
    nib.save(nib.Nifti1Image(volume, np.eye(4) if affine is None else affine), path)
    return path


def write_events(folder, epochs, *, iterations=8, loss=1.0, start=1e9):
    """Write what MONAI's handlers do: the loss at each iteration, the Dice at each second epoch."""
    with SummaryWriter(str(folder)) as writer:
        for epoch in epochs:
            for step in range((epoch - 1) * iterations + 1, epoch * iterations + 1):
                writer.add_scalar("train_loss", loss / step, step, walltime=start + step)
            if epoch % 2 == 0:
                now = start + epoch * iterations + 0.5
                writer.add_scalar("val_mean_dice", 1 - 1 / epoch, epoch, walltime=now)
                writer.add_scalar("val_dice_anterior", 0.1, epoch, walltime=now)


@pytest.fixture
def cases(tmp_path):
    """Two phantoms whose prediction is the truth moved by a voxel."""
    data = write_decathlon(tmp_path / "data", labels=NAMES, count=2, spacing=(1, 1, 3), orientation="LPS")
    found = []
    for image in sorted((data / "imagesTr").iterdir()):
        truth = data / "labelsTr" / image.name
        file = nib.load(truth)
        moved = np.roll(np.asanyarray(file.dataobj), 1, axis=0)
        found.append((image.name, image, truth, save(tmp_path / image.name, moved[..., None], file.affine)))
    return found


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved."""
    figures = []
    save_file = report._save
    monkeypatch.setattr(report, "_save", lambda path, figure: figures.append(figure) or save_file(path, figure))
    return figures


def test_curve_is_a_readable_png(tmp_path, drawn):
    write_events(tmp_path / "events", range(1, 9))
    path = training_curve(tmp_path / "events", tmp_path / "new" / "curve.png")
    assert imread(path).shape[:2] == (700, 1200)
    assert [file.name for file in path.parent.iterdir()] == ["curve.png"]
    left, right = drawn[0].axes
    assert left.get_xlabel() == "epoch"
    assert right.get_ylim() == (0, 1)
    np.testing.assert_allclose(left.lines[0].get_xdata()[[0, -1]], [1 / 8, 8])
    np.testing.assert_allclose(right.lines[0].get_xdata(), [2, 4, 6, 8])
    assert right.lines[0].get_label() == "val_mean_dice, best 0.875 at epoch 8"  # not the Dice of a class


def test_resumed_runs_merge(tmp_path, drawn):
    write_events(tmp_path / "events" / "first", range(1, 7))
    write_events(tmp_path / "events" / "resumed", range(5, 6), loss=7.0, start=2e9)  # sixth epoch never came
    training_curve(tmp_path / "events", tmp_path / "curve.png")
    left, right = drawn[0].axes
    steps = np.arange(1, 41)
    np.testing.assert_allclose(left.lines[0].get_xdata() * 8, steps)
    np.testing.assert_allclose(left.lines[0].get_ydata(), np.where(steps > 32, 7.0, 1.0) / steps, rtol=1e-6)


def test_curve_in_one_unit_of_steps(tmp_path, drawn):
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(1, 31):
            writer.add_scalar("Loss", float("nan") if step > 20 else 1 / step, step)
            writer.add_scalar("val_mean_dice", 0.5, step)
    training_curve(tmp_path, tmp_path / "curve.png")
    left = drawn[0].axes[0]
    assert left.get_xlabel() == "step"
    assert left.lines[0].get_xdata()[-1] == 30
    assert np.isnan(left.lines[1].get_ydata()[20:]).all()  # a diverged loss does not look like zero


@pytest.mark.parametrize(
    "losses, expected",
    [
        ([1.0, 0.5, math.nan, math.nan], "diverged: the loss was not finite any more after step 2"),
        ([math.inf] * 2, "diverged: the loss was not finite any more after step 0"),
        ([1.0, math.nan, 0.5], ""),  # one step was left out
        ([1.0], ""),
    ],
)
def test_divergence_in_words(losses, expected, tmp_path, drawn):
    with SummaryWriter(tmp_path / "logs") as writer:
        for step, value in enumerate(losses, 1):
            writer.add_scalar("train_loss", value, step)
    assert divergence(tmp_path / "logs") == expected
    training_curve(tmp_path / "logs", tmp_path / "curve.png")
    (legend,) = drawn[0].legends
    assert ("diverged" in legend.get_texts()[0].get_text()) == bool(expected)


def test_curve_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.*event files"):
        training_curve(tmp_path / "nowhere", tmp_path / "curve.png")
    with SummaryWriter(str(tmp_path / "events")) as writer:
        writer.add_scalar("speed", 1.0, 1)
    with pytest.raises(ValueError, match=r"events: expected .*'loss' or 'dice'.*speed"):
        training_curve(tmp_path / "events", tmp_path / "curve.png")


def test_montage(tmp_path, cases, drawn):
    path = overlay_montage([cases[0], (*cases[1][:2], None, cases[1][3])], NAMES, tmp_path / "montage.png")
    height, width = imread(path).shape[:2]
    assert 1200 < width < 1400 and 400 < height < 2000
    axes = drawn[0].axes
    assert [a.get_title() for a in axes[:4]] == ["image", "truth", "prediction", "difference"]
    assert [text.get_text() for text in drawn[0].legends[0].texts] == ["anterior", "posterior", "difference"]
    truth, prediction = (np.asanyarray(nib.load(p).dataobj).squeeze() for p in cases[0][2:])
    dice = np.mean([2 * ((truth == i) & (prediction == i)).sum() / ((truth == i).sum() + (prediction == i).sum())
                    for i in NAMES])  # fmt: skip
    assert f"Dice {dice:.3f}" in axes[0].get_ylabel()
    assert "Dice" not in axes[4].get_ylabel()
    assert [text.get_text() for text in axes[5].texts] == ["no truth"]
    assert [name for name in tmp_path.iterdir() if name.name.startswith(".")] == []


@pytest.mark.parametrize(("plane", "sides"), [("axial", (0, 1)), ("coronal", (0, 2)), ("sagittal", (1, 2))])
def test_montage_is_upright_and_in_proportion(tmp_path, drawn, plane, sides):
    # Stored LPS: the bright voxel, at the end of each axis, is far left, back and up in the patient.
    volume, spacing = np.zeros((12, 10, 8), np.float32), np.array([1.0, 2.0, 3.0])
    volume[-1, -1, -1] = 1
    label = np.ones((12, 10, 8), np.uint8)
    affine = np.diag([-1.0, -2.0, 3.0, 1.0])
    image, truth = save(tmp_path / "i.nii.gz", volume, affine), save(tmp_path / "l.nii.gz", label, affine)
    label[:, :, :-1], label[:, :-1], label[:-1] = 0, 0, 0  # the slice to be shown holds that voxel
    truth = save(tmp_path / "l.nii.gz", label, affine)
    overlay_montage([("case", image, truth, truth)], {1: "all"}, tmp_path / "m.png", plane=plane, window=(0, 1))
    shown = drawn[0].axes[0].images[0]
    expected = {"axial": (-1, -1), "coronal": (0, -1), "sagittal": (0, -1)}[plane]  # row and column of the voxel
    assert shown.get_array()[expected] == 1
    assert drawn[0].axes[0].get_aspect() == spacing[sides[1]] / spacing[sides[0]]


def test_montage_of_fifteen_labels(tmp_path, drawn):
    image, label = make_phantom(15, shape=(48, 40, 32), modality="CT")
    paths = [save(tmp_path / f"{name}.nii.gz", volume) for name, volume in (("image", image), ("label", label))]
    names = {i: f"organ number {i}" for i in range(1, 16)}
    overlay_montage([("abdomen", *paths, paths[1])], names, tmp_path / "m.png", ("truth", "prediction"))
    legend = drawn[0].legends[0]
    assert len(legend.texts) == len({patch.get_facecolor() for patch in legend.get_patches()}) == 15
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= drawn[0].bbox.x1  # fits
    overlay_montage([("abdomen", *paths, paths[1])], {1: "spleen"}, tmp_path / "m.png")  # the others are gray


def test_montage_of_empty_and_full_labels(tmp_path):
    image = save(tmp_path / "image.nii.gz", make_phantom(2)[0])
    empty, full = (save(tmp_path / f"{i}.nii.gz", np.full((36, 50, 36), i, np.uint8)) for i in (0, 1))
    cases = [("full", image, empty, full), ("empty", image, None, empty), ("equal", image, full, full)]
    assert overlay_montage(cases, NAMES, tmp_path / "m.png").is_file()


def test_montage_errors(tmp_path, cases):
    name, image, truth, prediction = cases[0]
    png = tmp_path / "m.png"
    with pytest.raises(FileNotFoundError, match=r"gone.nii.gz: expected the prediction of phantom_000"):
        overlay_montage([(name, image, truth, tmp_path / "gone.nii.gz")], NAMES, png)
    small = save(tmp_path / "small.nii.gz", np.zeros((8, 8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"small.nii.gz: expected .* grid of .*phantom_000.*\(8, 8, 8\)"):
        overlay_montage([(name, image, truth, small)], NAMES, png)
    file = nib.load(prediction)
    moved = save(tmp_path / "moved.nii.gz", np.asanyarray(file.dataobj), file.affine @ np.diag([-1, 1, 1, 1]))
    with pytest.raises(ValueError, match="moved.nii.gz: expected .* mm away"):
        overlay_montage([(name, image, truth, moved)], NAMES, png)
    with pytest.raises(ValueError, match="imagesTr.*: expected label ids"):
        overlay_montage([(name, image, image, prediction)], NAMES, png)
    with pytest.raises(ValueError, match="labels"):
        overlay_montage(cases, {i: str(i) for i in range(1, 17)}, png)
    for wrong in ({"plane": "oblique"}, {"columns": ["mask"]}):
        with pytest.raises(ValueError, match="oblique|mask"):
            overlay_montage(cases, NAMES, png, **wrong)
    assert not png.exists()


def test_dice_table():
    nan, labels = float("nan"), ("left|right", "tumour", "none")
    dices = {"a": (0.5, 0.9, nan), "c": (0.7, nan, nan), "d": (0.9, 0.7, nan)}
    scores = {case: {n: {"dice": d} for n, d in zip(labels, row, strict=True)} for case, row in dices.items()}
    assert dice_table(scores).splitlines() == [
        "| label | mean | std | median | min | cases |",
        "| --- | --- | --- | --- | --- | --- |",
        "| left/right | 0.700 | 0.163 | 0.700 | 0.500 | 3 |",
        "| tumour | 0.800 | 0.100 | 0.800 | 0.700 | 2 |",
        "| none | - | - | - | - | 0 |",
        "| mean | 0.733 | 0.047 | 0.700 | 0.700 | 3 |",
    ]


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that what opens is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        while (opened := self.open.pop()) != tag:
            assert opened == "tr"

    def handle_data(self, data):
        self.text.append(data)


def test_report_is_one_page(tmp_path):
    write_events(tmp_path / "events", range(1, 3))
    picture = training_curve(tmp_path / "events", tmp_path / "curve.png")
    path = write_report(
        tmp_path / "report",
        title="Rep3D <Hippocampus>",
        facts={"Network": "<script>alert(1)</script>"},
        table=dice_table({"a": {"head & tail": {"dice": 0.25}}}),
        pictures=[("Loss > 0", picture)],
        next_commands=["python -m monai.bundle run < x"],
    )
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "link"} & {tag for tag, _ in page.tags} and not re.search("https?:", text)
    for expected in ("Rep3D <Hippocampus>", "<script>alert(1)</script>", "head & tail", "0.250", "Loss > 0",
                     "python -m monai.bundle run < x", "Research software, not a medical device."):  # fmt: skip
        assert expected in page.text
    (source,) = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == picture.read_bytes()


def test_report_without_anything(tmp_path):
    assert Page(write_report(tmp_path, title="", facts={}, table="", pictures=[], next_commands=[]).read_text())


def test_report_errors(tmp_path):
    rest = {"title": "", "facts": {}, "table": "", "next_commands": []}
    with pytest.raises(FileNotFoundError, match="gone.png: expected a PNG"):
        write_report(tmp_path / "r", pictures=[("", tmp_path / "gone.png")], **rest)
    (tmp_path / "a.png").write_text("no")
    with pytest.raises(ValueError, match="a.png: expected a PNG"):
        write_report(tmp_path / "r", pictures=[("", tmp_path / "a.png")], **rest)
    assert not (tmp_path / "r").exists()
