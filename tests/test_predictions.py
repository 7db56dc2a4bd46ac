"""`rep3d predict`: what lies beside the label maps, and what a second run does."""

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_helpers import INFERENCE, ROOT, run, small_bundle
from matplotlib.figure import Figure

from rep3d.console.errors import root_cause
from rep3d.data.regions import scored_regions
from rep3d.io import volumes
from rep3d.io.colors import distinct_colors
from rep3d.io.geometry import plain_geometry
from rep3d.predictions.results import Results, _volumes

pytest.importorskip("highdicom")
from dicom_helpers import change_tags, write_series  # noqa: E402

REAL = ROOT.parent / "shared/data/abdomen_ct_dicom"
SHAPE, SPACING = (40, 34, 12), (1.5, 2.0, 3.0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return small_bundle(tmp_path_factory.mktemp("bundle"), "kits")


@pytest.fixture(scope="module")
def labels(bundle):
    names = json.loads((bundle / "configs/inference.json").read_text())["label_names"]
    return {name: index for index, name in enumerate(names) if index}


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """One in NIfTI, one in NRRD, a DICOM series, and one of which a slice is damaged."""
    folder = tmp_path_factory.mktemp("scans")
    voxels = np.full(SHAPE, -1000, np.int16)
    voxels[5:30, 6:28, 2:] = np.random.default_rng(0).integers(-100, 200, (25, 22, 10))
    affine = np.diag([-SPACING[0], SPACING[1], SPACING[2], 1])
    nib.save(nib.Nifti1Image(voxels, affine), folder / "a.nii.gz")
    volumes.write_label_map(voxels, plain_geometry(SHAPE, affine), folder / "b.nrrd", labels={}, dtype="int16")
    write_series(folder / "study/ct", slices=6)
    write_series(folder / "study/cut", slices=6)[2].write_bytes(b"")
    return folder


def predict(bundle, scans, folder, **options):
    run(bundle, INFERENCE, scans, folder, "evaluating", ckpt_dir=str(bundle / "models/trained"), **options)
    return folder / "eval"


@pytest.fixture(scope="module")
def done(bundle, scans, tmp_path_factory):
    """All scans, of which one cannot be read."""
    folder = tmp_path_factory.mktemp("done")
    with pytest.raises(RuntimeError) as failed:
        predict(bundle, scans, folder, preview=True)
    return SimpleNamespace(folder=folder / "eval", said=str(root_cause(failed.value)))


def table(folder):
    with (folder / "volumes.csv").open(newline="", encoding="utf-8") as file:
        return {row.pop("case"): row for row in csv.DictReader(file)}


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*_seg*")}


def test_all_but_the_damaged_one(done, scans):
    assert done.said.splitlines() == [
        "1 of 4 case(s) could not be segmented:",
        f"  {scans / 'study/cut'}: 002.dcm: no DICOM file",
    ]
    beside = [f"{case}_seg{suffix}" for case in ("a", "b", "ct") for suffix in (".json", ".nii.gz", ".png")]
    written = [*beside, "ct_seg.dcm", "inference.log", "predictions.json", "volumes.csv"]
    assert sorted(path.name for path in done.folder.iterdir()) == sorted(written)
    for picture in done.folder.glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_label_maps_lie_on_their_scans(done, scans):
    for case, image in (("a", scans / "a.nii.gz"), ("b", scans / "b.nrrd")):
        label, scan = (volumes.read_geometry(path) for path in (done.folder / f"{case}_seg.nii.gz", image))
        assert label.shape == scan.shape and np.allclose(label.affine, scan.affine)
    voxels = [volumes.read_volume(done.folder / f"{case}_seg.nii.gz")[0] for case in "ab"]
    np.testing.assert_array_equal(*voxels)
    assert len(np.unique(voxels[0])) > 1


def test_volumes(done, scans, labels):
    rows = table(done.folder)
    assert list(rows) == ["a", "b", "ct"] and rows["ct"]["image"] == str(scans / "study/ct")
    for case, edges in (("a", SPACING), ("b", SPACING), ("ct", (2, 2, 3))):
        voxels = nib.load(done.folder / f"{case}_seg.nii.gz").get_fdata()
        expected = {f"{name} (ml)": (voxels == index).sum() * np.prod(edges) / 1000 for name, index in labels.items()}
        assert {name: float(ml) for name, ml in rows[case].items() if name != "image"} == pytest.approx(
            expected, abs=1e-3
        )


def test_volumes_of_small_animals_and_of_regions():
    """A thousand voxels of 20 micrometres are no 0 ml; what label maps show by another id counts in its regions."""
    voxels = np.zeros((20, 10, 10), np.uint8)
    voxels[:10], voxels[10:12] = 1, 3
    names = ["background", "kidney", "tumor", "cyst"]
    found = _volumes(voxels, np.diag([-0.02, 0.02, 0.02, 1]), scored_regions(names))
    assert found == pytest.approx({"kidney": 8e-6, "tumor": 0, "cyst": 1.6e-6})
    found = _volumes(voxels, np.eye(4), scored_regions(names, {"all": [1, 2, 3], "masses": [2, 3]}))
    assert found == pytest.approx({"all": 1.2, "masses": 0.2})


def test_names_and_colours_beside_nifti(done, labels):
    told = json.loads((done.folder / "a_seg.json").read_text())
    assert told["label_map"] == "a_seg.nii.gz" and told["bundle"] == "kits"
    assert {label["name"]: label["value"] for label in told["labels"]} == labels
    assert all(0 <= part <= 255 for label in told["labels"] for part in label["color"])


def test_dicom_segmentation(done, scans, labels):
    import pydicom

    from rep3d.io.dicom import sorted_slices
    from rep3d.io.dicom_seg import is_own_proposal, read_segmentation

    dataset = pydicom.dcmread(done.folder / "ct_seg.dcm")
    found, affine, segments = read_segmentation(dataset, sorted_slices(scans / "study/ct"))
    written = nib.load(done.folder / "ct_seg.nii.gz")
    back = np.zeros_like(found)
    for name, number in segments.items():
        back[found == number] = labels[name]
    np.testing.assert_array_equal(back, np.asarray(written.dataobj))
    assert np.allclose(affine, written.affine, atol=1e-3) and is_own_proposal(dataset)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the DICOM series is not here")
def test_a_real_study(bundle, labels, tmp_path, caplog):
    """One series twice: as it is stored by a PACS, and as JPEG 2000 without UIDs, to which no SEG can refer."""
    import pydicom

    from rep3d.io.dicom import sorted_slices
    from rep3d.io.dicom_seg import read_segmentation

    for kind in ("uncompressed", "dicom"):
        shutil.copytree(REAL / kind, tmp_path / "study" / kind)
    windows = {"patch_size": [128, 128, 32], "sliding_window#inferer#overlap": 0.1}
    out = predict(bundle, tmp_path / "study", tmp_path, **windows)
    grid = nib.load(REAL / "label_amos.nii.gz")
    maps = {kind: nib.load(out / f"{kind}_seg.nii.gz") for kind in ("uncompressed", "dicom")}
    for label_map in maps.values():
        same = nib.orientations.ornt_transform(nib.io_orientation(label_map.affine), nib.io_orientation(grid.affine))
        found = label_map.as_reoriented(same)
        assert found.shape == grid.shape and np.allclose(found.affine, grid.affine, atol=1e-2)
    voxels = np.asarray(maps["uncompressed"].dataobj)
    np.testing.assert_array_equal(voxels, np.asarray(maps["dicom"].dataobj))
    assert {int(i) for i in np.unique(voxels)} > {0}
    assert not (out / "dicom_seg.dcm").exists() and "a segmentation cannot refer to it" in caplog.text
    segmentation = pydicom.dcmread(out / "uncompressed_seg.dcm")
    slices = sorted_slices(tmp_path / "study/uncompressed")
    drawn, affine, segments = read_segmentation(segmentation, slices)
    back = np.zeros_like(drawn)
    for name, number in segments.items():
        back[drawn == number] = labels[name]
    np.testing.assert_array_equal(back, voxels)
    assert np.allclose(affine, maps["uncompressed"].affine, atol=1e-3)
    scan = pydicom.dcmread(slices[0], stop_before_pixels=True)
    for tag in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "Rows", "Columns"):
        assert segmentation.get(tag) == scan.get(tag)
    rows = table(out)
    for name, index in labels.items():
        expected = (voxels == index).sum() * abs(np.linalg.det(grid.affine[:3, :3])) / 1000
        assert float(rows["uncompressed"][f"{name} (ml)"]) == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_names_and_colours_inside_seg_nrrd(bundle, scans, done, labels, tmp_path):
    from rep3d.io.nrrd import read_header
    from rep3d.io.segments import read_segments

    path = predict(bundle, scans / "a.nii.gz", tmp_path, output_format="seg.nrrd") / "a_seg.seg.nrrd"
    nifti = done.folder / "a_seg.nii.gz"
    np.testing.assert_array_equal(volumes.read_volume(path)[0], volumes.read_volume(nifti)[0])
    assert np.allclose(volumes.read_geometry(path).affine, volumes.read_geometry(nifti).affine)
    assert read_segments(path) == labels
    color = read_header(path).fields["Segment0_Color"].split()
    assert [float(part) for part in color] == pytest.approx(distinct_colors(labels)[next(iter(labels))], abs=1e-5)
    assert not path.with_name("a_seg.json").exists() and volumes.is_untouched(path)
    before = times(path.parent)
    predict(bundle, scans / "a.nii.gz", tmp_path, output_format="seg.nrrd")
    assert times(path.parent) == before
    voxels, geometry = volumes.read_volume(path)
    volumes.write_label_map(1 - voxels.clip(0, 1), geometry, path, labels=labels)  # as somebody else saves it
    assert not volumes.is_untouched(path)
    with pytest.raises(RuntimeError) as failed:
        predict(bundle, scans / "a.nii.gz", tmp_path, output_format="seg.nrrd")
    assert "a_seg.seg.nrrd: not as rep3d wrote it, and so not replaced" in str(root_cause(failed.value))


def test_scans_of_one_name_do_not_replace_each_other(bundle, scans, tmp_path, monkeypatch):
    """Not of another folder either; a link, or the same folder by another path, is the same scan."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.nii.gz").write_bytes((scans / "a.nii.gz").read_bytes())
    monkeypatch.chdir(tmp_path / "one")
    folder = predict(bundle, "a.nii.gz", tmp_path)
    first = times(folder)
    with pytest.raises(RuntimeError) as refused:
        predict(bundle, tmp_path / "two", tmp_path)
    told = f"{folder / 'a_seg.nii.gz'} is of {tmp_path / 'one/a.nii.gz'}, and would be replaced by that of "
    assert str(root_cause(refused.value)) == f"{told}{tmp_path / 'two/a.nii.gz'}: give another output_dir"
    assert times(folder) == first
    (tmp_path / "link").symlink_to(tmp_path / "one")
    predict(bundle, tmp_path / "link", tmp_path)
    assert list(table(folder)) == ["a"]


def test_another_format_takes_the_place_of_the_first(bundle, scans, tmp_path):
    """One label map of a scan, and nothing beside it that tells of another one."""
    folder = predict(bundle, scans / "a.nii.gz", tmp_path, preview=True)
    predict(bundle, scans / "a.nii.gz", tmp_path, output_format="seg.nrrd")
    assert [path.name for path in folder.glob("a_seg*")] == ["a_seg.seg.nrrd"]
    predict(bundle, scans / "a.nii.gz", tmp_path, output_format="nii")
    assert sorted(path.name for path in folder.glob("a_seg*")) == ["a_seg.json", "a_seg.nii"]
    nib.save(nib.Nifti1Image(np.ones(SHAPE, np.uint8), np.eye(4)), folder / "a_seg.nii")
    with pytest.raises(RuntimeError) as refused:
        predict(bundle, scans / "a.nii.gz", tmp_path)
    assert "a_seg.nii: not as rep3d wrote it, and so not replaced" in str(root_cause(refused.value))
    assert not (folder / "a_seg.nii.gz").exists()


def test_a_label_map_that_the_record_does_not_know_is_made_anew(bundle, scans, tmp_path):
    """Such as of a run with other settings that ended before it wrote its record. The table is whole after each run."""
    folder = predict(bundle, scans / "a.nii.gz", tmp_path)
    path, table_before = folder / "a_seg.nii.gz", (folder / "volumes.csv").read_text()
    voxels, geometry = volumes.read_volume(path)
    volumes.write_marked(1 - voxels.clip(0, 1), geometry, path, {})
    predict(bundle, scans / "a.nii.gz", tmp_path)
    np.testing.assert_array_equal(volumes.read_volume(path)[0], voxels)
    before = times(folder)
    (folder / "volumes.csv").unlink()
    predict(bundle, scans / "a.nii.gz", tmp_path)
    assert (folder / "volumes.csv").read_text() == table_before and times(folder) == before


@pytest.mark.slow
def test_a_scan_that_is_replaced_while_it_is_segmented(bundle, scans, tmp_path, monkeypatch):
    """Its label map is of the old one, which the record tells: the next run segments the new one."""
    scan, add = tmp_path / "a.nii.gz", Results.add
    scan.write_bytes((scans / "a.nii.gz").read_bytes())

    def replace_and_add(results, evaluator):
        image = nib.load(scans / "a.nii.gz")
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[::-1], image.affine), scan)
        add(results, evaluator)

    with monkeypatch.context() as patch:
        patch.setattr(Results, "add", replace_and_add)
        folder = predict(bundle, scan, tmp_path)
    of_the_old = volumes.read_volume(folder / "a_seg.nii.gz")[0]
    predict(bundle, scan, tmp_path)
    assert (volumes.read_volume(folder / "a_seg.nii.gz")[0] != of_the_old).any()
    before = times(folder)
    predict(bundle, scan, tmp_path)
    assert times(folder) == before


def test_somebody_elses_dicom_segmentation_stays_and_so_does_its_label_map(bundle, scans, tmp_path):
    """One that was drawn on, and saved under the name of the proposal."""
    import pydicom

    series = scans / "study/ct"
    folder = predict(bundle, series, tmp_path)
    dataset = pydicom.dcmread(folder / "ct_seg.dcm")
    dataset.Manufacturer = "somebody"
    dataset.save_as(folder / "ct_seg.dcm")
    before = times(folder)
    predict(bundle, series, tmp_path)  # which has nothing to do
    with pytest.raises(RuntimeError) as failed:
        predict(bundle, series, tmp_path, **{"sliding_window#inferer#overlap": 0.5})
    assert f"{folder / 'ct_seg.dcm'}: not made by rep3d, and so not replaced" in str(root_cause(failed.value))
    assert times(folder) == before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("volumes.csv", "case,image,age,liver (ml)\na,a.nii.gz,51,1500\n"),
        ("volumes.csv", "Patient;Größe\n1;2\n"),
        ("predictions.json", '{"accuracy": 0.9}'),
        ("predictions.json", "[0.9]"),
        ("volumes.csv", ""),
    ],
)
def test_somebody_elses_tables_stay(name, content, bundle, scans, tmp_path):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / name).write_text(content, encoding="latin-1")
    with pytest.raises(RuntimeError) as refused:
        predict(bundle, scans / "a.nii.gz", tmp_path)
    said = str(root_cause(refused.value))
    assert said.startswith(f"{tmp_path / 'eval' / name}: ") and len(said.splitlines()) == 1
    assert (tmp_path / "eval" / name).read_text(encoding="latin-1") == content
    assert not list((tmp_path / "eval").glob("*_seg*"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a_seg.json", b'{"labels": [], "reader": "somebody"}'),
        ("a_seg.json", b"notes"),
        ("a_seg.png", b"\x89PNG\r\n\x1a\n of somebody"),
    ],
)
def test_what_somebody_else_put_beside_label_maps_stays(name, content, bundle, scans, tmp_path):
    """Its scan is named, and not segmented; without a picture to draw, one of somebody else is in nobody's way."""
    folder = tmp_path / "eval"
    folder.mkdir()
    (folder / name).write_bytes(content)
    with pytest.raises(RuntimeError) as failed:
        predict(bundle, scans / "a.nii.gz", tmp_path, preview=True)
    assert f"{folder / name}: not made by rep3d, and so not replaced" in str(root_cause(failed.value))
    assert not (folder / "a_seg.nii.gz").exists() and (folder / name).read_bytes() == content
    if name == "a_seg.png":
        for overlap in (0.25, 0.5):  # the second time the record knows the scan
            predict(bundle, scans / "a.nii.gz", tmp_path, **{"sliding_window#inferer#overlap": overlap})
        assert (folder / "a_seg.nii.gz").is_file() and (folder / name).read_bytes() == content


@pytest.mark.slow
def test_files_of_a_run_that_was_killed_are_replaced(bundle, scans, tmp_path):
    """All but the record were written; and so are pictures of versions that put no name of ours into them."""
    folder = predict(bundle, scans / "a.nii.gz", tmp_path, preview=True)
    (folder / "predictions.json").unlink()
    first = times(folder)
    predict(bundle, scans / "a.nii.gz", tmp_path, preview=True)
    again = times(folder)
    assert len(again) == 3 and all(again[name] > first[name] for name in first)
    picture = folder / "a_seg.png"
    Figure().savefig(picture, format="png")
    predict(bundle, scans / "a.nii.gz", tmp_path, preview=True, **{"sliding_window#inferer#overlap": 0.5})
    assert b"rep3d" in picture.read_bytes()


def test_a_series_of_which_no_dicom_segmentation_can_be_made_is_segmented_once(bundle, tmp_path, caplog):
    """It has no frame of reference, by which one would belong to it."""
    change_tags(write_series(tmp_path / "scans/ct", slices=6), FrameOfReferenceUID="")
    folder = predict(bundle, tmp_path / "scans/ct", tmp_path)
    assert "no DICOM segmentation of" in caplog.text and not (folder / "ct_seg.dcm").exists()
    assert any(json.loads((folder / "predictions.json").read_text())["cases"]["ct"]["volumes"].values())
    before = times(folder)
    predict(bundle, tmp_path / "scans/ct", tmp_path)
    assert times(folder) == before


@pytest.mark.parametrize("content", ["{", '{"cases": []}', '{"cases": {"a": {"image": 1}}}'])
def test_a_damaged_record_is_named(content, bundle, scans, tmp_path):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval/predictions.json").write_text(content)
    with pytest.raises(RuntimeError) as refused:
        predict(bundle, scans / "a.nii.gz", tmp_path)
    assert "eval/predictions.json: no " in str(root_cause(refused.value))


@pytest.mark.slow
def test_a_second_run_does_what_is_missing(bundle, scans, tmp_path, caplog):
    one = tmp_path / "scans"
    one.mkdir()
    for name in "ac":
        (one / f"{name}.nii.gz").write_bytes((scans / "a.nii.gz").read_bytes())
    folder = predict(bundle, one, tmp_path)
    first = times(folder)
    (folder / "c_seg.nii.gz").unlink()
    predict(bundle, one, tmp_path, preview=True)
    assert "1 of 2 scan(s) were segmented by an earlier run with the same weights and settings" in caplog.text
    again = times(folder)
    assert again["a_seg.nii.gz"] == first["a_seg.nii.gz"] and (folder / "a_seg.png").is_file()
    assert again["c_seg.nii.gz"] > first["c_seg.nii.gz"] and list(table(folder)) == ["a", "c"]
    (one / "a.nii.gz").touch()
    predict(bundle, one, tmp_path, refinement=[])
    assert (
        times(folder)["a_seg.nii.gz"] > first["a_seg.nii.gz"] and times(folder)["c_seg.nii.gz"] == again["c_seg.nii.gz"]
    )


@pytest.mark.parametrize("change", ["weights", "overlap"])
def test_other_weights_and_settings_start_anew(change, bundle, scans, tmp_path):
    folder = predict(bundle, scans / "a.nii.gz", tmp_path)
    first, options = times(folder), {"sliding_window#inferer#overlap": 0.5}
    if change == "weights":
        weights = torch.load(bundle / "models/model.pt")
        weights[next(iter(weights))] += 0.1
        torch.save(weights, tmp_path / "other.pt")
        options = {"checkpoint": str(tmp_path / "other.pt")}
    predict(bundle, scans / "a.nii.gz", tmp_path, **options)
    assert times(folder)["a_seg.nii.gz"] > first["a_seg.nii.gz"] and list(table(folder)) == ["a"]


def test_label_maps_without_a_row_are_named(bundle, scans, tmp_path, caplog):
    """Other settings may know other labels; so the table is of one kind, and says what it leaves out."""
    folder = predict(bundle, scans / "a.nii.gz", tmp_path)
    assert "has no row" not in caplog.text
    predict(bundle, scans / "b.nrrd", tmp_path, **{"sliding_window#inferer#overlap": 0.5})
    assert list(table(folder)) == ["b"] and {"a_seg.nii.gz", "b_seg.nii.gz"} <= times(folder).keys()
    told = (
        f"{folder / 'volumes.csv'} has no row of 1 label map(s) there, which were made with other weights or settings"
    )
    assert caplog.text.count(f"{told}: a_seg.nii.gz; segment their scans again") == 1
    (folder / "a_seg.nii.gz").unlink()
    caplog.clear()
    predict(bundle, scans / "b.nrrd", tmp_path, **{"sliding_window#inferer#overlap": 0.5})
    assert "were segmented by an earlier run" in caplog.text and "has no row" not in caplog.text


def test_refused(bundle, scans, tmp_path):
    with pytest.raises(RuntimeError) as refused:
        predict(bundle, scans / "a.nii.gz", tmp_path, output_format="mha")
    told = "output_format is 'mha', expected one of nii.gz, nii, seg.nrrd"
    assert str(root_cause(refused.value)) == told
    (tmp_path / "eval/predictions.json").write_text('{"format": 4}')
    with pytest.raises(RuntimeError) as refused:
        predict(bundle, scans / "a.nii.gz", tmp_path)
    assert "the format is 4, expected a number up to 3" in str(root_cause(refused.value))
    assert not list((tmp_path / "eval").glob("*_seg*"))
