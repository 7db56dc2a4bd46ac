"""`dataset.json` as other tools write it, and folders: read where it is plain, else refused by name."""

import json

import nibabel as nib
import numpy as np
import pytest

from rep3d.data.dataset_json import read_dataset_json
from rep3d.data.lists import PARTS, load_datalist, load_inference_list
from rep3d.io.nifti import mark

PAIRS = [{"image": f"imagesTr/c{i}.nii.gz", "label": f"labelsTr/c{i}.nii.gz"} for i in range(6)]
NNUNET = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "left": 1},
    "numTraining": 6,
    "file_ending": ".nii.gz",
}


def write(folder, content, encoding="utf-8"):
    folder.mkdir(exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(content), encoding=encoding)
    return folder


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def all_images(folder, fold=0):
    return sorted(item["image"] for part in PARTS for item in load_datalist(folder, part, fold))


EXPECTED = [f"imagesTr/c{i}.nii.gz" for i in range(6)]
LABEL_NAMES = ["background", "liver", "spleen"]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"0": "background", "1": "Spleen", "2": "liver"}, "'Spleen' as 1"),
        ({"background": 0, "milt": 1, "liver": 2}, "'liver' as 2"),
        ({"background": 0, "liver": 1, "ignore": 2}, "'ignore' as 2"),
    ],
)
def test_labels_with_other_ids_than_the_bundles(labels, said, tmp_path):
    write(tmp_path, {"labels": labels, "training": PAIRS})
    with pytest.raises(ValueError, match=rf'dataset.json: "labels" has {said}, expected 0 background, 1 liver, 2 spl'):
        load_datalist(tmp_path, "training", label_names=LABEL_NAMES)
    assert load_datalist(tmp_path, "training")


@pytest.mark.parametrize(
    "labels",
    [None, {"1": "Liver ", "2": "milt"}, {"both": [1, 2], "spleen": 2}, {"liver": 1, "spleen": 2, "ignore": 3}],
)
def test_labels_that_do_not_contradict_the_bundles(labels, tmp_path):
    write(tmp_path, {"labels": labels, "training": PAIRS})
    assert load_datalist(tmp_path, "training", label_names=LABEL_NAMES)


REGIONS = {"whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"whole": [1, 2, 3], "Core": [1, 3], "enhancing": 3}, "'Core' as 1, 3, expected the ids 2, 3 of"),
        ({"whole": [1, 2, 3], "core": ["2", "3"], "enhancing": 2}, "'enhancing' as 2, expected the ids 3 of"),
    ],
)
def test_regions_of_other_ids_than_the_bundles(labels, said, tmp_path):
    write(tmp_path, {"labels": labels, "training": PAIRS})
    with pytest.raises(ValueError, match=rf'dataset.json: "labels" has {said} the bundle'):
        load_datalist(tmp_path, "training", label_names=["background", "a", "b", "c"], regions=REGIONS)


@pytest.mark.parametrize(
    "labels",
    [None, {"core": [3, 2], "tumor": [1, 3]}, {"1": "whole", "2": "core", "3": "enhancing"}, {"a": 1, "b": 2, "c": 3}],
)
def test_regions_that_do_not_contradict_the_bundles(labels, tmp_path):
    write(tmp_path, {"labels": labels, "training": PAIRS})
    assert load_datalist(tmp_path, "training", label_names=["background", "a", "b", "c"], regions=REGIONS)


@pytest.mark.parametrize("part", ["training", "test"])
def test_lists_of_channels_in_another_order_than_the_bundles(part, tmp_path):
    """Such as MONAI's of BraTS and nnU-Net's."""
    pairs = [{"image": [f"c{i}-flair.nii.gz", f"c{i}-t1.nii.gz"], "label": f"c{i}.nii.gz"} for i in range(6)]
    write(tmp_path, {"training": pairs, "test": [{"image": pair["image"]} for pair in pairs]})
    call = load_inference_list if part == "test" else lambda folder, names: load_datalist(folder, part, 0, (), names)
    assert call(tmp_path, ["FLAIR", "T1"]) and call(tmp_path, ["FLAIR", "T1w"])
    with pytest.raises(
        ValueError, match="-flair.nii.gz: is called 'FLAIR', expected the channel 'T1w' in this place of"
    ):
        call(tmp_path, ["T1w", "FLAIR"])
    with pytest.raises(ValueError, match="-flair.nii.gz, .*-t1.nii.gz: another order by their names, expected T1, FL"):
        call(tmp_path, ["T1", "FLAIR"])


@pytest.mark.parametrize("key", ["channel_names", "modality"])
@pytest.mark.parametrize("names", [{"0": "T1w", "1": "flair", "2": "ADC"}, ["T1w", "flair", "ADC"]], ids=str)
def test_channels_in_another_order_than_the_bundles(key, names, tmp_path):
    write(tmp_path, {key: names, "training": PAIRS, "test": ["c7.nii.gz"]})
    for call in (
        lambda names: load_datalist(tmp_path, "training", channel_names=names),
        lambda names: load_inference_list(tmp_path, names),
    ):
        assert call(["T1w", "FLAIR"]) and call(["T1", "FLAIR", "DWI"]) and call(["FLAIR"])
        with pytest.raises(ValueError, match=f'dataset.json: "{key}" has .T1w. as 0, expected 0 FLAIR, 1 T1w, as the'):
            call(["FLAIR", "T1w"])


@pytest.mark.parametrize(
    "content, encoding",
    [
        ({"training": [{**pair, "image": [pair["image"]]} for pair in PAIRS]}, "utf-8"),
        ({"training": [{key: [path] for key, path in pair.items()} for pair in PAIRS]}, "utf-8"),
        ({"training": PAIRS, "labels": {"0": 0, "1": "left"}}, "utf-8"),
        ({"training": PAIRS, "validation": None, "test": None}, "utf-8"),
        ({"training": PAIRS}, "utf-8-sig"),
        ({"training": PAIRS, "testing": [{"image": "imagesTs/t.nii.gz"}]}, "utf-8"),
    ],
    ids=["image list", "lists", "integer label", "null lists", "byte order mark", "testing"],
)
def test_lists_that_are_plain(content, encoding, tmp_path):
    write(tmp_path, content, encoding)
    assert all_images(tmp_path) == [str(tmp_path / image) for image in EXPECTED]
    for item in load_datalist(tmp_path, "training"):
        assert item.keys() == {"image", "label"}


@pytest.mark.parametrize(
    "content, message",
    [
        (
            {"training": [*PAIRS, {"image": None, "label": None}]},
            'entry 6 of "training": "image" is None, expected a path',
        ),
        ({"training": [*PAIRS, None]}, 'entry 6 of "training" is None, expected "path" or'),
        ({"training": [*PAIRS, {"image": "x.nii", "label": None}]}, '"training" lists .*x.nii without a label'),
        ({"training": [*PAIRS, {"label": "x.nii"}]}, '"image" is None, expected a path'),
        (
            {"training": [{"image": "a.nii", "label": ["a_0000.nii", "a_0001.nii"]}]},
            '"label" is a list of 2 paths, expected one label map',
        ),
        ({"training": [{"image": 7, "label": "a.nii"}]}, '"image" is 7, expected a path'),
        ({"training": {"a": "b"}}, '"training" is a dict, expected a list'),
        ({"training": [{**PAIRS[0], "fold": "x"}]}, "\"fold\" is 'x', expected a whole number"),
        ({"training": [{**PAIRS[0], "case": ""}]}, "\"case\" is '', expected a name"),
        ({**NNUNET, "channel_names": "T1"}, '"channel_names" is \'T1\', expected {"0": name}'),
        ({**NNUNET, "file_ending": ".mha"}, "\"file_ending\" is '.mha', expected one of .nii.gz, .nii"),
    ],
)
def test_lists_that_are_refused(content, message, tmp_path):
    with pytest.raises(ValueError, match=rf"dataset.json: .*{message}"):
        load_datalist(write(tmp_path, content), "training")


def test_utf_16_is_named(tmp_path):
    with pytest.raises(ValueError, match="dataset.json: no valid JSON"):
        read_dataset_json(write(tmp_path, {"training": PAIRS}, "utf-16"))


@pytest.mark.parametrize("content", [None, {"file_ending": ".nii.gz"}], ids=["folders", "nnU-Net"])
def test_label_maps_without_an_image_are_said_once(content, tmp_path, caplog):
    """Or they would lack in an average without a word."""
    touch(tmp_path, *(f"{kind}Ts/{case}.nii.gz" for kind in ("images", "labels") for case in "ab"), "labelsTs/c.nii.gz")
    touch(tmp_path, "imagesTr/x.nii.gz", "labelsTr/x.nii.gz")
    if content:
        write(tmp_path, content)
    for _ in range(2):
        assert len(load_datalist(tmp_path, "test")) == 2
    told = (
        f"{tmp_path / 'labelsTs'}: 1 label map(s) have no image in {tmp_path / 'imagesTs'}, and are left out: c.nii.gz"
    )
    assert caplog.messages == [told]


# --- nnU-Net


def test_nnunet(tmp_path):
    """Version 2 lists nothing; a case has its label's name."""
    write(tmp_path, NNUNET)
    touch(tmp_path, *(f"imagesTr/c{i}_0000.nii.gz" for i in range(6)), *(f"labelsTr/c{i}.nii.gz" for i in range(6)))
    touch(tmp_path, "imagesTs/t_0000.nii.gz")
    parts = [load_datalist(tmp_path, part) for part in PARTS]
    assert [len(part) for part in parts] == [4, 1, 1]
    assert sorted(item["case"] for part in parts for item in part) == [f"c{i}" for i in range(6)]
    assert load_inference_list(tmp_path) == [{"image": str(tmp_path / "imagesTs/t_0000.nii.gz"), "case": "t"}]
    (tmp_path / "splits.json").write_text(json.dumps([{"train": ["c0"], "val": ["c5"]}]))  # as nnU-Net names them
    assert [item["case"] for item in load_datalist(tmp_path, "validation")] == ["c5"]


def test_which_images_are_segmented_of_a_data_set_without_test_images(tmp_path, caplog):
    """Not all of them, which is said."""
    caplog.set_level("INFO")
    write(tmp_path, {"training": [{"image": f"images/{i}.nii", "label": f"labels/{i}.nii"} for i in range(10)]})
    touch(tmp_path, *(f"{kind}/{i}.nii" for kind in ("images", "labels") for i in range(10)))
    assert len(load_inference_list(tmp_path)) == 2
    assert f"{tmp_path} lists no test images: 2 with labels are segmented" in caplog.text
    caplog.clear()
    assert len(load_inference_list(tmp_path / "images")) == 10 and not caplog.messages


def test_scores_and_label_maps_go_by_one_name(tmp_path):
    """Of the whole data set, not of the one test case or of the image without its label."""
    pairs = [{"image": f"case_{i}/ct.nii.gz", "label": f"case_{i}/truth.nii.gz"} for i in range(3)]
    write(tmp_path / "exports", {"training": pairs[:1], "validation": pairs[1:2], "test": pairs[2:]})
    write(tmp_path / "nnunet", NNUNET)
    touch(
        tmp_path / "nnunet",
        "imagesTr/c_0000.nii.gz",
        "labelsTr/c.nii.gz",
        "imagesTs/t_0000.nii.gz",
        "labelsTs/t.nii.gz",
    )
    for kind in ("Tr", "Val"):
        touch(tmp_path / "folders", f"images{kind}/{kind}_0000.nii.gz", f"labels{kind}/{kind}.nii.gz")
    for name, case in (("exports", "case_2/ct"), ("nnunet", "t"), ("folders", "Val")):
        (scored,), (segmented,) = load_datalist(tmp_path / name, "test"), load_inference_list(tmp_path / name)
        assert scored["case"] == segmented["case"] == case and scored["image"] == segmented["image"]


def test_nnunet_with_two_channels(tmp_path):
    write(tmp_path, NNUNET)
    touch(tmp_path, "imagesTr/c0_0000.nii.gz", "imagesTr/c0_0001.nii.gz", "labelsTr/c0.nii.gz")
    touch(tmp_path, "imagesTr/c1_0001.nii.gz", "labelsTr/c1.nii.gz", "imagesTr/c2_0000.nii.gz", "labelsTr/c2.nii.gz")
    items = [item for part in ("training", "validation", "test") for item in load_datalist(tmp_path, part)]
    assert sorted(item["case"] for item in items) == ["c0", "c1", "c2"]
    for item in items:  # also where one is missing: whoever reads it names it
        expected = [str(tmp_path / f"imagesTr/{item['case']}_{number:04d}.nii.gz") for number in (0, 1)]
        assert item["image"] == expected


@pytest.mark.parametrize("told", [{"channel_names": ["T1", "T2"]}, {"modality": ["T1", "T2"]}, {}], ids=str)
def test_nnunet_with_a_list_of_names_or_none(told, tmp_path):
    """As `rep3d new` takes them."""
    write(tmp_path, told | {"file_ending": ".nii.gz"})
    for case in ("imagesTr/c0", "imagesTr/c1", "imagesTs/t"):
        touch(tmp_path, *(f"{case}_{number:04d}.nii.gz" for number in (0, 1)))
    touch(tmp_path, "labelsTr/c0.nii.gz", "labelsTr/c1.nii.gz")
    items = [item for part in PARTS[:2] for item in load_datalist(tmp_path, part)]
    items += load_inference_list(tmp_path, ["T1", "T2"] if told else ["0000", "0001"])
    assert sorted(item["case"] for item in items) == ["c0", "c1", "t"]
    assert all([path[-11:-7] for path in item["image"]] == ["0000", "0001"] for item in items)


def test_channels_of_scans_to_segment(tmp_path):
    touch(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz", "b_T1w.nii", "b_T2w.nii", "whole.nii.gz")
    named = {item.get("case"): item["image"] for item in load_inference_list(tmp_path, ["T1w", "T2w"])}
    assert named == {
        "a": [str(tmp_path / "a_0000.nii.gz"), str(tmp_path / "a_0001.nii.gz")],
        "b": [str(tmp_path / "b_T1w.nii"), str(tmp_path / "b_T2w.nii")],
        "whole": str(tmp_path / "whole.nii.gz"),
    }
    other = tmp_path / "other"
    touch(other, "a_w.nii", "a_T1_w.nii")
    (item,) = load_inference_list(other, ["w", "T1_w"])
    assert item == {"image": [str(other / "a_w.nii"), str(other / "a_T1_w.nii")], "case": "a"}
    (one,) = load_inference_list(tmp_path / "a_0001.nii.gz", ["T1w", "T2w"])
    assert one["image"] == named["a"]
    assert len(load_inference_list(tmp_path)) == 5  # of a bundle with one channel each is an image


def test_files_that_are_called_as_their_channels(tmp_path):
    """As in a folder for each patient, which trains so."""
    touch(tmp_path, "p1/T1w.nii.gz", "p1/T2w.nii.gz")
    files = [str(tmp_path / "p1/T1w.nii.gz"), str(tmp_path / "p1/T2w.nii.gz")]
    for scans in (tmp_path / "p1", tmp_path / "p1/T2w.nii.gz"):
        assert load_inference_list(scans, ["T1w", "T2w"]) == [{"image": files, "case": "p1"}]
    numbers = tmp_path / "numbers"
    touch(numbers, "0000.nii.gz", "0001.nii.gz")
    assert len(load_inference_list(numbers, ["0000", "0001"])) == 2  # cases, of four dimensions


@pytest.mark.parametrize("names", ["a_flair a_t1w", "a-FLAIR a-T1w", "Flair T1W"])
def test_one_channel_of_several_that_is_written_otherwise(names, tmp_path, caplog):
    """Than by the bundle: the others are not taken for it."""
    touch(tmp_path, *(f"{name}.nii" for name in names.split()))
    assert [item["image"] for item in load_inference_list(tmp_path, ["FLAIR"])] == [
        f"{tmp_path}/{names.split()[0]}.nii"
    ]
    assert "1 file(s) are not of the channel FLAIR, and left out" in caplog.text


def test_one_channel_of_several(tmp_path, caplog):
    """Of a bundle that was made for it; where no name tells it, none is taken for it."""
    touch(tmp_path, "a_T1w.nii", "a_FLAIR.nii", "b_FLAIR.nii", "c.nii")
    flair = [{"image": str(tmp_path / f"{case}_FLAIR.nii"), "case": case} for case in "ab"]
    assert load_inference_list(tmp_path, ["FLAIR"]) == flair
    assert "2 file(s) are not of the channel FLAIR, and left out" in caplog.text and "a_T1w.nii" in caplog.text
    assert load_inference_list(tmp_path / "c.nii", ["FLAIR"]) == [{"image": str(tmp_path / "c.nii")}]
    touch(tmp_path / "numbered", "a_0000.nii", "a_0001.nii")
    with pytest.raises(ValueError, match="a_0001.nii is one more numbered channel of case 'a', expected 1 of them: FL"):
        load_inference_list(tmp_path / "numbered", ["FLAIR"])


def test_more_numbered_channels_than_the_network_takes(tmp_path):
    """Nobody tells which of them it was trained on."""
    touch(tmp_path, *(f"a_{number:04d}.nii.gz" for number in range(4)))
    for scans in (tmp_path, tmp_path / "a_0001.nii.gz"):
        with pytest.raises(
            ValueError, match="a_0002.nii.gz is one more numbered channel of case 'a', expected 2.*t1ce"
        ):
            load_inference_list(scans, ["t1ce", "flair"])
    assert load_inference_list(tmp_path, ["flair", "t1", "t1ce", "t2"])[0]["case"] == "a"


@pytest.mark.parametrize("channels", [["0001", "0000"], ["0000", "0002"]], ids="-".join)
def test_channels_that_are_called_by_numbers(channels, tmp_path):
    touch(tmp_path, *(f"a_{number:04d}.nii.gz" for number in range(3)))
    images = [item["image"] for item in load_inference_list(tmp_path, channels)]
    assert [str(tmp_path / f"a_{number}.nii.gz") for number in channels] in images


# --- one case, one place


@pytest.mark.parametrize(
    "lists, message",
    [
        ({"training": PAIRS * 2}, 'imagesTr/c0.nii.gz stands in "training" and in "training"'),
        ({"training": PAIRS, "validation": PAIRS[:3]}, 'imagesTr/c0.nii.gz stands in "training" and in "validation"'),
        ({"training": PAIRS, "test": PAIRS[5:]}, 'imagesTr/c5.nii.gz stands in "training" and in "test"'),
        (
            {"training": PAIRS, "validation": [{**PAIRS[2], "image": "./imagesTr/../imagesTr/c2.nii.gz"}]},
            'imagesTr/c2.nii.gz stands in "training" and in "validation"',
        ),
    ],
)
@pytest.mark.parametrize("part", PARTS)
def test_an_image_that_is_listed_twice(lists, message, part, tmp_path):
    with pytest.raises(ValueError, match=rf"dataset.json: .*{message}"):
        load_datalist(write(tmp_path, lists), part)


@pytest.mark.parametrize("with_splits", [False, True])
@pytest.mark.parametrize("suffix", ["Val", "Ts"])
def test_a_case_in_two_folders(suffix, with_splits, tmp_path):
    touch(tmp_path, *(f"{kind}{part}/same.nii.gz" for kind in ("images", "labels") for part in ("Tr", suffix)))
    if with_splits:
        (tmp_path / "splits.json").write_text(json.dumps([{"train": ["same"], "val": ["same"]}]))
    with pytest.raises(ValueError, match=f"imagesTr/same.nii.gz and .*images{suffix}/same.nii.gz are both case 'same'"):
        load_datalist(tmp_path, "training")


@pytest.mark.parametrize("twin", ["a.nii", "a_0000.nii.gz"])
def test_two_images_for_one_label(twin, tmp_path):
    touch(tmp_path, "imagesTr/a.nii.gz", f"imagesTr/{twin}", "labelsTr/a.nii.gz")
    with pytest.raises(ValueError, match="are both case 'a', expected one file"):
        load_datalist(tmp_path, "training")


def test_cases_whose_names_end_like_a_channel(tmp_path):
    for kind in ("images", "labels"):
        touch(tmp_path, *(f"{kind}Tr/scan_{i:04d}.nii.gz" for i in (0, 1)), f"{kind}Val/scan_0002.nii.gz")
    assert [len(load_datalist(tmp_path, part)) for part in PARTS] == [2, 1, 1]
    (tmp_path / "splits.json").write_text(json.dumps([{"train": ["scan_0000", "scan_0001"], "val": ["scan_0002"]}]))
    images = [item["image"] for item in load_datalist(tmp_path, "training")]
    assert images == [str(tmp_path / f"imagesTr/scan_000{i}.nii.gz") for i in (0, 1)]


# --- "fold"

FOLDS = [{**pair, "fold": i % 3} for i, pair in enumerate(PAIRS)]


@pytest.mark.parametrize("fold", range(3))
def test_fold_keys(fold, tmp_path):
    """As Auto3DSeg writes them: the pairs of the fold validate."""
    write(tmp_path, {"training": FOLDS})
    training, validation, test = (load_datalist(tmp_path, part, fold) for part in PARTS)
    assert [item["image"][-8] for item in validation] == [str(fold), str(fold + 3)]
    assert len(training) == 4 and not {item["image"] for item in training} & {item["image"] for item in validation}
    assert test == validation and training[0].keys() == {"image", "label"}


def test_fold_keys_that_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r'fold is 3, but the "fold" keys in .*dataset.json are \[0, 1, 2\]'):
        load_datalist(write(tmp_path, {"training": FOLDS}), "training", 3)
    with pytest.raises(ValueError, match='dataset.json: has "fold" keys and a list "validation"'):
        load_datalist(write(tmp_path, {"training": FOLDS[1:], "validation": PAIRS[:1]}), "training")


def test_one_label_for_two_images(tmp_path):
    pairs = [PAIRS[0], {**PAIRS[1], "label": PAIRS[0]["label"]}, *PAIRS[2:]]
    with pytest.raises(ValueError, match='dataset.json: .*c0.nii.gz stands in "training" and in "training"'):
        load_datalist(write(tmp_path, {"training": pairs}), "training")


def test_pairs_without_a_fold_among_others(tmp_path):
    with pytest.raises(ValueError, match='1 pair.s. have no "fold", such as .*, and others have one'):
        load_datalist(write(tmp_path, {"training": [*FOLDS[:-1], PAIRS[-1]]}), "training")


def test_label_maps_of_ours_among_the_images(tmp_path):
    """As an inference leaves them whose output_dir is that of the images."""
    touch(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz", "imagesVal/b.nii.gz", "labelsVal/b.nii.gz")
    volume = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    volume.header["descrip"] = mark(np.zeros((2, 2, 2), np.uint8))
    nib.save(volume, tmp_path / "imagesTr/a_seg.nii.gz")
    assert [item["image"] for item in load_datalist(tmp_path, "training")] == [str(tmp_path / "imagesTr/a.nii.gz")]
