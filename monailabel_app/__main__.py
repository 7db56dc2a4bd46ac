"""Start the server, or look after the versions of a model's weights.

    python -m monailabel_app start_server --studies DIR
    python -m monailabel_app versions --model NAME
    python -m monailabel_app serve_version --model NAME --version 3

`start_server` takes all options of `monailabel start_server`, with this app and 127.0.0.1 as defaults, and
`--conf NAME VALUE` for the settings below, whose defaults stand in brackets; APP is the app's folder.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # SHARED_CORES of rep3d.training.cpu, before anything loads torch

from rep3d.console.errors import describe

try:
    from monailabel_app.commands import COMMANDS, run_command
    from monailabel_app.errors import RequestError
    from monailabel_app.settings import help_text, read_settings
    from monailabel_app.web.authentication import Authentication
    from monailabel_app.web.security import is_loopback
except ImportError as error:
    sys.exit(describe(error))

APP = Path(__file__).resolve().parent


def main(arguments: list[str]) -> None:
    """Start the server, or print what another command answers."""
    command = arguments[0] if arguments else ""
    if command == "start_server":
        start_server(arguments[1:])
    elif command in COMMANDS:
        try:
            print(run_command(arguments, read_settings(APP, {}).bundles))
        except RequestError as error:
            sys.exit(error.message)
        except ValueError as error:
            sys.exit(str(error))
    else:
        sys.exit(f"{__doc__}\n{help_text()}")


def start_server(arguments: list[str]) -> None:
    """Check the address and hand over to MONAI Label's command line."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-i", "--host", default="127.0.0.1")
    parser.add_argument("-c", "--conf", nargs=2, action="append", default=[])
    parser.add_argument("-h", "--help", action="store_true")
    given, _ = parser.parse_known_args(arguments)
    if given.help:
        print(f"{__doc__}\n{help_text()}\n")
    try:
        settings = read_settings(APP, dict(given.conf))
        authentication = Authentication.of(settings)
    except ValueError as error:
        sys.exit(str(error))
    if not (is_loopback(given.host) or authentication.enabled or settings.insecure):
        sys.exit(
            f"host is {given.host!r}: other computers may reach it, callers must be known. Give --conf api_keys "
            "FILE or --conf realm ADDRESS, or, at your own risk, --conf insecure true"
        )
    from monailabel.main import Main

    sys.argv = ["monailabel", "start_server", "--app", str(APP), "--host", given.host, *arguments]
    Main().run()


if __name__ == "__main__":
    main(sys.argv[1:])
