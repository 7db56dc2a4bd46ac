"""Retraining on the submitted labels: the bundle's own `train.json`, in a process of its own.

    models/retraining/run.json           what runs or ran: see `record`
    models/retraining/data/dataset.json  the labelled images; splits.json says which train and which validate
    models/retraining/models/            the new weights, the checkpoint to resume from, and the training's status
    models/retraining/training.log       what the training printed

New weights become a version. They serve if they are not worse on the validation cases than those that serve now.
"""

from monailabel_app.models.retraining.task import BundleTraining

__all__ = ["BundleTraining"]
