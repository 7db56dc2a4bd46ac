"""Sessions over a studies folder, and a network that answers at once."""

import os
import time
from contextlib import contextmanager

import nibabel as nib
import numpy as np

from monailabel_app.interaction.registry import InteractiveSessions
from monailabel_app.studies.folder import StudiesFolder
from monailabel_app.studies.sessions import Sessions
from rep3d.interactive.prompts import point

SHAPE, SPACING = (40, 30, 24), (1.0, 1.0, 2.0)
DAY = 86400


class BallNetwork:
    """Keeps the mask and adds the ball of each positive point, takes that of each negative one away."""

    size = 16

    def __init__(self):
        self.count = 0
        self.before = lambda: None  # called before each answer

    def check(self):
        pass

    def is_valid(self):
        return True

    @contextmanager
    def answering(self, priority=0):
        yield self._answer

    def _answer(self, channels):
        self.before()
        self.count += 1
        return channels[:, 1:2] + channels[:, 2:3] - 2 * (channels[:, 3:4] - 0.5).clamp(min=0) - 0.52


class Place:
    """A studies folder with one scan, a place for lent scans, and sessions, as often as a server starts."""

    def __init__(self, folder, network=None):
        self.folder = folder
        self.network = network or BallNetwork()
        (folder / "studies").mkdir()
        self.write_scan(self.voxels())
        self.lent = Sessions(folder / "lent")
        self.start()

    def start(self, days=7.0):
        """What a restart does."""
        self.studies = StudiesFolder(self.folder / "studies")
        self.root = self.folder / "studies/.rep3d/interaction"
        self.sessions = InteractiveSessions(self.root, self.network, self.studies, self.lent, days * DAY)
        return self.sessions

    def voxels(self, seed=0):
        return np.random.default_rng(seed).normal(0, 300, SHAPE).astype(np.int16)

    def write_scan(self, voxels, name="scan"):
        path = self.folder / f"studies/{name}.nii.gz"
        nib.save(nib.Nifti1Image(voxels, np.diag([*SPACING, 1])), path)
        return path

    def age(self, session, days):
        """Let a session have been used so many days ago."""
        then = time.time() - days * DAY
        os.utime(self.root / session.id / "session.json", (then, then))


def at(i, j, k, positive=True):
    return point((i, j, k), SPACING, positive)
