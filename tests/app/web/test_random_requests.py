"""Whatever users ask for, in any order: what docs/interactive.md promises holds after each request."""

import random
from copy import deepcopy

import nibabel as nib
import numpy as np
import pytest
import torch
from app_helpers import small_bundle
from prompt_helpers import Refused, Slicer, prompt_bundle, start_app
from scipy import ndimage

from monailabel_app.interaction.lists import scan_of
from monailabel_app.models.inference import Segmentation
from monailabel_app.studies.volumes import read_grid
from rep3d.interactive import change
from rep3d.interactive.prompts import radius
from rep3d.interactive.working_grid import finest_spacing

pytestmark = pytest.mark.slow

ANTERIOR, POSTERIOR = "anterior hippocampus", "posterior hippocampus"
LABELS = ("cyst", "bone", ANTERIOR, POSTERIOR)
SIZE, STEPS = 16, 40
SCANS = {  # shape, affine
    "mirrored": ((24, 20, 12), np.diag([-1, 1, 2, 1])),
    "left-handed": ((20, 24, 12), np.array([[0, 0, 2.0, 7], [0, -1, 0, 3], [-0.9, 0, 0, 1], [0, 0, 0, 1]])),
    "one slice": ((40, 36, 1), np.diag([-0.7, 0.7, 5, 1])),
    "thick slices": ((40, 30, 8), np.diag([0.7, 0.7, 5, 1])),
}


class Walk:
    """A server, and users who click, scribble, lock, delete points and begin anew in it, by chance."""

    def __init__(self, folder, shape, affine, seed, monkeypatch):
        self.folder, self.rng, self.monkeypatch = folder, random.Random(seed), monkeypatch
        noise = np.random.default_rng(seed).normal(size=shape)
        field = ndimage.gaussian_filter(noise, np.minimum(2, np.subtract(shape, 1)))
        self.found = np.digitize(field / field.std(), (1.2, 1.9)).astype(np.uint8)
        self.scan = nib.Nifti1Image((np.digitize(field / field.std(), (-1, 0, 1)) * 99).astype(np.int16), affine)
        (folder / "studies").mkdir()
        nib.save(self.scan, folder / "studies/scan.nii.gz")
        small_bundle(folder / "bundles", "msd_hippocampus")
        prompt_bundle(folder / "bundles", size=SIZE)
        self.begin()
        self.users = [Slicer(self.client, "scan", self.scan, name) for name in ("ann", "bob")]
        for user in self.users:
            self.update(user, ANTERIOR)

    def begin(self):
        """What a restart does."""
        self.client = start_app(self.folder, self.folder / "studies", self.folder / "bundles")
        result = Segmentation(self.found, read_grid(self.folder / "studies/scan.nii.gz"), {}, "")
        self.client.services.models["msd_hippocampus"].segment = lambda *_, **__: result

    def session(self, user):
        sessions = self.client.services.interaction
        (found,) = (one["id"] for one in sessions.list(None) if one["client"] == f"{user.client_id}@127.0.0.1")
        return sessions.get(found, None)

    def state(self, user):
        session = self.session(user)
        return {name: (session.mask(name).tobytes(), session.prompts(name)) for name in session.labels}, session.locked

    def masks(self, user):
        return {name: self.session(user).mask(name).copy() for name in self.session(user).labels}

    def voxel(self):
        return [self.rng.randrange(count) for count in self.scan.shape]

    def update(self, user, label, **more):
        if label not in user.segments:
            user.add(label)
        if label in (ANTERIOR, POSTERIOR):
            return user.update("msd_hippocampus_edit", label, **more)
        if not any(user.points[label].values()) and label not in self.session(user).labels:
            user.points[label]["foreground"].append(self.voxel())
        return user.update("interactive", label, **more)

    # --- what users do

    def add(self, user, label):
        if label not in user.segments:
            user.add(label)
        negative = "background" if label in ("cyst", "bone") else "foreground"
        for _ in range(self.rng.choice([1, 1, 2])):
            user.points[label][self.rng.choice(["foreground", negative])].append(self.voxel())
        self.update(user, label)

    def remove(self, user, label):
        for points in user.points.get(label, {}).values():
            if points:
                points.pop(self.rng.randrange(len(points)))
        self.update(user, label)

    def add_and_remove(self, user, label):
        self.update(user, label)
        before = self.session(user).mask(label).copy()
        user.points[label]["foreground"].append(self.voxel())
        self.update(user, label)
        if self.rng.random() < 0.5:
            self.refine(user, label)
        user.points[label]["foreground"].pop()
        self.update(user, label)
        after = self.session(user).mask(label)
        for name in self.session(user).locked:  # what was painted there by hand does not come back
            after = after | (before & self.session(user).mask(name) & (name != label))
        assert np.array_equal(after, before)

    def repeat(self, user, label):
        self.update(user, label)
        before = user.segments[label]
        with self.monkeypatch.context() as patch:
            patch.setattr(change, "correct", lambda *_, **__: pytest.fail("it is remembered"))
            self.update(user, label)
        assert np.array_equal(user.segments[label], before)

    def lock(self, user, _):
        labels = [name for name in self.session(user).labels if self.rng.random() < 0.4]
        address = f"/interaction/{self.session(user).id}/locks"
        assert self.client.put(address, json={"labels": labels}).status_code == 200

    def scribble(self, user, label):
        for name in ("foreground_scribbles", "background_scribbles"):
            user.segments.pop(name, None)
            user.add(name)
            i, j, k = self.voxel()
            user.segments[name][i : i + 4, j, k] = self.rng.random() < 0.7
        if label not in user.segments:
            user.add(label)
        user.segments[label][tuple(self.voxel())] ^= self.rng.random() < 0.3
        before, session = self.masks(user), self.session(user)
        told = {name: session.told(name) for name in before}
        painted = np.zeros(self.scan.shape, bool)
        for name, mask in user.segments.items():
            painted |= mask & ~told.get(name, np.zeros_like(mask)) & (not name.endswith("_scribbles"))
        as_told = [
            name
            for name in before
            if name not in user.segments
            or (np.array_equal(user.segments[name], told[name]) and not (told[name] & painted).any())
        ]
        user.update_scribbles(label)
        for name in as_told:  # in which, and over which, nobody has painted
            assert name == label or np.array_equal(session.mask(name), before[name]), name

    def refine(self, user, _):
        while self.session(user).refine():
            pass

    def restart(self, user, _):
        before = self.state(user)
        self.begin()
        for one in self.users:
            one.client = self.client
        assert self.state(user) == before

    def fail(self, user, label):
        """At the first or the second answer of the network; nothing has changed then."""
        before, points = self.state(user), deepcopy(user.points)
        answers = iter([change.correct, out_of_memory][self.rng.randrange(2) :])
        act = self.rng.choice([self.scribble, self.add, self.remove])
        with self.monkeypatch.context() as patch:
            patch.setattr(change, "correct", lambda *args, **more: next(answers, out_of_memory)(*args, **more))
            try:
                act(user, label)
            except Refused as refused:
                assert refused.args[0] == 503 and self.state(user) == before
        user.points = points | {name: lists for name, lists in user.points.items() if name not in points}

    # --- what holds

    def step(self):
        user = self.rng.choice(self.users)
        (other,) = (one for one in self.users if one is not user)
        before, broken, of_other = self.masks(user), self.broken(user), self.state(other)
        act = self.rng.choice(
            [self.add] * 4
            + [self.remove, self.add_and_remove, self.repeat, self.lock, self.scribble, self.refine, self.restart]
            + [self.fail] * 2
        )
        label = self.rng.choice(LABELS)
        act(user, label)
        assert self.state(other) == of_other
        after, session = self.masks(user), self.session(user)
        for name, mask in after.items():
            joined = mask & ~before.get(name, np.zeros_like(mask))
            locked = [after[one] for one in session.locked if one != name]
            painted = act == self.scribble
            assert painted or not any((joined & one).any() for one in locked), (act, name)
        if act == self.refine:
            assert self.broken(user) <= broken
        elif act in (self.add, self.remove, self.add_and_remove, self.repeat):  # an answer under these locks
            assert not [voxel for name, voxel in self.broken(user) if name == label]

    def broken(self, user):
        """Clicks whose voxel is not as they say, though it must be."""
        session, masks = self.session(user), self.masks(user)
        return {
            (name, voxel)
            for name, mask in masks.items()
            for voxel in self.broken_of(session, name, mask, [masks[one] for one in session.locked if one != name])
        }

    def broken_of(self, session, name, mask, locked):
        scan = scan_of(session)
        reach = radius(finest_spacing(scan, SIZE))
        said = [(position, one.positive) for one in session._labels.get(name).in_force for position in one.positions]
        for number, (position, positive) in enumerate(said):
            voxel = scan.voxel(position)
            contrary = [other for other, sign in said[number + 1 :] if sign != positive]
            near = any(np.linalg.norm(np.subtract(position, other)) <= reach or scan.voxel(other) == voxel
                       for other in contrary)  # fmt: skip
            if mask[voxel] != positive and not near and not (positive and any(one[voxel] for one in locked)):
                yield voxel


def out_of_memory(*_, **__):
    raise torch.cuda.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("name", SCANS)
def test_promises(name, tmp_path, monkeypatch):
    monkeypatch.setattr("monailabel_app.interaction.refinement.IDLE_SECONDS", 1e9)  # the walk refines
    walk = Walk(tmp_path, *SCANS[name], sorted(SCANS).index(name), monkeypatch)
    for _ in range(STEPS):
        walk.step()
