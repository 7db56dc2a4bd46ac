"""Clicks on scans that lie askew or mirrored, of one slice, of tiny and of large voxels: by both doors, and from one to
the other."""

import nibabel as nib
import numpy as np
import pytest
from prompt_helpers import Slicer, prompt_bundle, start_app
from scipy.spatial.transform import Rotation

from monailabel_app.interaction.conversation import LABEL, Conversation
from monailabel_app.interaction.prompting import point_at
from monailabel_app.web.authentication import LOCAL_USER

TURNED = Rotation.from_euler("xyz", (20, 35, -50), degrees=True).as_matrix()
SCANS = {
    "oblique": ((24, 20, 12), nib.affines.from_matvec(TURNED @ np.diag([0.703, 0.7031, 2.3]), (-40, 12, 99))),
    "left-handed": ((20, 24, 12), np.array([[0, 0, 2.0, 7], [0, -1, 0, 3], [-0.9766, 0, 0, 1], [0, 0, 0, 1]])),
    "one slice": ((40, 36, 1), np.diag([-0.7, 0.7, 5, 1])),
    "tiny voxels": ((24, 20, 12), np.diag([0.1, 0.1, 0.13, 1])),
    "large voxels": ((24, 20, 12), np.diag([10, 10, -12.0, 1])),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Of each a scan with two bright corners."""
    folder = tmp_path_factory.mktemp("kinds")
    (folder / "studies").mkdir()
    for name, (shape, affine) in SCANS.items():
        voxels = np.random.default_rng(0).normal(0, 5, shape)
        voxels[: shape[0] // 3, : shape[1] // 2] += 300
        voxels[-shape[0] // 3 :, shape[1] // 2 :] += 300
        nib.save(nib.Nifti1Image(voxels.round().astype(np.int16), affine), folder / f"studies/{name}.nii.gz")
    prompt_bundle(folder / "bundles")
    client = start_app(folder, folder / "studies", folder / "bundles")
    client.scans = {name: nib.load(folder / f"studies/{name}.nii.gz") for name in SCANS}
    return client


@pytest.mark.parametrize("name", SCANS)
def test_clicks(place, name):
    scan = place.scans[name]
    last = [n - 1 for n in scan.shape]
    slicer = Slicer(place, name, scan)
    slicer.add("cyst")
    points, masks = slicer.points["cyst"], []
    for sign, voxel in (("foreground", [0, 0, 0]), ("background", [5, 5, 0]), ("foreground", last)):
        points[sign].append(voxel)
        slicer.update("interactive", "cyst")
        masks.append(slicer.segments["cyst"])
        assert all(masks[-1][tuple(one)] for one in points["foreground"])
        assert not any(masks[-1][tuple(one)] for one in points["background"])
    points["foreground"].pop()
    slicer.update("interactive", "cyst")
    assert np.array_equal(slicer.segments["cyst"], masks[1]) and masks[0].sum() > 1


@pytest.mark.parametrize("name", SCANS)
def test_what_was_clicked_in_the_other_modules_goes_on(place, name):
    """With the spacing as a client may round it, and the axes as ITK has them."""
    scan, sessions = place.scans[name], place.services.interaction
    voxel = tuple(n - 1 for n in scan.shape)
    client = Conversation(sessions, LOCAL_USER.username)
    rounded = [float(f"{step:.2g}") for step in scan.header.get_zooms()[::-1]]
    client.set_image(np.asarray(scan.dataobj).T, rounded)
    client.show(point_at(voxel[::-1], client.scan, True), answer=True)
    kept = sessions.list(None)[0]["id"]
    mask = sessions.get(kept, None).mask(LABEL).T
    slicer = Slicer(place, name, scan, "bob")
    slicer.add("cyst")
    slicer.update("interactive", "cyst", continue_from=kept)
    assert np.array_equal(slicer.segments["cyst"], mask) and mask[voxel]
    (told,) = (one for one in sessions.shown(LOCAL_USER.username, name) if one["session"] == kept)
    (position,) = told["labels"][LABEL][0]["positions"]
    np.testing.assert_allclose(np.divide(position, nib.affines.voxel_sizes(scan.affine)), voxel, atol=1e-6)
