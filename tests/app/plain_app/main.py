"""A MONAI Label app as its documentation shows it: one bundle, and MONAI Label's own tasks, datastore and endpoints."""

import os
import sys
from types import ModuleType

from monailabel.interfaces.app import MONAILabelApp

try:
    import torchvision  # noqa: F401
except RuntimeError:  # a torchvision with CUDA beside a torch without: it cannot describe its operators
    sys.modules["torchvision._meta_registrations"] = ModuleType("torchvision._meta_registrations")

from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.tasks.train.bundle import BundleTrainTask


class PlainApp(MONAILabelApp):
    def __init__(self, app_dir, studies, conf):
        self.bundle = os.path.join(app_dir, "bundle")
        super().__init__(app_dir, studies, conf, name="Plain", description="One bundle")

    def init_infers(self):
        return {"plain": BundleInferTask(self.bundle, self.conf)}

    def init_trainers(self):
        return {"plain": BundleTrainTask(self.bundle, self.conf)}
