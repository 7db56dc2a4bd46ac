"""Which cases there are: their names, lists and splits, and the checks before anything learns or is judged."""

from rep3d.data.cases import output_name
from rep3d.data.checks import check_datalist
from rep3d.data.leakage import training_cases
from rep3d.data.lists import load_datalist, load_inference_list
from rep3d.data.regions import count_ids, count_outputs, score_names
from rep3d.data.sources import load_sources
from rep3d.data.splits import fold_folder

__all__ = [
    "check_datalist",
    "count_ids",
    "count_outputs",
    "fold_folder",
    "load_datalist",
    "load_inference_list",
    "load_sources",
    "output_name",
    "score_names",
    "training_cases",
]
