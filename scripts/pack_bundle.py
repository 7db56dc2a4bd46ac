"""Until the next release what `rep3d pack` does, for those who know it by this name."""

from __future__ import annotations

import shlex
import sys

from rep3d.commands.packing import pack as main
from rep3d.console.commands import run_command

if __name__ == "__main__":
    print(f"scripts/pack_bundle.py is now: rep3d pack {shlex.join(sys.argv[1:])}".rstrip(), file=sys.stderr)
    run_command(main)
