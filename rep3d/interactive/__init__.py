"""Prompts to channels, simulated users, and the arithmetic of a correction: no disk, no server."""

from rep3d.interactive.channels import CHANNELS
from rep3d.interactive.correction import Correction, correct, refine
from rep3d.interactive.cubes import StandardizeWorkingGridd, WorkingGridd, cube_edge
from rep3d.interactive.grid import Grid, resample
from rep3d.interactive.loss import CorrectionLoss
from rep3d.interactive.prompts import Prompt, box, draw, lasso, point, scribble
from rep3d.interactive.rounds import SimulatedUser
from rep3d.interactive.scene import Scene

__all__ = [
    "CHANNELS",
    "Correction",
    "CorrectionLoss",
    "Grid",
    "Prompt",
    "Scene",
    "SimulatedUser",
    "StandardizeWorkingGridd",
    "WorkingGridd",
    "box",
    "correct",
    "cube_edge",
    "draw",
    "lasso",
    "point",
    "refine",
    "resample",
    "scribble",
]
