"""Images of several channels: in one file or in one each, from the data set to the label map."""

import json
import re

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_helpers import EVALUATE, INFERENCE, TRAIN, run
from channel_helpers import AFFINE, NAMES, SHAPE, case, describe, in_one_each, in_one_file, make, save
from monai.data import MetaTensor
from monai.transforms import ClipIntensityPercentilesd, Compose, NormalizeIntensityd

from rep3d.console.errors import root_cause
from rep3d.data.checks import check_datalist
from rep3d.data.leakage import image_digests
from rep3d.data.lists import load_datalist, load_inference_list
from rep3d.datasets import own_bundle
from rep3d.datasets.own_bundle import report
from rep3d.datasets.preparation import prepare
from rep3d.evaluation.scores import read_scores
from rep3d.io.geometry import VolumeError
from rep3d.io.nifti import read_channels, read_geometry, read_volume
from rep3d.io.reader import NiftiReader
from rep3d.transforms import NormalizeChannelsd


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(own_bundle, "write_fingerprint", lambda *_: None)


def content_of(made):
    return json.loads((made.folder / "mine.json").read_text())


# --- files


def test_files_of_four_dimensions(tmp_path):
    _, image = case(0)
    save(tmp_path / "a.nii.gz", image)
    save(tmp_path / "five.nii.gz", image[:, :, :, None, :])
    for name in ("a.nii.gz", "five.nii.gz"):
        voxels, geometry = read_channels(tmp_path / name)
        assert np.array_equal(voxels, np.moveaxis(image, -1, 0))
        assert geometry.shape == SHAPE and geometry.channels == 2 and geometry.nbytes == image.nbytes
    for read in (read_geometry, read_volume):
        with pytest.raises(VolumeError, match=r"shape \(20, 18, 12, 2\), expected three dimensions"):
            read(tmp_path / "a.nii.gz")
    save(tmp_path / "two.nii.gz", np.zeros((*SHAPE, 2, 3), np.float32))
    with pytest.raises(VolumeError, match=r"shape \(20, 18, 12, 2, 3\), expected three dimensions"):
        read_geometry(tmp_path / "two.nii.gz", several=True)


def test_one_file_reads_as_one_each(tmp_path):
    _, image = case(0)
    save(tmp_path / "a.nii.gz", image)
    files = [tmp_path / f"a_000{channel}.nii.gz" for channel in range(2)]
    for channel, path in enumerate(files):
        save(path, image[..., channel])
    whole, _ = NiftiReader().get_data((tmp_path / "a.nii.gz",))
    assert np.array_equal(whole, NiftiReader().get_data(tuple(files))[0])
    digests = image_digests([str(tmp_path / "a.nii.gz"), str(files[0])])
    assert len(set(digests.values())) == 1 and len(digests) == 2  # an image that trains cannot judge as the other
    save(files[1], image[..., 1], np.diag([1.0, 1.0, 2.0, 1.0]))
    with pytest.raises(VolumeError, match="a_0001.nii.gz: affine .* differs .*a_0000.nii.gz"):
        NiftiReader().get_data(tuple(files))


def shifted(folder):
    save(folder / "imagesTr/c1_0001.nii.gz", np.ones(SHAPE, np.float32), np.diag([-1.0, -1.0, 2.5, 1.0]))
    return "imagesTr/c1_0001.nii.gz: affine .* of its image .*c1_0000.nii.gz"


def missing(folder):
    (folder / "imagesTr/c1_0001.nii.gz").unlink()
    return "imagesTr/c1_0001.nii.gz: no such file: the channel 'ADC' of its case is missing"


def missing_first(folder):
    (folder / "imagesTr/c1_0000.nii.gz").unlink()
    return "imagesTr/c1_0000.nii.gz: no such file: the channel 'T2w' of its case is missing"


def nan_in_the_second(folder):
    save(folder / "imagesTr/c1_0001.nii.gz", np.full(SHAPE, np.nan, np.float32))
    return "imagesTr/c1_0001.nii.gz: 4320 voxel"


@pytest.mark.parametrize(
    "spoil", [shifted, missing, missing_first, nan_in_the_second], ids=lambda spoil: spoil.__name__
)
def test_a_bad_channel_is_named(spoil, tmp_path):
    folder = in_one_each(tmp_path)
    said = spoil(folder)
    items = [item for part in ("training", "validation", "test") for item in load_datalist(folder, part)]
    with pytest.raises(ValueError, match=rf"1 problem\(s\)(.|\n)*{said}"):
        check_datalist(items, 2, channel_names=NAMES)


def test_another_number_of_channels_is_named(tmp_path):
    folder = in_one_file(tmp_path)
    save(folder / "imagesTr/c1.nii.gz", case(1)[1][..., :1])
    items = [item for part in ("training", "validation", "test") for item in load_datalist(folder, part)]
    with pytest.raises(ValueError, match=r"c1.nii.gz: 1 channel\(s\) of an image, expected 2: T2w, ADC"):
        check_datalist(items, 2, channel_names=NAMES)
    with pytest.raises(ValueError, match=r"2 problem\(s\)(.|\n)*shape \(20, 18, 12, 2\), expected three dimensions"):
        check_datalist(items, 2)


# --- intensities


def test_each_channel_by_its_own_rule():
    image = torch.stack([torch.linspace(-1000, 1000, 1000), torch.linspace(0, 1e6, 1000)]).reshape(2, 10, 10, 10)
    ct, pet = NormalizeChannelsd("image", [[-100, 300], None])({"image": image})["image"]
    assert ct.min() == 0 and ct.max() == 1 and torch.isclose(ct.flatten()[500], torch.tensor(0.2525), atol=1e-3)
    assert abs(pet.mean()) < 1e-3 and 0.9 < pet.std() < 1.1


def test_the_scan_of_channels_is_remembered():
    """Its grid, to which the label map goes back."""
    scan = MetaTensor(
        torch.rand(2, 4, 4, 4), affine=torch.diag(torch.tensor([2.0, 2, 2, 1])), meta={"original_affine": 1}
    )
    scan.push_applied_operation({"class": "Spacing"})
    for windows in (None, [0, 1], [[0, 1], None]):
        found = NormalizeChannelsd("image", windows)({"image": scan})["image"]
        assert found.meta["original_affine"] == 1 and torch.equal(found.affine, scan.affine)
        assert found.applied_operations == scan.applied_operations


def test_all_channels_by_one_rule():
    """Without a window as bundles of `rep3d new` had it before, to the bit: MONAI's own transforms."""
    image = torch.randn((2, 9, 8, 7), generator=torch.manual_seed(0)) * 300
    monais = [
        ClipIntensityPercentilesd("image", lower=0.05, upper=99.95, channel_wise=True),
        NormalizeIntensityd("image", channel_wise=True),
    ]
    for one in (image, image[:1]):
        z_scores = NormalizeChannelsd("image", None)({"image": MetaTensor(one)})["image"]
        expected = Compose(monais)({"image": MetaTensor(one)})["image"]
        assert torch.equal(z_scores, expected) and z_scores.dtype == expected.dtype
    windowed = NormalizeChannelsd("image", [-100, 100])({"image": image})["image"]
    assert torch.equal(windowed, ((image + 100) / 200).clip(0, 1))


# --- a bundle


def test_ct_beside_another_modality(tmp_path):
    for number in range(2):
        label, image = case(number)
        image[..., 0] -= 1000 * (label == 0)
        save(tmp_path / f"source/images/c{number}.nii.gz", image)
        save(tmp_path / f"source/labels/c{number}.nii.gz", label)
    made = make(tmp_path, tmp_path / "source")
    common = content_of(made)["common"]
    (low, high), z_score = common["intensity_window"]
    assert 100 < low < 130 < high < 160 and z_score is None and made.plan.recipes == ["automatic", "channels"]
    assert common["channel_names"] == ["channel 0", "channel 1"] and made.plan.modality == "CT and MR"
    readme = (made.folder / "docs/README.md").read_text()
    assert f"channel 0 window {low:g} to {high:g} to 0-1; channel 1 z-scored per case" in readme
    lines = report(made)
    assert "channel 0, modality CT" in lines and "channel 1, intensity z-scored" in lines
    tensor = json.loads((made.folder / "configs/metadata.json").read_text())["network_data_format"]["inputs"]["image"]
    assert tensor["num_channels"] == 2 and tensor["channel_def"] == {"0": "channel 0", "1": "channel 1"}


def test_volumes_that_nobody_names(tmp_path):
    """They may be times."""
    for number in range(2):
        label, image = case(number)
        save(tmp_path / f"source/images/c{number}.nii.gz", image)
        save(tmp_path / f"source/labels/c{number}.nii.gz", label)
    told = (
        "the 2 volumes of each image file are taken for channels, since nothing says what they are: a series over time"
    )
    assert f"{told} is not read" in make(tmp_path, tmp_path / "source").notes
    for layout in (in_one_file, in_one_each):
        made = make(tmp_path / layout.__name__, layout(tmp_path / f"named_{layout.__name__}"))
        assert made.cases == 3 and not [note for note in made.notes if "volumes" in note]


@pytest.mark.parametrize(("layout", "channels"), [(in_one_each, ["ADC"]), (in_one_each, ["T2w", "ADC"])])
def test_some_channels_are_chosen(layout, channels, tmp_path):
    made = make(tmp_path, layout(tmp_path / "source"), channels=channels)
    for item in load_datalist(made.folder / "data", "training"):
        files = item["image"] if isinstance(item["image"], list) else [item["image"]]
        assert [path[-11:-7] for path in files] == [f"{NAMES.index(name):04d}" for name in channels]


def test_one_of_several_channels_is_what_it_segments(tmp_path):
    made = make(tmp_path, in_one_each(tmp_path / "source"), channels=["ADC"])
    names = json.loads((made.folder / "configs/inference.json").read_text())["channel_names"]
    assert names == content_of(made)["common"]["channel_names"] == ["ADC"]
    for channel in NAMES:
        save(tmp_path / f"scans/a_{channel}.nii.gz", np.ones(SHAPE, np.float32))
    assert [item["image"] for item in load_inference_list(tmp_path / "scans", names)] == [
        str(tmp_path / "scans/a_ADC.nii.gz")
    ]
    with pytest.raises(ValueError, match="c0_0001.nii.gz is one more numbered channel of case 'c0', expected 1"):
        load_inference_list(tmp_path / "source/imagesTr", names)


@pytest.mark.parametrize(("told", "expected"), [({}, ["0000", "0001"]), ({"channel_names": NAMES}, NAMES)], ids=str)
def test_numbered_files_are_all_channels(told, expected, tmp_path):
    """Where dataset.json names none, or by a list; and they are segmented as they trained."""
    source = in_one_each(tmp_path / "source")
    describe(source, labels={"background": 0, "organ": 1}, file_ending=".nii.gz", **told)
    made = make(tmp_path, source)
    names = content_of(made)["common"]["channel_names"]
    assert names == expected and not made.problems
    trained = {tuple(item["image"]) for item in load_datalist(made.folder / "data", "training")}
    segmented = {tuple(item["image"]) for item in load_inference_list(source / "imagesTr", names)}
    assert trained < segmented and len(segmented) == 3 and {len(files) for files in segmented} == {2}
    (tested,) = load_inference_list(source, names)
    assert tuple(tested["image"]) in segmented


def test_a_part_of_one_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="c0.nii.gz: holds the channel 'T2w' as well: take all, or split the file"):
        make(tmp_path, in_one_file(tmp_path / "source"), channels=["ADC"])


def test_cases_with_other_channels_are_left_out(tmp_path):
    source = in_one_file(tmp_path / "source", 4)
    save(source / "imagesTr/c1.nii.gz", case(1)[1][..., :1])
    save(source / "imagesTr/c2.nii.gz", np.repeat(case(2)[1], 2, axis=3))
    made = make(tmp_path, source)
    assert set(made.problems) == {"c1", "c2"} and "channels: 0 T2w, 1 ADC" in report(made)
    assert "c1.nii.gz: 1 channel(s) of an image, expected 2: T2w, ADC" in report(made)


def test_a_case_that_lists_its_channels_in_another_order_is_left_out(tmp_path):
    files = {number: [f"c{number}_{name}.nii.gz" for name in NAMES[:: -1 if number == 1 else 1]] for number in range(4)}
    for number, listed in files.items():
        label, image = case(number)
        save(tmp_path / f"source/c{number}.nii.gz", label)
        for channel, file in enumerate(listed):
            save(tmp_path / "source" / file, image[..., channel])
    pairs = [{"image": listed, "label": f"c{i}.nii.gz", "case": f"c{i}"} for i, listed in files.items()]
    modality = dict(zip("01", NAMES, strict=True))
    made = make(tmp_path, describe(tmp_path / "source", labels={"1": "organ"}, modality=modality, training=pairs))
    ((name, (problem,)),) = made.problems.items()
    assert name == "c1" and problem.endswith("c1_T2w.nii.gz: another order by their names, expected T2w, ADC")


@pytest.mark.slow
@pytest.mark.parametrize("layout", [in_one_file, in_one_each])
def test_it_trains_scores_and_segments(layout, tmp_path):
    source = layout(tmp_path / "source")
    made = make(tmp_path, source)
    data, out = made.folder / "data", tmp_path / "out"
    assert content_of(made)["common"]["channel_names"] == NAMES
    small = {"steps_per_epoch": 2}
    trained = run(made.folder, TRAIN, data, out, **small)
    assert next(p for p in trained.network_def.parameters() if p.ndim == 5).shape[1] == 2
    run(made.folder, EVALUATE, data, out, **small)
    assert list(read_scores(out / "eval")) and "organ" in (out / "eval/summary.md").read_text()
    scans = source / "imagesTr"
    if layout is in_one_each:
        (scans / "c1_0001.nii.gz").unlink()
        with pytest.raises(RuntimeError) as raised:
            run(made.folder, INFERENCE, scans, out)
        assert re.match(r"1 of 3 case\(s\) .*\n.*c1_0001.nii.gz: no such file", str(root_cause(raised.value)))
        scans = scans / "c0_0001.nii.gz"
    run(made.folder, INFERENCE, scans, out, preview=True)
    written = nib.load(out / "eval/c0_seg.nii.gz")
    assert written.shape == SHAPE and np.allclose(written.affine, AFFINE)
    assert (out / "eval/c0_seg.png").read_bytes().startswith(b"\x89PNG")
    first = (out / "eval/c0_seg.nii.gz").stat().st_mtime_ns
    run(made.folder, INFERENCE, scans, out, preview=True)
    assert (out / "eval/c0_seg.nii.gz").stat().st_mtime_ns == first
    if layout is in_one_each:
        scans.touch()  # the second channel
        run(made.folder, INFERENCE, scans, out, preview=True)
        assert (out / "eval/c0_seg.nii.gz").stat().st_mtime_ns > first


def test_prepare_links_all_channels(tmp_path):
    dataset = {
        "common": {"label_names": ["background", "organ"], "channel_names": NAMES},
        "data": {
            "layout": "decathlon",
            "task": "x",
            "task_labels": ["background", "organ"],
            "split": {"training": 2, "validation": 1, "test": 0},
            "folds": 1,
        },
        "metadata": {"name": "x", "task": "x", "modality": "MR", "data_source": "x"},
        "readme": {"licence": "x"},
    }
    for layout in (in_one_file, in_one_each):
        source = layout(tmp_path / layout.__name__)
        describe(
            source, **json.loads((source / "dataset.json").read_text()) | {"labels": {"0": "background", "1": "organ"}}
        )
        prepared = prepare(dataset, source, tmp_path / f"out_{layout.__name__}")
        assert len(prepared.facts) == 3 and not prepared.problems
        for item in load_datalist(tmp_path / f"out_{layout.__name__}", "training"):
            check_datalist([item], 2, channel_names=NAMES)
