"""Until the next release what `rep3d compare` does, for those who know it by this name."""

from __future__ import annotations

import shlex
import sys

from rep3d.commands.comparing import compare as main
from rep3d.console.commands import run_command

if __name__ == "__main__":
    print(f"scripts/compare.py is now: rep3d compare {shlex.join(sys.argv[1:])}".rstrip(), file=sys.stderr)
    run_command(main)
