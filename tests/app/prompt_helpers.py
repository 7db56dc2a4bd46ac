"""A bundle that takes prompts, with a network whose answers are known, and the app over it without a network."""

import gzip
import json
import tempfile
from pathlib import Path

import monailabel.app
import nibabel as nib
import numpy as np
import torch
from app_helpers import small_bundle
from requests_toolbelt import MultipartDecoder
from starlette.testclient import TestClient

from monailabel_app.main import Rep3DApp
from monailabel_app.models.prompted import tell_prompted
from rep3d.io.volumes import read_volume

SIZE = 16  # voxels of the working grid


def prompt_bundle(folder: Path, weights: bool = True, size: int = SIZE) -> Path:
    """`interactive` with a network that adds what lies at positive prompts, and takes away what lies at negative ones.

    What the scan has in common with the newest prompt, and is connected with it, lies at it, too.
    """
    bundle = small_bundle(folder, "interactive", weights=False)
    for name in ("train", "inference"):
        path = bundle / f"configs/{name}.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config["network_def"] = {"_target_": "torch.nn.Conv3d", "in_channels": 5, "out_channels": 1, "kernel_size": 1}
        config["patch_size"] = [size] * 3
        path.write_text(json.dumps(config), encoding="utf-8")
    if weights:
        (bundle / "models").mkdir()
        weight = torch.tensor([0.0, 4.0, 10.0, -20.0, 0.0]).view(1, 5, 1, 1, 1)
        torch.save({"weight": weight, "bias": torch.tensor([-1.5])}, bundle / "models/model.pt")
    return bundle


def start_app(folder: Path, studies: Path, bundles: Path, models: str = "all", **conf: str) -> TestClient:
    """The app as a client reaches it, in this process."""
    (folder / "app").mkdir(parents=True, exist_ok=True)
    settings = {"bundles": str(bundles), "models": models, "scoring": "false", "warm_up": "false", **conf}
    app = Rep3DApp(str(folder / "app"), str(studies), settings)
    tell_prompted(app.services.interaction.network, app.services.prompted)
    client = TestClient(monailabel.app.app.middleware_stack, "http://127.0.0.1", client=("127.0.0.1", 1))
    client.services = app.services
    return client


def read_answer(content: bytes) -> np.ndarray:
    """The voxels of a NRRD file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.nrrd"
        path.write_bytes(content)
        return read_volume(path)[0]


class Refused(Exception):
    """The box that the module shows: status and reason."""


class Slicer:
    """A scene of 3D Slicer, by the rules of MONAI Label's module: what it sends, and what it makes of the answers.

    Attributes:
        segments: mask by name, in the order of the segmentation.
        points: what the segments' tags hold, "foreground" and "background".
    """

    def __init__(self, client: TestClient, image: str, scan: nib.Nifti1Image, client_id: str = "ann") -> None:
        self.client, self.image, self.scan, self.client_id = client, image, scan, client_id
        self.segments: dict[str, np.ndarray] = {}
        self.points: dict[str, dict[str, list]] = {}
        self.info = client.get("/info/").json()
        for label in self.info["labels"]:
            self.add(label)

    def add(self, name: str) -> None:
        self.segments[name] = np.zeros(self.scan.shape, bool)
        self.points[name] = {"foreground": [], "background": []}

    def update(self, model: str, label: str, **more):
        """The button Update of the interactive models, pressed or by a click, with the label chosen."""
        if self.info["models"][model]["type"] == "deepedit":
            params = {
                name: self.points[name]["foreground"] if name in self.points else [] for name in self.info["labels"]
            }
        else:
            params = dict(self.points[label])
        params |= {"label": label, **self.config(model), **more}
        told, voxels = self.infer(model, params)
        names = [label] if self.info["models"][model]["type"] != "deepedit" else self.names(told, model)
        self.import_labelmap(voxels, names)
        return told

    def update_scribbles(self, label: str, roi=(), **more):
        """The button Update of the scribbles."""
        label_info = [{"name": name, "id": number} for number, name in enumerate(self.segments, 1)]
        params = {**self.config("scribbles"), "roi": list(roi), "label_info": label_info, "selected_label_name": label}
        exported = np.zeros(self.scan.shape, np.uint8)
        for number, mask in enumerate(self.segments.values(), 1):
            exported[mask] = number
        told, voxels = self.infer("scribbles", params | more, exported)
        self.import_labelmap(voxels, [label])
        return told

    def infer(self, model: str, params: dict, label: np.ndarray | None = None):
        params = {"client_id": self.client_id, "result_extension": ".nrrd", "result_dtype": "uint8", **params}
        files = {"params": (None, json.dumps(params))}
        if label is not None:
            files["label"] = ("label.nii.gz", gzip.compress(nib.Nifti1Image(label, self.scan.affine).to_bytes(), 1))
        answer = self.client.post(f"/infer/{model}?image={self.image}", files=files)
        if answer.status_code != 200:
            raise Refused(answer.status_code, answer.json()["detail"])
        params, file = MultipartDecoder(answer.content, answer.headers["content-type"]).parts
        return json.loads(params.content), read_answer(file.content)

    def config(self, model: str) -> dict:
        found = self.info["models"][model].get("config", {})
        return {key: value[0] if isinstance(value, list) else value for key, value in found.items()}

    def names(self, told: dict, model: str) -> list[str]:
        labels = told.get("label_names") or self.info["models"][model]["labels"]
        return [name for name, _ in sorted(labels.items(), key=lambda item: item[1])]

    def import_labelmap(self, voxels: np.ndarray, labels: list[str]) -> None:
        """The i-th of the listed segments is cleared and rewritten with the voxels of the value i + 1; others stay."""
        for value, name in enumerate([label for label in labels if label != "background"], 1):
            if name not in self.segments:
                self.add(name)
            self.segments[name] = voxels == value
