"""The command `rep3d`: short doors to what the bundles do.

Names and paths reach the functions as they were typed. Whatever computes is imported with its first use: a help needs
neither torch nor MONAI.
"""

from __future__ import annotations

import sys
from importlib.metadata import version

from rep3d.commands.bundle_folders import bundles
from rep3d.commands.comparing import compare
from rep3d.commands.creating import new
from rep3d.commands.packing import pack
from rep3d.commands.preparing import prepare
from rep3d.commands.running import evaluate, predict, train
from rep3d.console.commands import run_command
from rep3d.console.nearest import nearest

COMMANDS = {command.__name__: command for command in (bundles, new, train, evaluate, predict, compare, pack, prepare)}


def main() -> None:
    """Run the command that was typed."""
    command, *words = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        print(overview())
    elif command == "--version":
        print(f"rep3d {version('rep3d')}")
    elif command in COMMANDS:
        run_command(COMMANDS[command], words, program="rep3d")
    else:
        raise SystemExit(f"there is no command {command!r}{nearest(command, COMMANDS)}\n\n{overview()}")


def overview() -> str:
    """The commands, a line each."""
    lines = [f"  rep3d {name:<10}{(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join([*lines, "", "rep3d COMMAND --help shows the options of one."])
