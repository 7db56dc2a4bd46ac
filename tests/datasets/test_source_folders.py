"""The layouts in which people keep scans and labels."""

import json
import re

import numpy as np
import pytest
from folder_helpers import deny

from rep3d.datasets.sources import ToldLabels, choose_channels, read_labels, read_source
from rep3d.io.geometry import plain_geometry
from rep3d.io.nifti import write_marked

CASES = ("p1", "p2", "p3")


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def describe(folder, **content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")


def decathlon(folder):
    touch(folder, *(f"{part}Tr/{case}.nii.gz" for part in ("images", "labels") for case in CASES))
    pairs = [{"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in CASES]
    describe(folder, labels={"0": "background", "1": "organ"}, modality={"0": "CT"}, training=pairs)


def decathlon_with_validation(folder):
    decathlon(folder)
    content = json.loads((folder / "dataset.json").read_text())
    describe(folder, **content | {"training": content["training"][:2], "validation": content["training"][2:]})


def decathlon_in_folders(folder):
    touch(folder, *(f"{case}/{name}.nii.gz" for name in ("image", "label") for case in CASES))
    pairs = [{"image": f"{case}/image.nii.gz", "label": f"{case}/label.nii.gz"} for case in CASES]
    describe(folder, labels={"0": "background", "1": "organ"}, modality={"0": "CT"}, training=pairs)


def nnunet_1(folder):
    decathlon(folder)
    for case in CASES:
        (folder / f"imagesTr/{case}.nii.gz").rename(folder / f"imagesTr/{case}_0000.nii.gz")


def nnunet_2(folder):
    touch(folder, *(f"imagesTr/{case}_0000.nii.gz" for case in CASES), *(f"labelsTr/{case}.nii.gz" for case in CASES))
    described = {"channel_names": {"0": "CT"}, "file_ending": ".nii.gz", "numTraining": 3}
    describe(folder, labels={"background": 0, "organ": 1}, **described)


def nnunet_2_elsewhere(folder):
    touch(folder, *(f"all/{case}.nii.gz" for case in CASES), *(f"all/{case}_truth.nii.gz" for case in CASES))
    files = {case: {"images": [f"all/{case}.nii.gz"], "label": f"all/{case}_truth.nii.gz"} for case in CASES}
    described = {"channel_names": {"0": "CT"}, "file_ending": ".nii.gz", "dataset": files}
    describe(folder, labels={"background": 0, "organ": 1}, **described)


def ours(folder):
    touch(folder, *(f"{kind}Tr/{case}.nii.gz" for kind in ("images", "labels") for case in CASES[:2]))
    touch(folder, *(f"{kind}Val/p3.nii.gz" for kind in ("images", "labels")))


def two_folders(folder):
    touch(folder, *(f"Images/{case}.nii" for case in CASES), *(f"masks/{case}_mask.nii.gz" for case in CASES))


def numbered_images(folder):
    touch(folder, *(f"images/{case}_0000.nii" for case in CASES), *(f"labels/{case}-seg.nii.gz" for case in CASES))


def studies_of_the_app(folder):
    touch(folder, *(f"{case}.nii.gz" for case in CASES), *(f"labels/final/{case}.nii.gz" for case in CASES))


def one_folder(folder):
    touch(folder, *(f"{case}.nii.gz" for case in CASES), *(f"{case}_seg.nii.gz" for case in CASES))


def one_folder_numbered(folder):
    names = [f"{case}_000{number}" for number, case in enumerate(CASES)]
    touch(folder, *(f"{name}.nii.gz" for name in names), *(f"{name}_seg.nii.gz" for name in names))


def kits(folder):
    touch(folder, *(f"{case}/{name}.nii.gz" for case in CASES for name in ("imaging", "segmentation")))


def words_first(folder):
    touch(folder, *(f"{case}/{name}.nii.gz" for case in CASES for name in (f"ct_{case}", "label_by_hand")))


def other_names_for_each(folder):
    touch(folder, *(f"{case}/{case}_{i}.nii" for i, case in enumerate(CASES)), *(f"{case}/mask.nii" for case in CASES))


def bids(folder):
    for case in CASES:
        touch(
            folder,
            f"sub-{case}/anat/sub-{case}_T1w.nii.gz",
            f"derivatives/truth/sub-{case}/anat/sub-{case}_dseg.nii.gz",
        )


DESCRIBED = [decathlon, decathlon_with_validation, decathlon_in_folders, nnunet_1, nnunet_2, nnunet_2_elsewhere]
TOLD_BY_FOLDERS = [
    *(
        ours,
        two_folders,
        numbered_images,
        studies_of_the_app,
        one_folder,
        one_folder_numbered,
        kits,
        words_first,
        other_names_for_each,
        bids,
    ),
]


@pytest.mark.parametrize("layout", [*DESCRIBED, *TOLD_BY_FOLDERS], ids=lambda layout: layout.__name__)
def test_layouts(layout, tmp_path):
    layout(tmp_path)
    source = read_source(tmp_path)
    own = {decathlon_with_validation: f'"validation" of {tmp_path / "dataset.json"}', ours: "the folders imagesTr and"}
    assert source.split.startswith(own.get(layout, "")) and bool(source.split) == (layout in own)
    scans, problems = choose_channels(source)
    assert not problems and len(scans) == len(source.cases) == 3
    for scan, case in zip(sorted(scans), CASES, strict=True):
        (image,) = scan.images
        assert case in scan.case and image != scan.label
        assert image.is_file() and scan.label.is_file() and case in str(image) and case in str(scan.label)
    assert len({case.patient for case in source.cases}) == 3
    described = layout in DESCRIBED
    assert source.labels == (ToldLabels({0: "background", 1: "organ"}) if described else None)
    assert source.told == (("CT",) if described else ())


def test_folds_of_auto3dseg(tmp_path):
    decathlon(tmp_path)
    content = json.loads((tmp_path / "dataset.json").read_text())
    content["training"][1]["fold"] = 0
    describe(tmp_path, **content)
    assert read_source(tmp_path).split == f'"fold" of {tmp_path / "dataset.json"}'


@pytest.mark.parametrize(
    "place",
    [
        *("nnUNet_raw/Dataset001_A/splits.json", "nnUNet_raw/Dataset001_A/splits_final.json"),
        *("nnUNet_preprocessed/Dataset001_A/splits_final.json", "elsewhere/Dataset001_A/splits_final.json"),
    ],
)
def test_splits_in_a_file(place, tmp_path, monkeypatch):
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    if place.startswith("elsewhere"):
        monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "elsewhere"))
    source = tmp_path / "nnUNet_raw/Dataset001_A"
    nnunet_2(source)
    assert read_source(source).split == ""
    touch(tmp_path, place)
    assert read_source(source).split == str(tmp_path / place)


def make_runs(folder, *files):
    for subject in ("sub-1", "sub-2"):
        touch(folder, *(f"{subject}/anat/{subject}_{name}.nii.gz" for name in files))


def test_runs_of_a_patient(tmp_path):
    """Each is a case; one without label trains nothing, and so does an image that is of none of them."""
    make_runs(tmp_path, "acq-a_run-1_T1w", "acq-a_run-2_T1w", "run-1_dseg", "FLAIR")
    touch(tmp_path, "sub-3/anat/sub-3_acq-a_run-1_T1w.nii.gz", "sub-3/anat/sub-3_dseg.nii.gz")
    source = read_source(tmp_path)
    assert source.channels == ("image",) and not source.notes
    patients = {case.name: case.patient for case in source.cases}
    runs = {f"sub-{i}{end}": f"sub-{i}" for i in (1, 2) for end in ("", "_run-1", "_run-2")}
    assert patients == runs | {"sub-3": "sub-3"}
    scans, problems = choose_channels(source)
    assert not problems and [scan.case for scan in scans] == ["sub-1_run-1", "sub-2_run-1", "sub-3"]
    assert all("run-1_T1w" in scan.images[0].name for scan in scans)
    assert [case.name for case in source.cases if case.label is None] == [
        *("sub-1", "sub-1_run-2", "sub-2", "sub-2_run-2")
    ]


def test_a_label_that_tells_no_run(tmp_path):
    make_runs(tmp_path, "run-1_T1w", "run-2_T1w", "run-1_dseg")
    (tmp_path / "sub-2/anat/sub-2_run-1_dseg.nii.gz").rename(tmp_path / "sub-2/anat/sub-2_dseg.nii.gz")
    scans, problems = choose_channels(read_source(tmp_path))
    assert [scan.case for scan in scans] == ["sub-1_run-1"]
    assert "sub-2_dseg.nii.gz: there is no image of the channel 'T1w' beside this label" in problems["sub-2"][0]


def test_sessions_of_a_patient(tmp_path):
    for session in ("sub-1/ses-a", "sub-1/ses-b", "sub-2/ses-a"):
        name = session.replace("/", "_")
        touch(tmp_path, f"{session}/anat/{name}_T2w.nii.gz", f"{session}/anat/{name}_desc-manual_dseg.nii.gz")
    patients = {case.name: case.patient for case in read_source(tmp_path).cases}
    assert patients == {"sub-1_ses-a": "sub-1", "sub-1_ses-b": "sub-1", "sub-2_ses-a": "sub-2"}


@pytest.mark.parametrize(
    "form",
    [
        *("{kind}", "{session}_{kind}", "{patient}_{kind}", "{patient}_{session}_{kind}"),
        *("{kind}_{session}", "{kind}_{patient}", "{kind}-{patient}_{session}"),
    ],
)
@pytest.mark.parametrize("sessions", [("ses-20200101", "ses-20210101", "ses-20220101"), ("ses-1", "ses-2", "ses-1")])
def test_sessions_in_folders_of_patients(sessions, form, tmp_path):
    """Whatever the folders of patients are called: their cases go into one part of a split."""
    for patient, session in zip(("P01", "P01", "P02"), sessions, strict=True):
        names = [form.format(patient=patient, session=session, kind=kind) for kind in ("t1", "t2", "seg")]
        touch(tmp_path, *(f"{patient}/{session}/{name}.nii.gz" for name in names))
    source = read_source(tmp_path)
    assert source.channels == ("t1", "t2") and not choose_channels(source)[1]
    expected = [f"P01_{sessions[0]}", f"P01_{sessions[1]}", f"P02_{sessions[2]}"]
    assert [(case.name, case.patient) for case in source.cases] == [(name, name[:3]) for name in expected]


def test_patients_of_a_list(tmp_path):
    """A case of which the list tells no patient is one by itself, by the name that tells it from others."""
    decathlon_in_folders(tmp_path)
    content = json.loads((tmp_path / "dataset.json").read_text())
    for entry, patient in zip(content["training"], (7, 7, None), strict=True):
        entry["patient"] = patient
    describe(tmp_path, **content)
    patients = {case.name: case.patient for case in read_source(tmp_path).cases}
    assert patients == {"p1_image": "7", "p2_image": "7", "p3_image": "p3_image"}


@pytest.mark.parametrize(
    ("image", "label", "told"),
    [
        ("images/{}.nii.gz", "labels/{}.nii.gz", None),
        ("{}.nii.gz", "{}_seg.nii.gz", None),
        ("imagesTr/{}_0000.nii.gz", "labelsTr/{}.nii.gz", lambda files: {"channel_names": {"0": "CT"}}),
        ("all/{}.nii.gz", "all/{}_seg.nii.gz", lambda files: {"training": list(files.values())}),
        ("all/{}.nii.gz", "all/{}_seg.nii.gz", lambda files: {"dataset": files}),
    ],
    ids=["two folders", "one folder", "nnU-Net", "a list", "a list of nnU-Net"],
)
def test_patients_by_the_names_of_files(image, label, told, tmp_path):
    """As BIDS has them, in folders of any layout; other names are of one patient each."""
    patients = {
        "sub-01_ses-1": "sub-01",
        "sub-01_acq-a": "sub-01",
        "sub-02": "sub-02",
        "P1_ses-1": "P1",
        "P2_b": "P2_b",
        "sub-siteA_001": "sub-siteA_001",
        "sub-siteA_002": "sub-siteA_002",
        "sub-siteA_P001": "sub-siteA_P001",
    }
    places = {case: (image.format(case), label.format(case)) for case in patients}
    files = {case: {"image": first, "images": [first], "label": last} for case, (first, last) in places.items()}
    touch(tmp_path, *(path for pair in places.values() for path in pair))
    if told:
        describe(tmp_path, **told(files))
    assert {case.name: case.patient for case in read_source(tmp_path).cases} == patients


def test_links_to_folders_of_patients(tmp_path):
    kits(tmp_path / "archive")
    (tmp_path / "chosen").mkdir()
    for case in CASES[:2]:
        (tmp_path / "chosen" / case).symlink_to(tmp_path / "archive" / case)
    assert [scan.case for scan in choose_channels(read_source(tmp_path / "chosen"))[0]] == ["p1", "p2"]


def test_numbers_in_one_folder(tmp_path):
    """Where a label goes without it, a number is a channel's; scans without a label change nothing."""
    touch(tmp_path, *(f"{name}.nii.gz" for name in ("a_0001", "a_0001_seg", "a_0002", "a_0003")))
    source = read_source(tmp_path)
    assert source.channels == ("image",) and [scan.case for scan in choose_channels(source)[0]] == ["a_0001"]
    touch(tmp_path / "two", *(f"{name}.nii.gz" for name in ("a_0000", "a_0001", "a_seg", "b_0000", "b_0001")))
    source = read_source(tmp_path / "two")
    ((scan,), problems) = choose_channels(source)
    assert source.channels == ("0000", "0001") and scan.case == "a" and len(scan.images) == 2 and not problems


def test_labels_without_any_image(tmp_path):
    touch(tmp_path, "a_seg.nii.gz", "b_seg.nii.gz")
    scans, problems = choose_channels(read_source(tmp_path))
    assert not scans and "a_seg.nii.gz: there is no image of the channel 'image' beside" in problems["a"][0]


def keep_names(folder, case, version, names):
    path = folder / f"labels/versions/{case}/{version}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"label_names": names, "user": "somebody"}))


def test_label_names_that_the_app_kept(tmp_path):
    studies_of_the_app(tmp_path)
    touch(tmp_path, ".rep3d/converted/series.nii.gz", "labels/final/series.nii.gz", "labels/versions/p1/0001.nii.gz")
    keep_names(tmp_path, "p1", "0001", {"spleen": 1})
    keep_names(tmp_path, "p1", "0002", {"liver": 1, "tumor": 2})
    keep_names(tmp_path, "series", "0001", {"liver": 1, "tumor": 2})
    (tmp_path / "labels/versions/p1/0002.prompts.json").write_text("[]")
    source = read_source(tmp_path)
    assert source.labels == ToldLabels({0: "background", 1: "liver", 2: "tumor"})
    assert [scan.case for scan in choose_channels(source)[0]] == [*CASES, "series"]


def brats(folder):
    touch(folder, *(f"{case}/{case}_{kind}.nii.gz" for case in CASES for kind in ("flair", "t1", "seg")))


def nnunet_of_two(folder):
    nnunet_2(folder)
    touch(folder, *(f"imagesTr/{case}_0001.nii.gz" for case in CASES))
    described = {"channel_names": {"0": "flair", "1": "t1"}, "file_ending": ".nii.gz"}
    describe(folder, labels={"background": 0, "organ": 1}, **described)


def test_twelve_channels_are_in_the_order_of_their_numbers(tmp_path):
    names = {str(i): f"phase {i}" for i in reversed(range(12))}
    touch(tmp_path, *(f"imagesTr/p1_{i:04d}.nii.gz" for i in range(12)), "labelsTr/p1.nii.gz")
    describe(tmp_path, labels={"background": 0, "organ": 1}, channel_names=names, file_ending=".nii.gz")
    assert read_source(tmp_path).channels == tuple(f"phase {i}" for i in range(12))


def without_names(folder):
    describe(folder, labels={"background": 0, "organ": 1}, file_ending=".nii.gz")


def with_a_name(folder):
    describe(folder, labels={"background": 0, "organ": 1}, file_ending=".nii.gz", channel_names={"0": "T1"})


def with_a_list_of_names(folder):
    describe(folder, labels={"background": 0, "organ": 1}, file_ending=".nii.gz", channel_names=["T1", "T2"])


def listed_without_names(folder):
    pairs = [{"image": f"imagesTr/{case}.nii.gz", "label": f"labelsTr/{case}.nii.gz"} for case in CASES]
    describe(folder, training=pairs)


def listed_with_a_name(folder):
    listed_without_names(folder)
    content = json.loads((folder / "dataset.json").read_text())
    describe(folder, **content | {"modality": {"0": "T1"}})


def listed_with_a_list_of_names(folder):
    listed_without_names(folder)
    content = json.loads((folder / "dataset.json").read_text())
    describe(folder, **content | {"modality": ["T1", "T2"]})


def number_files(folder, channels):
    for number in range(channels):
        touch(folder, *(f"imagesTr/{case}_{number:04d}.nii.gz" for case in CASES))
    touch(folder, *(f"labelsTr/{case}.nii.gz" for case in CASES))


@pytest.mark.parametrize(
    ("layout", "channels"),
    [
        *((layout, ("0000", "0001")) for layout in (without_names, listed_without_names)),
        *((layout, ("T1", "T2")) for layout in (with_a_list_of_names, listed_with_a_list_of_names)),
    ],
)
def test_no_numbered_channel_is_dropped(layout, channels, tmp_path):
    number_files(tmp_path, 2)
    layout(tmp_path)
    source = read_source(tmp_path)
    scans, problems = choose_channels(source)
    assert source.channels == channels and not problems and not source.notes
    assert [[path.name[-11:-7] for path in scan.images] for scan in scans] == [["0000", "0001"]] * len(CASES)


@pytest.mark.parametrize("layout", [with_a_name, listed_with_a_name])
def test_more_numbered_channels_than_names(layout, tmp_path):
    """In the words of `rep3d predict`."""
    number_files(tmp_path, 1)
    touch(tmp_path, "imagesTr/p2_0001.nii.gz")
    layout(tmp_path)
    scans, problems = choose_channels(read_source(tmp_path))
    told = f"{tmp_path / 'imagesTr/p2_0001.nii.gz'} is one more numbered channel of case 'p2', expected 1 of them: T1"
    assert [scan.case for scan in scans] == ["p1", "p3"] and problems == {"p2": [told]}


@pytest.mark.parametrize("layout", [without_names, listed_without_names])
def test_one_numbered_channel_without_a_name(layout, tmp_path):
    number_files(tmp_path, 1)
    (tmp_path / "imagesTr/p2_0000.nii.gz").rename(tmp_path / "imagesTr/p2.nii.gz")
    layout(tmp_path)
    source = read_source(tmp_path)
    assert source.channels == ("image",) and len(choose_channels(source)[0]) == len(CASES)


def test_numbered_files_beside_those_of_a_list(tmp_path):
    number_files(tmp_path, 2)
    pairs = [{"image": f"imagesTr/{case}_0000.nii.gz", "label": f"labelsTr/{case}.nii.gz"} for case in CASES]
    describe(tmp_path, training=pairs)
    note, others = read_source(tmp_path).notes
    assert others.startswith("in no case: 3 NIfTI file(s), such as ")
    assert note.startswith(
        f"3 numbered file(s) beside those that {tmp_path / 'dataset.json'} lists are not taken, such"
    )
    assert note.endswith("imagesTr/p1_0001.nii.gz: list the files of all channels")


def test_channel_names_of_another_form(tmp_path):
    nnunet_2(tmp_path)
    content = json.loads((tmp_path / "dataset.json").read_text())
    describe(tmp_path, **content | {"channel_names": "CT"})
    with pytest.raises(ValueError, match='dataset.json: "channel_names" is \'CT\', expected {"0": name}'):
        read_source(tmp_path)


def nnunet_1_of_two(folder):
    nnunet_1(folder)
    touch(folder, *(f"imagesTr/{case}_0001.nii.gz" for case in CASES))
    content = json.loads((folder / "dataset.json").read_text())
    describe(folder, **content | {"modality": {"0": "flair", "1": "t1"}})


def listed_of_two(folder):
    brats(folder)
    pairs = [
        {"image": [f"{case}/{case}_flair.nii.gz", f"{case}/{case}_t1.nii.gz"], "label": f"{case}/{case}_seg.nii.gz"}
        for case in CASES
    ]
    describe(folder, labels={"0": "background", "1": "organ"}, modality={"0": "flair", "1": "t1"}, training=pairs)


@pytest.mark.parametrize("layout", [brats, nnunet_of_two, nnunet_1_of_two, listed_of_two], ids=lambda f: f.__name__)
def test_several_channels(layout, tmp_path):
    layout(tmp_path)
    source = read_source(tmp_path)
    scans, problems = choose_channels(source)
    assert source.channels == ("flair", "t1") and not problems and len(scans) == len(CASES)
    for flair, t1 in (scan.images for scan in scans):
        assert flair.name.endswith(("_flair.nii.gz", "_0000.nii.gz")) and t1.name.endswith(
            ("_t1.nii.gz", "_0001.nii.gz")
        )
    with pytest.raises(ValueError, match="channel is 't2', expected some of flair, t1"):
        choose_channels(source, ["t2"])
    scans, problems = choose_channels(source, ["t1"])
    assert not problems and all(len(scan.images) == 1 for scan in scans)
    assert all(
        scan.images[0].is_file() and scan.images[0].name.endswith(("_t1.nii.gz", "_0001.nii.gz")) for scan in scans
    )


@pytest.mark.parametrize("layout", [nnunet_of_two, nnunet_1_of_two], ids=lambda f: f.__name__)
def test_numbered_channels_keep_their_order(layout, tmp_path):
    """`rep3d predict` takes numbered files by it."""
    layout(tmp_path)
    assert choose_channels(read_source(tmp_path), ["flair", "t1"]) == choose_channels(read_source(tmp_path))
    with pytest.raises(ValueError, match="channel is 't1,flair', expected flair,t1: the files are numbered so"):
        choose_channels(read_source(tmp_path), ["t1", "flair"])


def test_named_channels_may_have_any_order(tmp_path):
    brats(tmp_path)
    scans, _ = choose_channels(read_source(tmp_path), ["t1", "flair"])
    assert all(scan.images[0].name.endswith("_t1.nii.gz") for scan in scans)


def test_channels_of_one_file_keep_their_order(tmp_path):
    """Names in another order would stand for the wrong volumes."""
    decathlon(tmp_path)
    content = json.loads((tmp_path / "dataset.json").read_text())
    describe(tmp_path, **content | {"modality": {"0": "CT", "1": "PET"}})
    source = read_source(tmp_path)
    scans, problems = choose_channels(source, ["CT", "PET"])
    assert len(scans) == 3 and all(len(scan.images) == 1 for scan in scans) and not problems
    scans, problems = choose_channels(source, ["PET", "CT"])
    told = f"{tmp_path / 'imagesTr/p1.nii.gz'}: holds its channels as CT, PET: give them in that order"
    assert not scans and problems["p1"] == [told]
    _, problems = choose_channels(source, ["PET"])
    assert "holds the channel 'CT' as well: take all, or split the file" in problems["p1"][0]


def test_channels_in_files_of_their_own_in_any_order(tmp_path):
    brats(tmp_path)
    scans, problems = choose_channels(read_source(tmp_path), ["t1", "flair"])
    assert not problems and [path.name for path in scans[0].images] == ["p1_t1.nii.gz", "p1_flair.nii.gz"]


def list_channels(folder, names, files, usual):
    """A list whose last case has other files than the others, by parts of their names."""
    pairs = []
    for case in CASES:
        images = [file.format(case) + ".nii.gz" for file in (files if case == "p3" else usual)]
        touch(folder, *images, f"{case}_seg.nii.gz")
        pairs.append({"image": images, "label": f"{case}_seg.nii.gz"})
    describe(folder, labels={"1": "organ"}, modality=dict(enumerate(names)), training=pairs)
    return choose_channels(read_source(folder))


@pytest.mark.parametrize(
    ("names", "files", "usual", "said"),
    [
        (["T1w", "FLAIR"], ["{}_FLAIR", "{}_T1"], ["{}_T1", "{}_FLAIR"], "p3_FLAIR.nii.gz: is called 'FLAIR'"),
        (["T1w", "FLAIR"], ["{}_T1w", "{}b_T1w"], ["{}_T1w", "{}_FLAIR"], "p3b_T1w.nii.gz: is called 'T1w'"),
        (["T1w", "FLAIR"], ["{}_T1w", "{}b_t1w"], ["{}_0000", "{}_0001"], "p3b_t1w.nii.gz: is called 'T1w'"),
        (["T1", "T1w"], ["{}_T1w", "{}_b"], ["{}_T1", "{}_T1w"], "p3_T1w.nii.gz: is called 'T1w'"),
    ],
)
def test_channels_in_the_place_of_others(names, files, usual, said, tmp_path):
    scans, problems = list_channels(tmp_path, names, files, usual)
    assert [scan.images[0].name[:2] for scan in scans] == ["p1", "p2"]
    ((told,),) = problems.values()
    assert said in told and told.endswith(f"in this place of {', '.join(names)}")


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (["T1w", "FLAIR"], ["{}_0000", "{}_0001"]),
        (["T1w", "FLAIR"], ["a/{}", "b/{}"]),
        (["T1w", "FLAIR"], ["{}_T1w", "{}"]),
        (["T1", "T1w", "T1Gd"], ["{}_T1", "{}_T1w", "{}_T1Gd"]),
        (["w", "T1_w"], ["{}_T1_w", "{}_a_T1_w"]),
        (["T1w", "FLAIR"], ["{}_T1w_on_FLAIR", "{}_FLAIR"]),
        (["1", "3"], ["a/{}_3", "b/{}_3"]),
    ],
)
def test_channels_that_are_in_their_places(names, files, tmp_path):
    """As far as names tell it, of all cases, and of one beside others."""
    for place, usual in (("alike", files), ("alone", [f"{channel}/{{}}" for channel in "xyz"[: len(names)]])):
        scans, problems = list_channels(tmp_path / place, names, files, usual)
        assert len(scans) == 3 and not problems


def test_channels_that_the_others_have_twice_by_their_names(tmp_path):
    """As BIDS has images with and without contrast agent; one case may call them otherwise."""
    usual = ["sub-{}_T1w", "sub-{}_ce-gd_T1w"]
    for files in (usual, ["{}_T1w", "{}_T1ce"]):
        scans, problems = list_channels(tmp_path, ["T1w", "T1ce"], files, usual)
        assert len(scans) == 3 and not problems


@pytest.mark.parametrize("kind", ["label", "channel", "linked channel"])
def test_a_file_of_two_cases(kind, tmp_path):
    """Of one of them it is not, and nobody knows of which."""
    listed_of_two(tmp_path)
    content = json.loads((tmp_path / "dataset.json").read_text())
    first, second = content["training"][:2]
    path = tmp_path / "p1/p1_seg.nii.gz"
    if kind == "label":
        second["label"] = f"p2/../{first['label']}"
    elif kind == "channel":
        path, second["image"] = tmp_path / first["image"][1], [second["image"][0], first["image"][1]]
    else:
        path = tmp_path / first["image"][1]
        (tmp_path / second["image"][1]).unlink()
        (tmp_path / second["image"][1]).symlink_to(path)
    describe(tmp_path, **content)
    source = read_source(tmp_path)
    scans, problems = choose_channels(source)
    assert [scan.case for scan in scans] == ["p3_flair"] and problems.keys() == {"p1_flair", "p2_flair"}
    assert problems["p1_flair"] == [f"{path}: is a file of the cases p1_flair, p2_flair, expected of one"]
    if kind != "label":
        assert len(choose_channels(source, ["flair"])[0]) == 3


def test_empty_labels_of_a_store_of_contents(tmp_path):
    """As git-annex keeps files: equal ones are links to one."""
    listed_of_two(tmp_path)
    for case in ("p1", "p2"):
        label = tmp_path / f"{case}/{case}_seg.nii.gz"
        label.rename(tmp_path / "empty")
        label.symlink_to(tmp_path / "empty")
    assert len(choose_channels(read_source(tmp_path))[0]) == 3


def test_a_missing_channel_is_named(tmp_path):
    brats(tmp_path)
    (tmp_path / "p2/p2_t1.nii.gz").unlink()
    scans, problems = choose_channels(read_source(tmp_path))
    assert [scan.case for scan in scans] == ["p1", "p3"]
    assert problems["p2"] == [
        f"{tmp_path / 'p2/p2_seg.nii.gz'}: there is no image of the channel 't1' beside this label"
    ]


def test_names_that_begin_alike(tmp_path):
    """Each image finds the label of its own name, however that is written; an image may be called as a label is."""
    images = ["case_1.nii.gz", "case_10.NII.GZ", "case_1_seg.nii.gz", "case_11.Nii", "knee.nii.gz"]
    labels = ["case_1.nii.gz", "case_10_seg.nii", "case_1_seg.nii.gz", "seg_case_11.nii.gz", "knee_seg.nii.gz"]
    touch(tmp_path, *(f"images/{name}" for name in images), *(f"labels/{name}" for name in labels))
    scans, problems = choose_channels(read_source(tmp_path))
    assert not problems
    assert {scan.images[0].name: scan.label.name for scan in scans} == dict(zip(images, labels, strict=True))


def test_cases_are_called_as_their_images_are(tmp_path):
    """As predictions of them are; whatever word their labels have."""
    two_folders(tmp_path / "a")
    assert [case.name for case in read_source(tmp_path / "a").cases] == ["p1", "p2", "p3"]
    numbered_images(tmp_path / "b")
    assert [case.name for case in read_source(tmp_path / "b").cases] == ["p1", "p2", "p3"]
    touch(tmp_path / "c", "images/a_seg_0000.nii", "images/a_seg_0001.nii", "labels/a_seg.nii", "images/b.nii")
    found = {case.name: sorted(case.images) for case in read_source(tmp_path / "c").cases}
    assert found == {"a_seg": ["0000", "0001"], "b": ["image"]}


def test_labels_of_studies_that_are_called_otherwise(tmp_path):
    """Their names count all the same."""
    touch(tmp_path, "p1.nii.gz", "labels/final/p1_seg.nii.gz", "labels/versions/p1_seg/0001.nii.gz")
    keep_names(tmp_path, "p1_seg", "0001", {"liver": 1})
    source = read_source(tmp_path)
    assert source.labels == ToldLabels({0: "background", 1: "liver"})
    assert [(scan.case, scan.label.name) for scan in choose_channels(source)[0]] == [("p1", "0001.nii.gz")]


def in_folders(folder, form, names):
    for patient in names:
        touch(folder, *(f"{patient}/{form.format(patient, kind)}.nii.gz" for kind in ("t1", "seg")))


@pytest.mark.parametrize(
    ("names", "form", "wrong", "patient"),
    [
        (("P1", "P2", "P10"), "{}_{}", "P2/P1_seg", "P1"),
        (("P1", "P2", "P10"), "{}_{}", "P1/P10-t2", "P10"),
        (("P1", "P2", "P10"), "{1}", "P2/P1_b_seg", "P1"),
        (("001", "002", "003"), "{}_{}", "002/001_seg", "001"),
        (("sub-1", "sub-2"), "anat/{}_{}", "sub-2/anat/sub-1_seg", "sub-1"),
    ],
)
def test_files_of_another_patient(names, form, wrong, patient, tmp_path):
    own = wrong.partition("/")[0]
    in_folders(tmp_path, form, names)
    if "seg" in wrong:
        (tmp_path / own / f"{form.format(own, 'seg')}.nii.gz").unlink()
    touch(tmp_path, f"{wrong}.nii.gz")
    scans, problems = choose_channels(read_source(tmp_path))
    told = f"{tmp_path / wrong}.nii.gz: is called after the patient {patient!r}, expected {own!r}"
    assert problems[own] == [told] and {*problems} | {scan.case for scan in scans} == {*names}


@pytest.mark.parametrize(
    ("names", "form"),
    [
        (("P1", "P10", "P1_b"), "{}_{}"),
        (("P1", "P1_b"), "P1_{1}"),
        (("1", "2", "3"), "1_{1}"),
    ],
)
def test_names_of_patients_in_names_of_others(names, form, tmp_path):
    in_folders(tmp_path, form, names)
    assert not choose_channels(read_source(tmp_path))[1]


def test_a_label_without_its_image(tmp_path):
    two_folders(tmp_path)
    (tmp_path / "Images/p2.nii").unlink()
    scans, problems = choose_channels(read_source(tmp_path))
    assert len(scans) == 2 and list(problems) == ["p2_mask"]


def test_the_kind_of_image_first(tmp_path):
    """What stands behind it is no patient's name where others have it, too."""
    touch(tmp_path, *(f"{case}/{kind}_{case}.nii.gz" for case in CASES for kind in ("t1", "t2", "seg")))
    source = read_source(tmp_path)
    assert source.channels == ("t1", "t2") and not choose_channels(source)[1]
    echoes = tmp_path / "echoes"
    touch(echoes, *(f"{case}/{kind}.nii.gz" for case in "123" for kind in ("echo_1", "echo_2", "seg")))
    assert read_source(echoes).channels == ("echo_1", "echo_2")
    alone = tmp_path / "alone"
    touch(alone, *(f"1/{kind}.nii.gz" for kind in ("echo", "echo_1", "seg")))
    assert read_source(alone).channels == ("echo", "echo_1")


def unlabelled(folder):
    touch(folder, *(f"{case}/image.nii.gz" for case in CASES))


def empty_labels(folder):
    touch(folder, *(f"images/{case}.nii.gz" for case in CASES))
    (folder / "labels").mkdir()


@pytest.mark.parametrize("layout", [unlabelled, empty_labels], ids=lambda layout: layout.__name__)
def test_without_labels_another_way_is_shown(layout, tmp_path):
    layout(tmp_path)
    with pytest.raises(ValueError, match="no image has a label: segment with `rep3d predict`, or draw labels in the"):
        read_source(tmp_path)


def two_labels(folder):
    kits(folder)
    touch(folder, "p2/second_mask.nii.gz")


def two_forms_of_an_image(folder):
    kits(folder)
    touch(folder, "p2/imaging.nii")


def two_labels_of_an_image(folder):
    two_folders(folder)
    touch(folder, "masks/p2_seg.nii.gz")


def a_label_and_another_form_of_it(folder):
    numbered_images(folder)
    touch(folder, "labels/p2.nii.gz")


def two_forms_of_an_image_in_a_folder(folder):
    two_folders(folder)
    touch(folder, "Images/p2.nii.gz")


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        (two_labels, "case 'p2' has several label maps, expected one: .*second_mask.nii.gz, .*segmentation.nii.gz"),
        (
            two_forms_of_an_image,
            "p2/imaging.nii and .*imaging.nii.gz are both 'imaging' of case 'p2', expected one",
        ),
        (two_labels_of_an_image, "p2_mask.nii.gz and .*p2_seg.nii.gz are both 'label' of case 'p2', expected one file"),
        (a_label_and_another_form_of_it, "p2-seg.nii.gz and .*p2.nii.gz are both 'label' of case 'p2', expected one"),
        (two_forms_of_an_image_in_a_folder, "p2.nii and .*p2.nii.gz are both 'image' of case 'p2', expected one file"),
    ],
)
def test_an_odd_case_is_left_out(layout, said, tmp_path):
    """The others are as they would be without it."""
    layout(tmp_path)
    source = read_source(tmp_path)
    scans, problems = choose_channels(source)
    assert source.channels in (("image",), ("0000",)) and len(source.cases) == len(CASES)
    assert [scan.images[0].name[:2] for scan in scans] in (["p1", "p3"], ["im", "im"])
    ((told,),) = problems.values()
    assert re.search(said, told)


def test_what_belongs_to_no_case_is_counted(tmp_path):
    """Of each layout of files: in folders that it does not look into, and of formats that are not read."""
    for layout, below in ((two_folders, "Images/siteB"), (ours, "imagesTr/siteB"), (decathlon, "imagesTr/siteB")):
        folder = tmp_path / layout.__name__
        layout(folder)
        touch(folder, f"{below}/p8.nii.gz", f"{below}/p9.NII", f"{below}/p9.txt")
        (note,) = read_source(folder).notes
        assert note.startswith(f"in no case: 2 NIfTI file(s), such as {folder / below}/p8.nii.gz: cases are read from")
    kits(tmp_path / "kits")
    touch(tmp_path / "kits", "p4/image.nrrd", "p4/seg.nrrd", "p5/image.mha", "p5/seg.mhd")
    dicom(tmp_path / "kits/p6")
    (note,) = read_source(tmp_path / "kits").notes
    kinds = (("2 NRRD", "p4/image.nrrd"), ("2 MHA", "p5/image.mha"), ("1 DICOM", "p6/slice"))
    told = "; ".join(f"{kind} file(s), such as {tmp_path / 'kits' / name}" for kind, name in kinds)
    assert note.startswith(f"in no case: {told}: ")


def test_what_is_known_to_belong_to_no_case(tmp_path):
    """Test cases, predictions, hidden files, and what BIDS keeps apart; a file that a case has by a link is of it."""
    decathlon(tmp_path / "listed")
    tests = {"test": ["./tests/a.nii.gz", {"image": ["tests/b.nii.gz"], "label": "tests/c.nii.gz"}], "testing": 3}
    describe(tmp_path / "listed", **json.loads((tmp_path / "listed/dataset.json").read_text()) | tests)
    touch(tmp_path / "listed", *(f"tests/{name}.nii.gz" for name in "abc"))
    touch(tmp_path / "listed", "imagesTs/d.nii.gz", "labelsTs/d.nii.gz", "imagesTr/._p1.nii.gz", ".cache/p1.nrrd")
    predicted = np.ones((4, 4, 4), np.uint8)
    write_marked(predicted, plain_geometry(predicted.shape, np.eye(4)), tmp_path / "listed/eval.nii.gz")
    bids(tmp_path / "bids")
    touch(tmp_path / "bids", "derivatives/x/sub-p1/sub-p1.mha")
    dicom(tmp_path / "bids/sourcedata")
    studies_of_the_app(tmp_path / "studies")
    touch(tmp_path / "studies", "labels/original/p1.nii.gz", "p9.nrrd")
    two_folders(tmp_path / "linked")
    (tmp_path / "linked/Images/p1.nii").rename(tmp_path / "linked/p1.nii")
    (tmp_path / "linked/Images/p1.nii").symlink_to(tmp_path / "linked/p1.nii")
    for folder in ("listed", "bids", "studies", "linked"):
        assert not read_source(tmp_path / folder).notes, folder


def two_places(folder):
    two_folders(folder)
    (folder / "scans").mkdir()


def dicom(folder):
    folder.mkdir(exist_ok=True)
    (folder / "slice").write_bytes(b"\0" * 128 + b"DICM")


def dicom_without_preamble(folder):
    folder.mkdir(exist_ok=True)
    (folder / "slice").write_bytes(b"\x08\0\x16\0UI" + b"\0" * 200)


def a_word_for_a_list(folder):
    describe(folder, training=["imagesTr/p1.nii.gz"])


def a_number_for_a_list(folder):
    decathlon(folder)
    describe(folder, **json.loads((folder / "dataset.json").read_text()) | {"validation": 5})


def images_in_subfolders(folder):
    touch(folder, "images/a/x.nii.gz", "images/b/y.nii", "labels/x.nii.gz")


def too_many_images(folder):
    touch(folder, "a.nii", "b.nii", "l.nii")
    describe(folder, modality={"0": "x"}, training=[{"image": ["a.nii", "b.nii"], "label": "l.nii"}])


def nothing_listed(folder):
    describe(folder, name="x")


def nnunet_of_other_files(folder):
    touch(folder, "imagesTr/a_0000.nrrd", "labelsTr/a.nrrd")
    describe(folder, channel_names={"0": "CT"}, labels={"background": 0, "organ": 1}, file_ending=".nrrd")


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        (two_places, "Images or .*scans. expected one folder each"),
        (dicom, "holds no .nii.gz or .nii files, .*DICOM is not read here"),
        (dicom_without_preamble, "holds no .nii.gz or .nii files, .*DICOM is not read here"),
        (lambda folder: folder.mkdir(exist_ok=True), "holds no .nii.gz or .nii files, expected a dataset.json, the"),
        (a_word_for_a_list, "dataset.json: lists 'imagesTr/p1.nii.gz', expected {\"image\": path"),
        (too_many_images, "dataset.json: a has 2 images, expected 1, one a channel"),
        (nnunet_of_other_files, "dataset.json: \"file_ending\" is '.nrrd', expected one of .nii.gz, .nii"),
        (a_number_for_a_list, 'dataset.json: "validation" is 5, expected a list of cases'),
        (
            images_in_subfolders,
            "images holds no .nii.gz or .nii files; 2 lie in its subfolders, such as .*a/x.nii.gz: mo",
        ),
        (nothing_listed, 'dataset.json: lists no "training", and there is no folder labelsTr'),
    ],
)
def test_folders_that_are_refused(layout, said, tmp_path):
    layout(tmp_path)
    with pytest.raises(ValueError, match=said):
        read_source(tmp_path)


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="source .*absent' does not exist: give the folder of the data set"):
        read_source(tmp_path / "absent")
    touch(tmp_path, "a.nii.gz")
    with pytest.raises(FileNotFoundError, match="a.nii.gz' is no folder: give the folder of the data set"):
        read_source(tmp_path / "a.nii.gz")


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (None, None),
        ({"1": "liver", "0": "air"}, ToldLabels({0: "air", 1: "liver"})),
        ({"background": 0, "tumor": 2, "liver": 1}, ToldLabels({0: "background", 1: "liver", 2: "tumor"})),
        ({"3": "liver"}, ToldLabels({0: "background", 3: "liver"})),
        ({"background": 0, "liver": 1, "Ignore": 4}, ToldLabels({0: "background", 1: "liver"}, ignored=4)),
        (
            {"background": 0, "whole": [1, 2, 4], "core": [2, 4], "enhancing": 4},
            ToldLabels(
                {0: "background", 1: "label 1", 2: "label 2", 4: "enhancing"},
                {"whole": [1, 2, 4], "core": [2, 4], "enhancing": [4]},
                [1, 2, 4],
            ),
        ),
    ],
)
def test_labels(labels, names, tmp_path):
    assert read_labels(tmp_path, labels, [1, 2, 4]) == names


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["liver"], 'expected {"1": name} or {name: 1}'),
        ({"background": 0, "whole": [1, 2]}, 'has regions, and "regions_class_order" is None, expected an id for each'),
        ({"background": 0, "liver": 1, "ignore": 1}, "has an id or a name twice"),
        ({"background": 0, "liver": 1, "ignore": [1, 2]}, "has ignore: [1, 2], expected an id of its own"),
        ({"background": 0, "whole": [1, 2], "ignore": 2}, "has ignore: [2], expected an id of its own"),
        ({"liver": 1, "spleen": 1}, "has an id or a name twice"),
        ({"1": "Liver", "2": "liver"}, "has an id or a name twice"),
        ({"liver": 1.5}, "has liver: 1.5, expected whole numbers from 0 to 255"),
        ({"300": "liver"}, "has liver: 300, expected whole numbers from 0 to 255"),
    ],
)
def test_label_names_that_are_refused(labels, said, tmp_path):
    with pytest.raises(ValueError, match=re.escape(said)):
        read_labels(tmp_path, labels)


def test_one_image_a_case_of_several_kinds(tmp_path):
    """They train as one channel, which is said; one kind can be chosen. Names of single cases tell no kind."""
    kinds = {"p1": "T1w", "p2": "FLAIR", "p3": "T1w"}
    touch(tmp_path, *(f"{case}/{name}.nii.gz" for case, kind in kinds.items() for name in (f"{case}_{kind}", "seg")))
    source = read_source(tmp_path)
    assert source.channels == ("image",) and len(choose_channels(source)[0]) == 3
    (note,) = source.notes
    assert "called T1w (2), FLAIR (1): taken for one channel; `--channel T1w` takes" in note
    scans, problems = choose_channels(read_source(tmp_path, ["T1w"]), ["T1w"])
    assert [scan.case for scan in scans] == ["p1", "p3"] and "no image of the channel 'T1w'" in problems["p2"][0]
    (tmp_path / "p3/p3_T1w.nii.gz").rename(tmp_path / "p3/p3_other.nii.gz")
    assert not read_source(tmp_path).notes
    assert read_source(tmp_path, ["image"]).channels == ("image",)


def test_the_folder_of_several_data_sets_is_refused(tmp_path):
    """Their cases would be patients of one."""
    for name in ("liver", "spleen"):
        decathlon(tmp_path / name)
    touch(tmp_path, "p1/image.nii.gz", "p1/seg.nii.gz")
    with pytest.raises(ValueError, match="holds data set.s. with a dataset.json: give one of liver, spleen"):
        read_source(tmp_path)


def test_a_folder_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    """Its patient would be missing without a word."""
    touch(tmp_path, *(f"{case}/{name}.nii.gz" for name in ("image", "seg") for case in CASES))
    deny(monkeypatch, tmp_path / "p2")
    with pytest.raises(PermissionError, match=str(tmp_path / "p2")):
        read_source(tmp_path)
