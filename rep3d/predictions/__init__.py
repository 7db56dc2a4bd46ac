"""Scans to label maps: what is written beside each of them, and a run that goes on where an earlier one ended."""

from rep3d.predictions.results import Prediction
from rep3d.predictions.run import predict_each

__all__ = ["Prediction", "predict_each"]
