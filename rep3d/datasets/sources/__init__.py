"""The cases of a folder of somebody's own, whatever its layout: which images and which label each has.

Known are the Medical Segmentation Decathlon, versions 1 and 2 of nnU-Net, a folder of images beside one of labels, the
label app's studies, and a folder for each patient, as BIDS has them. Voxels are not read here.
"""

from rep3d.datasets.sources.cases import Source
from rep3d.datasets.sources.labels import IDS, ToldLabels, read_labels
from rep3d.datasets.sources.reading import NO_LABELS, choose_channels, read_source

__all__ = ["IDS", "NO_LABELS", "Source", "ToldLabels", "choose_channels", "read_labels", "read_source"]
