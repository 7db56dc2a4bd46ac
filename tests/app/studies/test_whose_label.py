"""Which bundle's a submitted label is, where several bundles have its segments."""

import json
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from bundle_helpers import ROOT, small_bundle
from dicom_helpers import write_series
from prompt_helpers import start_app

from monailabel_app.bundles import read_bundle
from monailabel_app.errors import RequestError
from monailabel_app.studies import submission
from monailabel_app.studies.folder import StudiesFolder
from monailabel_app.studies.submission import Submission, label_ids, largest_structure, submit_label
from monailabel_app.studies.volumes import read_label

SHAPE, AFFINE = (8, 8, 8), np.diag([1.5, 1.5, 2.0, 1.0])
BOTH = r"the label may be of amos_ct, amos_mri, expected params\['model'\], or segments with the names of one of them"
CT, MRI, KITS, PANCREAS = (
    read_bundle(ROOT / "bundles" / name) for name in ("amos_ct", "amos_mri", "kits", "msd_pancreas")
)


def save(path, voxels):
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, AFFINE), path)
    return path


@pytest.fixture
def store(tmp_path):
    save(tmp_path / "studies/scan.nii.gz", np.ones(SHAPE, np.float32))
    return StudiesFolder(tmp_path / "studies")


def submit(store, bundles, names, values=(1, 6), prompted=None, **told):
    """A label with such voxels; the name of the bundle whose it is, and the values that are stored."""
    voxels = np.zeros(SHAPE, np.uint8)
    for number, value in enumerate(values):
        voxels[number] = value
    file = save(store.root.parent / "uploads/label.nii.gz", voxels)
    submission = Submission("scan", file, {}, names=names, **told)
    submit_label(store, {one.name: one for one in bundles}, submission, prompted=prompted)
    stored = np.unique(nib.load(store.label("scan", "final")).dataobj)
    return store.get_label_info("scan", "final")["model"], stored.tolist()


@pytest.mark.parametrize("last", ["amos_ct", "amos_mri"])
@pytest.mark.parametrize("served", [(CT, MRI), (MRI, CT)])
def test_the_labels_of_one_are_among_those_of_another(last, served, store):
    """3D Slicer names those of all, which are all of one: what segmented the scan tells."""
    store.update_image_info("scan", {"model": last})
    assert submit(store, served, list(CT.labels)) == (last, [0, 1, 6])


def test_what_segmented_the_scan_has_not_all_segments(store):
    store.update_image_info("scan", {"model": "amos_mri"})
    names = list(CT.labels)
    assert submit(store, (MRI, CT), names, values=(1, names.index("bladder") + 1)) == ("amos_ct", [0, 1, 14])


def test_an_id_that_no_label_map_of_ours_has(store):
    """Of a label that is not there; a bundle of others may have any."""
    own = replace(CT, labels={"a": 1, "z": 300})
    assert submit(store, [own], ["a"], values=[1]) == ("amos_ct", [0, 1])
    assert store.get_label_info("scan", "final")["absent"] == ["z"]


@pytest.mark.parametrize("find", [label_ids, largest_structure])
def test_what_is_found_in_a_label_is_kept_with_that_label(find, store, monkeypatch):
    """Another one is submitted while it is read."""
    first, second = (save(store.root.parent / f"uploads/{n}.nii.gz", np.full(SHAPE, n, np.uint8)) for n in (1, 2))
    store.save_label("scan", str(first), "final", {})
    label, info = store.fixed_label("scan", "final")

    def read_meanwhile(*args, **kwargs):
        store.save_label("scan", str(second), "final", {})
        return read_label(*args, **kwargs)

    monkeypatch.setattr(submission, "read_label", read_meanwhile)
    found = find(store, "scan", store.image("scan"), label, info)
    (key,) = {"ids", "largest_structure"} & store.versions("scan")[0].keys()
    assert store.versions("scan")[0][key] == found and key not in store.versions("scan")[1]


@pytest.mark.slow
@pytest.mark.parametrize("output", ["json", "dicom_seg"])
def test_what_segmented_a_series_is_kept(output, tmp_path):
    """Also where the answer is a DICOM Segmentation, which may come back as a label."""
    write_series(tmp_path / "studies/series", slices=6)
    for name in ("amos_ct", "amos_mri"):
        small_bundle(tmp_path / "bundles", name)
    client = start_app(tmp_path, tmp_path / "studies", tmp_path / "bundles")
    client.post(f"/infer/amos_mri?image=series&output={output}")
    assert client.services.studies.knowledge("series")["model"] == "amos_mri"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["amos_ct", "amos_mri", ""])
def test_the_answer_tells_the_model_and_what_is_absent(model, store, tmp_path):
    for name in ("amos_ct", "amos_mri"):
        small_bundle(tmp_path / "bundles", name)
    client = start_app(tmp_path, store.root, tmp_path / "bundles")
    label = save(tmp_path / "uploads/label.nii.gz", np.ones(SHAPE, np.uint8)).read_bytes()
    params = json.dumps({"label_info": [{"name": "liver"}, {"name": "spleen"}], "model": model})
    files = {"label": ("label.nii.gz", label), "params": (None, params)}
    answer = client.put("/datastore/label?image=scan", files=files)
    if not model:
        assert answer.status_code == 400 and "the label may be of amos_ct, amos_mri" in answer.json()["detail"]
        return
    absent = [name for name in client.services.bundles[model].labels if name != "liver"]
    assert answer.json() == {"image": "scan", "label": "scan", "model": model, "absent": absent}


@pytest.mark.parametrize("bundle", [CT, MRI])
def test_the_very_names_of_one(bundle, store):
    for served in ((CT, MRI), (MRI, CT)):
        assert submit(store, served, list(bundle.labels)) == (bundle.name, [0, 1, 6])


def test_names_of_several(store):
    """Nobody has segmented the scan, so that nothing tells; the order in which bundles are served does not."""
    with pytest.raises(RequestError, match=BOTH) as caught:
        submit(store, (CT, MRI), ["spleen", "liver"], values=(1, 2))
    assert caught.value.status == 400 and store.labels.tags("scan") == []
    store.update_image_info("scan", {"model": "msd_hippocampus"})  # which is not served
    with pytest.raises(RequestError, match=BOTH):
        submit(store, (CT, MRI), ["spleen", "liver"], values=(1, 2))
    assert submit(store, (MRI,), ["spleen", "liver"], values=(1, 2)) == ("amos_mri", [0, 1, 6])


def test_a_client_may_tell_the_model(store):
    """3D Slicer tells the one that is chosen, which need not be that of the label."""
    for model in ("amos_mri", "amos_ct"):
        assert submit(store, (CT, MRI), ["spleen", "liver"], values=(1, 2), model=model) == (model, [0, 1, 6])
        assert submit(store, (CT, MRI), (), values=(1, 2), model=model) == (model, [0, 1, 2])
    with pytest.raises(RequestError, match=BOTH):
        submit(store, (CT, MRI, KITS), ["spleen", "liver"], values=(1, 2), model="kits")
    store.update_image_info("scan", {"model": "amos_ct"})
    assert submit(store, (MRI, CT), ["spleen", "liver"], values=(1, 2), model="amos_mri") == ("amos_ct", [0, 1, 6])


def test_ids_without_names(store):
    """An id of one bundle is another structure of the next one."""
    with pytest.raises(RequestError, match="may be of kits, msd_pancreas"):
        submit(store, (KITS, PANCREAS), (), values=(1, 2))
    assert submit(store, (PANCREAS, KITS), (), values=(1, 3)) == ("kits", [0, 1, 3])
    with pytest.raises(RequestError, match="other label value"):
        submit(store, (PANCREAS, KITS), (), values=(1, 4))
    store.update_image_info("scan", {"model": "msd_pancreas"})
    assert submit(store, (KITS, PANCREAS), (), values=(1, 2)) == ("msd_pancreas", [0, 1, 2])
    with pytest.raises(RequestError, match="other label value"):
        submit(store, (KITS, PANCREAS), (), values=(1, 3))


def test_ids_of_two_bundles_at_once(store):
    """Of none are both."""
    first, second = (shutil.copytree(ROOT / "bundles/kits/configs", store.root.parent / f"{n}/configs") for n in "ab")
    for folder, labels in ((first, {"x": 1}), (second, {"y": 2})):
        told = json.loads((folder / "metadata.json").read_text())
        (folder / "metadata.json").write_text(json.dumps(told | {"label_map": labels}))
    with pytest.raises(RequestError, match=r"no model has all the segments \[1, 2\]"):
        submit(
            store, (read_bundle(first.parent), read_bundle(second.parent)), (), values=(1, 2), prompts=[{}], prompted=CT
        )


@pytest.mark.slow
def test_a_refused_segmentation_was_not_the_last(tmp_path):
    save(tmp_path / "studies/scan.nii.gz", np.ones(SHAPE, np.float32))
    for name in ("amos_ct", "amos_mri"):
        small_bundle(tmp_path / "bundles", name)
    client = start_app(tmp_path, tmp_path / "studies", tmp_path / "bundles")
    for name, params, status in (("amos_ct", {}, 200), ("amos_mri", {"device": "abacus"}, 400)):
        answer = client.post(f"/infer/{name}?image=scan&output=json", files={"params": (None, json.dumps(params))})
        assert answer.status_code == status
        assert client.services.studies.knowledge("scan")["model"] == "amos_ct"
