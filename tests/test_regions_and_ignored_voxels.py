"""Regions and voxels that nobody has judged: in loss, metric, scores, label maps and the bundle of a data set."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_helpers import EVALUATE, INFERENCE, TRAIN, run
from channel_helpers import SHAPE, describe, make, save
from monai.losses import DiceCELoss, DiceLoss
from score_helpers import score_label_map
from torch.nn import BCEWithLogitsLoss

from monailabel_app.bundles import read_bundle
from monailabel_app.studies.folder import StudiesFolder
from monailabel_app.studies.submission import submit_label
from rep3d.data.regions import check_judging, paint, region_masks, scored_regions
from rep3d.datasets import own_bundle
from rep3d.datasets.own_bundle import report
from rep3d.evaluation.scores import read_scores, score_regions
from rep3d.inferers import LabelMapInferer
from rep3d.networks.ensemble import Ensemble
from rep3d.training import JudgedDiceCELoss, ScoredMasks, ValidationDice
from rep3d.transforms import CropByPosNegLabeld

TUMOR = {"whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}
ORDER = [1, 2, 3]
NAMES = ["background", "edema", "necrosis", "enhancing tumor"]
IGNORED = 4


@pytest.fixture
def labels():
    return torch.randint(0, 4, (2, 1, 8, 8, 8), generator=torch.manual_seed(0)).float()


@pytest.fixture
def logits():
    return torch.randn(2, 4, 8, 8, 8, generator=torch.manual_seed(1))


# --- label maps


def test_a_label_map_shows_the_regions_that_it_was_painted_from(labels):
    masks = region_masks(labels, list(TUMOR.values()))
    assert masks.shape == (2, 3, 8, 8, 8) and torch.equal(masks[:, 1], (labels == 2)[:, 0] | (labels == 3)[:, 0])
    assert torch.equal(paint(masks[0], ORDER), labels[0, 0].to(torch.uint8))
    with pytest.raises(ValueError, match="has 2 id"):
        paint(masks[0], [1, 2])


def test_overlapping_regions_of_kits():
    """A label of no region by itself is written by the order, as nnU-Net does it."""
    check_judging(
        ["background", "kidney", "tumor", "cyst"], {"all": [1, 2, 3], "masses": [2, 3], "tumor": [2]}, [1, 3, 2], None
    )
    check_judging(["background", "a", "b"], {"both": [1, 2]}, [1], None)  # 2 is written as 1, of the same regions


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((TUMOR, None, None), "go together, expected both or neither"),
        (({**TUMOR, "core": [2, 4]}, ORDER, None), r"region 'core' is \[2, 4\], expected some of the ids 1 to 3"),
        (({**TUMOR, "core": []}, ORDER, None), r"region 'core' is \[\]"),
        ((TUMOR, [1, 2], None), r"is \[1, 2\], expected 3 ids, one of each region"),
        ((TUMOR, [3, 2, 1], None), "by which label 2 would be written as 3|by which label 1|by which label 3"),
        (
            (dict(reversed(TUMOR.items())), [3, 2, 1], None),
            "label 2 would be written as 1|label 3 would be written as 1",
        ),
        ((None, None, 3), "ignored_label is 3, expected 4, the id behind those of label_names"),
    ],
)
def test_options_by_which_a_label_map_would_lie(options, said):
    with pytest.raises(ValueError, match=said):
        check_judging(NAMES, *options)


def test_a_network_of_regions_paints_label_maps(labels):
    logits = region_masks(labels[:1], list(TUMOR.values())).float() * 8 - 4
    network = lambda windows: logits[..., : windows.shape[2], :, :]  # noqa: E731
    inferer = LabelMapInferer(roi_size=(8, 8, 8), class_order=ORDER)
    assert torch.equal(inferer(torch.zeros(1, 1, 8, 8, 8), network)[0].float(), labels[0])


def test_a_name_for_each_label():
    """Under a name that stands there twice, one label alone would be scored."""
    assert scored_regions(NAMES[:3]) == {"edema": [1], "necrosis": [2]}
    with pytest.raises(ValueError, match="label_names has 'kidney' for 2 ids, expected a name for each"):
        scored_regions(["background", "kidney", "kidney"])


class Logits(torch.nn.Module):
    """A network that gives these, whatever it sees."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, windows):
        return self.logits


def test_several_networks_of_regions_are_averaged_region_by_region(labels):
    """A voxel lies in a region whose mean probability is above one half; a sure network does not lead to infinity."""
    masks = region_masks(labels[:1], list(TUMOR.values())).float()
    sure, unsure, other = (Logits(scale * (2 * masks - 1)) for scale in (40, 0.5, -0.1))
    inferer = LabelMapInferer(roi_size=(8, 8, 8), class_order=ORDER)
    for members in ([sure, sure], [unsure, other]):
        label_map = inferer(torch.zeros(1, 1, 8, 8, 8), Ensemble(members, has_regions=True))
        assert torch.equal(label_map[0].float(), labels[0])
    with pytest.raises(ValueError, match="averaged as of labels, and there are regions"):
        inferer(torch.zeros(1, 1, 8, 8, 8), Ensemble([sure, sure]))


# --- loss


def test_without_options_it_is_monais_loss(labels, logits):
    expected = DiceCELoss(to_onehot_y=True, softmax=True)(logits, labels)
    assert torch.allclose(JudgedDiceCELoss()(logits, labels), expected)


@pytest.mark.parametrize(
    "options",
    [{"label_smoothing": 0.1}, {"weight": torch.tensor([0.5, 1, 2, 4])}, {"label_smoothing": 0.2, "lambda_ce": 3.0}],
    ids=["smoothing", "weight", "share"],
)
def test_options_of_the_loss_are_monais(options, labels, logits):
    expected = DiceCELoss(to_onehot_y=True, softmax=True, **options)(logits, labels)
    assert torch.allclose(JudgedDiceCELoss(**options)(logits, labels), expected)


def test_weights_of_regions_are_those_of_their_positive_voxels(labels, logits):
    weight = torch.tensor([1.0, 2, 4])
    masks = region_masks(labels, list(TUMOR.values())).float()
    entropy = BCEWithLogitsLoss(pos_weight=weight.view(3, 1, 1, 1))(logits[:, :3], masks)
    expected = DiceLoss(sigmoid=True, weight=weight)(logits[:, :3], masks) + entropy
    assert torch.allclose(JudgedDiceCELoss(regions=TUMOR, weight=weight)(logits[:, :3], labels), expected)
    with pytest.raises(ValueError, match="label_smoothing is 0.1, expected 0: regions take none"):
        JudgedDiceCELoss(regions=TUMOR, label_smoothing=0.1)


def test_of_regions_it_is_dice_and_binary_cross_entropy_of_their_masks(labels, logits):
    masks = region_masks(labels, list(TUMOR.values())).float()
    expected = DiceLoss(sigmoid=True)(logits[:, :3], masks) + BCEWithLogitsLoss()(logits[:, :3], masks)
    assert torch.allclose(JudgedDiceCELoss(regions=TUMOR)(logits[:, :3], labels), expected)


@pytest.mark.parametrize(("regions", "outputs"), [(None, 4), (TUMOR, 3)], ids=["labels", "regions"])
def test_voxels_that_nobody_judged_do_not_count(regions, outputs, labels, logits):
    """As if they were cut off."""
    loss, cut = JudgedDiceCELoss(regions=regions, ignored_label=IGNORED), JudgedDiceCELoss(regions=regions)
    expected = cut(logits[:, :outputs, 3:], labels[:, :, 3:])
    labels[:, :, :3] = IGNORED
    logits = logits[:, :outputs].clone().requires_grad_()
    found = loss(logits, labels)
    assert torch.allclose(found, expected)
    found.backward()
    assert logits.grad[:, :, :3].abs().max() == 0 < logits.grad[:, :, 3:].abs().min()
    nothing = loss(logits, torch.full_like(labels, IGNORED))
    assert torch.isfinite(nothing) and nothing.item() == pytest.approx(0, abs=1e-6)


# --- crops, metric, scores


def test_crops_are_centred_on_what_was_judged():
    label = torch.full((1, 24, 8, 8), float(IGNORED))
    label[:, :4], label[:, 4:8] = 0, 1
    crop = CropByPosNegLabeld(
        ["label"], label_key="label", spatial_size=(1, 1, 1), pos=1, neg=1, num_samples=40, ignored_label=IGNORED
    )
    crop.set_random_state(0)
    values = {float(item["label"].max()) for item in crop({"label": label})}
    assert values == {0.0, 1.0}
    assert crop({"label": torch.full_like(label, IGNORED)})  # anywhere


@pytest.mark.parametrize("regions", [None, TUMOR, {"whole": [1, 2, 3]}], ids=["labels", "regions", "one region"])
def test_metric_and_scores(regions, labels):
    truth, prediction = labels[0].clone(), labels[1].clone()
    truth[:, :2] = IGNORED
    metric = ValidationDice(include_background=True, num_classes=None)  # as in configs/base/judging.json
    metric.update(ScoredMasks(NAMES, regions, IGNORED)([{"pred": prediction, "label": truth}]))
    found = metric.metric_fn.get_buffer()
    scored = regions or {name: [i] for i, name in enumerate(NAMES) if i}
    scores = score_regions(prediction[0].numpy(), truth[0].numpy(), scored, np.eye(4), IGNORED)
    for name, ids in scored.items():
        masks = [np.isin(array[0, 2:].numpy(), ids).astype(int) for array in (prediction, truth)]
        expected = score_label_map(*masks, [1], (1, 1, 1))[1]["dice"]
        assert scores[name]["dice"] == pytest.approx(expected)
    assert found.flatten().tolist() == pytest.approx([score["dice"] for score in scores.values()])


# --- a bundle


def tumors(folder, ids=(1, 2, 3), ignored=None):
    """Nested boxes, as nnU-Net's version 2 describes them."""
    for number in range(3):
        label = np.zeros(SHAPE, np.uint8)
        for depth, i in enumerate(ids):
            label[4 + depth : 16 - depth, 3 + depth : 15 - depth, 2 + depth : 10 - depth] = i
        image = 100 + 20.0 * label + np.random.default_rng(number).normal(0, 5, SHAPE)
        if ignored is not None:
            label[:3] = ignored
        save(folder / f"imagesTr/c{number}_0000.nii.gz", image.astype(np.float32))
        save(folder / f"labelsTr/c{number}.nii.gz", label)
    one, two, three = ids
    told = {"background": 0, "whole": [one, two, three], "core": [two, three], "enhancing": three}
    more = {} if ignored is None else {"ignore": ignored}
    describe(
        folder, labels=told | more, regions_class_order=list(ids), channel_names={"0": "FLAIR"}, file_ending=".nii.gz"
    )
    return folder


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr(own_bundle, "write_fingerprint", lambda *_: None)


def test_ids_with_holes(tmp_path, no_pictures):
    made = make(tmp_path, tumors(tmp_path / "source", ids=(1, 2, 4), ignored=9))
    common = json.loads((made.folder / "mine.json").read_text())["common"]
    assert common["regions"] == TUMOR and common["regions_class_order"] == ORDER and common["ignored_label"] == IGNORED
    assert common["label_names"] == ["background", "label 1", "label 2", "enhancing"]
    text = report(made)
    assert "4 ignore: counts neither way" in text and "region core: label 2, enhancing" in text
    assert "4 becomes 3, 9 becomes 4" in text
    written = np.asarray(nib.load(made.folder / "data/labels/c0.nii.gz").dataobj)
    assert np.unique(written).tolist() == [0, 1, 2, 3, 4] and (written[:3] == 4).all()
    pred = json.loads((made.folder / "configs/metadata.json").read_text())["network_data_format"]["outputs"]["pred"]
    assert list(pred["channel_def"].values()) == ["whole", "core", "enhancing"] and pred["num_channels"] == 3
    assert read_bundle(made.folder).labels == {"label 1": 1, "label 2": 2, "enhancing": 3, "ignore": 4}


def test_the_app_takes_what_nobody_judged(tmp_path, no_pictures):
    """Drawn as a segment of the name "ignore"; a retraining of the bundle lets it count neither way."""
    bundle = read_bundle(make(tmp_path, tumors(tmp_path / "source", ignored=IGNORED)).folder)
    save(tmp_path / "studies/a.nii.gz", np.ones(SHAPE, np.float32))
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[:4], drawn[8:12] = 1, 2
    save(tmp_path / "label.nii.gz", drawn)
    studies = StudiesFolder(tmp_path / "studies")
    bundles, names = {bundle.name: bundle}, ["ignore", "label 2"]
    submit_label(studies, bundles, "a", tmp_path / "label.nii.gz", "final", {}, names=names, uploaded=False)
    kept = np.asarray(nib.load(studies.fixed_label("a", "final")[0]).dataobj)
    assert (kept[:4] == IGNORED).all() and (kept[8:12] == 2).all() and np.unique(kept).tolist() == [0, 2, IGNORED]


def test_an_order_that_cannot_be_is_refused_before_anything_is_written(tmp_path, no_pictures):
    source = tumors(tmp_path / "source")
    content = json.loads((source / "dataset.json").read_text())
    describe(source, **content | {"regions_class_order": [3, 2, 1]})
    with pytest.raises(ValueError, match="dataset.json: regions_class_order is .*, by which label"):
        make(tmp_path, source)
    assert not (tmp_path / "bundles/mine/mine.json").exists()


@pytest.mark.slow
def test_it_trains_scores_and_segments(tmp_path, no_pictures):
    source = tumors(tmp_path / "source", ignored=IGNORED)
    made = make(tmp_path, source)
    data, out = made.folder / "data", tmp_path / "out"
    trained = run(made.folder, TRAIN, data, out, steps_per_epoch=2)
    assert trained.network_def(torch.zeros(1, 1, 32, 32, 32)).shape[1] == 3
    run(made.folder, EVALUATE, data, out, steps_per_epoch=2)
    assert {tuple(labels) for labels in read_scores(out / "eval").values()} == {("whole", "core", "enhancing")}
    run(made.folder, INFERENCE, source / "imagesTr", out)
    written = np.asarray(nib.load(out / "eval/c0_0000_seg.nii.gz").dataobj)
    assert written.shape == SHAPE and written.max() <= 3
    assert (out / "eval/volumes.csv").read_text().startswith("case,image,whole (ml),core (ml),enhancing (ml)")
    twice = [str(out / "models/model.pt")] * 2
    run(made.folder, INFERENCE, source / "imagesTr", tmp_path / "twice", checkpoint=twice)
    assert np.array_equal(nib.load(tmp_path / "twice/eval/c0_0000_seg.nii.gz").dataobj, written)
