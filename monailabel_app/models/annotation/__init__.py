"""Lets the simulated user annotate a set of scans one after the other, and counts the clicks.

In each way the user brings every scan to the same Dice: by clicks alone, with the network that ships, or with one that
learns from the labels after every few scans; or in the loop, where an automatic network makes proposals and both
networks learn, in an order that is random or that a strategy of active learning chooses. Editing, labels, trainings and
strategies are the app's.

    OUTPUT/data/                     the set, with the structure as the only label of its label maps
    OUTPUT/automatic/                the bundle that makes proposals, as `rep3d new` makes it
    OUTPUT/phantoms/                 drawn volumes, from which the network of clicks learns beside the labels
    OUTPUT/networks/shipped/         what was annotated with the networks as they came, and
    OUTPUT/networks/seed0_3_1f0c.../ after a training, with them: automatic.pt, interactive.pt; training.json ends it
    OUTPUT/networks/*/scans/CASE.json, CASE.nii.gz    how a scan was annotated, and its label
    OUTPUT/cells/seed0_entropy.json  a cell: all scans of a seed in one way
    OUTPUT/scans.csv table.md clicks.png

What is finished is not done again: cells that annotated the same scans share a training. Several processes may share an
output folder when each takes its own seeds.
"""

from monailabel_app.models.annotation.loop import annotate_sets
from monailabel_app.models.annotation.plan import ALONE, WAYS, Plan

__all__ = ["ALONE", "WAYS", "Plan", "annotate_sets"]
