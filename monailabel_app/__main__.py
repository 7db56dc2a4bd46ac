"""Start the server, or look after the versions of a model's weights.

    python -m monailabel_app start_server --studies DIR
    python -m monailabel_app versions --model NAME
    python -m monailabel_app serve_version --model NAME --version 3
    python -m monailabel_app COMMAND --help

The last shows the options of a command. `start_server` takes all options of `monailabel start_server`, with this app
and 127.0.0.1 as defaults, and `--conf NAME VALUE` for the settings below, whose defaults stand in brackets; APP is the
app's folder: `monailabel_app` of a checkout, else `label_app` in the current folder, beside your `bundles`.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # SHARED_CORES of rep3d.training.cpu, before anything loads torch

from rep3d.console.errors import describe

try:
    from uvicorn.config import HTTP_PROTOCOLS

    from monailabel_app.commands import COMMANDS, run_command
    from monailabel_app.errors import RequestError
    from monailabel_app.settings import help_text, read_settings
    from monailabel_app.temporary import own_temporary_files
    from monailabel_app.web.authentication import Authentication
    from monailabel_app.web.security import is_loopback
    from rep3d import installed
    from rep3d.commands.bundle_folders import write_missing
    from rep3d.files import write_text
except ImportError as error:
    sys.exit(describe(error))

CODE = Path(__file__).resolve().parent
FOLDER = "label_app"  # of an installed package's app, in the current folder
MAIN = "from monailabel_app.main import Rep3DApp  # noqa: F401 -- which MONAI Label looks for here"


def main(arguments: list[str]) -> None:
    """Start the server, or print what another command answers."""
    command = arguments[0] if arguments else ""
    if command in ("-h", "--help"):
        print(f"{__doc__}\n{help_text()}")
    elif "--version" in (command, *arguments[1:2]) and len(arguments) <= 2:
        print(f"rep3d {version('rep3d')}")
    elif command == "start_server":
        start_server(arguments[1:])
    elif command in COMMANDS:
        try:
            print(run_command(arguments, read_settings(app_folder(), {}).bundles))
        except RequestError as error:
            sys.exit(error.message)
        except ValueError as error:
            sys.exit(str(error))
    else:
        sys.exit(f"{__doc__}\n{help_text()}")


def app_folder() -> Path:
    """The app's folder: that of a checkout. A package that was installed is no place for logs, sessions and weights."""
    return CODE if installed.root() == CODE.parent else Path(FOLDER).resolve()


def make_app_folder(folder: Path) -> None:
    """Make the app's folder for an installed package; one that is there stays as it is."""
    folder.mkdir(exist_ok=True)
    if not (folder / "main.py").is_file():
        write_text(folder / "main.py", MAIN)


def start_server(arguments: list[str]) -> None:
    """Check what MONAI Label's command line is given, and hand over to it."""
    from monailabel.main import Main

    if {"-h", "--help"} & set(arguments):
        print(f"{__doc__}\n{help_text()}\n")
    monai_label, app = Main(), app_folder()
    given = monai_label.args_parser(f"python -m {__package__}").parse_args(
        ["start_server", "--app", str(app), "--host", "127.0.0.1", *arguments]
    )
    conf = dict(given.conf or [])
    try:
        settings = read_settings(app, conf)
        authentication = Authentication.of(settings)
    except ValueError as error:
        sys.exit(str(error))
    if not (is_loopback(given.host) or authentication.enabled or settings.insecure):
        sys.exit(
            f"host is {given.host!r}: other computers may reach it, callers must be known. Give --conf api_keys "
            "FILE or --conf realm ADDRESS, or, at your own risk, --conf insecure true"
        )
    check_studies_option(given.studies)
    check_workers(given.workers if given.workers is not None else os.environ.get("WEB_CONCURRENCY", 1))
    if given.app == str(app) != str(CODE):
        try:
            make_app_folder(app)
            written = [] if "bundles" in conf else write_missing(settings.bundles, settings.models.split(","))
        except OSError as error:
            sys.exit(f"{error}: the app keeps its files in the current folder, start it in one that it can write to")
        for folder in written:
            print(f"written: {folder}", flush=True)
    HTTP_PROTOCOLS["auto"] = "monailabel_app.web.connections:Connection"  # MONAI Label lets uvicorn choose
    own_temporary_files()  # before uvicorn handles signals
    monai_label.action_start_server(given)


def check_studies_option(studies: str | None) -> None:
    """End unless the studies are there, and can be kept: MONAI Label would make a folder of a name that is misspelt."""
    if not studies:
        sys.exit("--studies is missing: the folder of the images, or the address of a DICOMweb service")
    if studies.startswith(("http://", "https://")):
        return
    if not Path(studies).is_dir():
        sys.exit(f"--studies is {studies!r}, expected a folder that is there, or the address of a DICOMweb service")
    from monailabel_app.studies.folder import check_writable  # which takes seconds

    try:
        check_writable(Path(studies))
    except ValueError as error:
        sys.exit(f"--studies: {error}")


def check_workers(workers: int | str) -> None:
    """End where uvicorn would start several processes: each would want the studies and the weights for itself."""
    if str(workers) != "1":
        sys.exit(f"--workers (or WEB_CONCURRENCY) is {workers}, expected 1: one process owns the studies and weights")


if __name__ == "__main__":
    main(sys.argv[1:])
