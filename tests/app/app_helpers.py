"""A running server, as a user starts it, and bundles that a test can afford."""

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import requests
from bundle_helpers import ROOT, free_port, small_bundle  # noqa: F401
from programs import Program, start

START_SECONDS = 120
# What the panel of OHIF sends with a segmentation.
OHIF_PARAMETERS = {
    "result_extension": ".nrrd",
    "result_dtype": "uint8",
    "result_compress": False,
    "restore_label_idx": False,
}
# The app with other values of its constants.
CHANGED_APP = """
import importlib
import sys
from monailabel_app.__main__ import main
for name, value in {constants!r}.items():
    module, _, constant = name.rpartition(".")
    setattr(importlib.import_module(module), constant, value)
main(sys.argv[1:])
"""


class Server:
    """`python -m monailabel_app start_server` in a folder of its own.

    Args:
        constants: values by name, such as "monailabel_app.web.brake.SECONDS", in place of the app's.
        own_python: start an interpreter, not a fork of one that has the libraries (see `programs`).
        root_path: prefix of the address under which a proxy has it.
    """

    app_source = ROOT / "monailabel_app"
    module = "monailabel_app"

    def __init__(
        self,
        folder: Path,
        *,
        host: str = "127.0.0.1",
        studies: str = "",
        own_python: bool = False,
        root_path: str = "",
        constants: Mapping[str, float] | None = None,
        **conf: str,
    ) -> None:
        self.folder = folder
        self.studies = folder / "studies"
        self.app = folder / "app"
        self.url = f"http://127.0.0.1:{free_port()}"
        self.log = folder / "server.log"
        shutil.copytree(self.app_source, self.app, ignore=shutil.ignore_patterns("__pycache__", "logs"))
        module = self.module
        if constants:
            module = "changed_app"
            (folder / f"{module}.py").write_text(CHANGED_APP.format(constants=dict(constants)), encoding="utf-8")
        self.command = [sys.executable, "-m", module, "start_server", "--studies", studies or str(self.studies)]
        self.command += ["--host", host, "--port", self.url.rpartition(":")[2], "--app", str(self.app)]
        self.command += ["--root_path", root_path]
        for name, value in conf.items():
            self.command += ["--conf", name, value]
        self.own_python = own_python
        self.process: subprocess.Popen | Program | None = None

    def start(self) -> "Server":
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(self.folder), "OMP_NUM_THREADS": "1"}
        if self.own_python:
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(
                    self.command, cwd=self.folder, env=environment, stdout=log, stderr=subprocess.STDOUT
                )
        else:
            self.process = start(self.command, cwd=self.folder, environment=environment, output=self.log)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                requests.get(f"{self.url}/auth/", timeout=5)
                return self
            except requests.ConnectionError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise RuntimeError(f"the server did not start:\n{self.log.read_text()}") from None
                time.sleep(0.05)

    def stop(self, kill: bool = False) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill() if kill else self.process.terminate()
            self.process.wait(30)

    def request(self, method: str, path: str, **arguments) -> requests.Response:
        return requests.request(method, f"{self.url}{path}", timeout=120, **arguments)

    def __enter__(self) -> "Server":
        return self.start()

    def __exit__(self, *_) -> None:
        self.stop()


class PlainServer(Server):
    """MONAI Label's own `start_server` with a plain app."""

    app_source = Path(__file__).parent / "plain_app"
    module = "monailabel.main"


def slicer_client():
    """The client that 3D Slicer's module brings, which the wheel of MONAI Label installs beside its package."""
    found = Path(sys.prefix, "monailabel/plugins/slicer/MONAILabel/MONAILabelLib/client.py")
    if not found.is_file():
        pytest.skip("the wheel of MONAI Label left no plugin of 3D Slicer here")
    spec = importlib.util.spec_from_file_location("slicer_client", found)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.MONAILabelClient
