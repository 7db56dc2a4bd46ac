"""What `mutmut run` has found so far: how many small changes of each file no test notices, and which have no reason.

    python scripts/mutants.py

Every survivor needs a reason in tests/surviving_mutants.json, and they may be 5 % of all; else the exit status is 1.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.stats import status_by_exit_code
from mutmut.utils.file_utils import walk_mutatable_files

from rep3d.console.commands import run_command
from rep3d.console.tables import markdown_table

REASONS = Path("tests/surviving_mutants.json")
LARGEST_SHARE = 0.05
NOTICED = ("killed", "timeout", "segfault")
UNKNOWN = "not checked"
UNTESTED = 255  # pytest refused the names of the tests; mutmut takes that for a timeout


def main() -> None:
    """Print the table, and then every change that survives without a reason."""
    reasons = json.loads(REASONS.read_text(encoding="utf-8"))
    rows, unexplained, total = [], [], Counter()
    for path in sorted(walk_mutatable_files()):
        data = SourceFileMutationData(path=path)
        data.load()
        counts: Counter[str] = Counter()
        for name, code in data.exit_code_by_key.items():
            status = "pytest did not run" if code == UNTESTED else status_by_exit_code[code]
            if status in NOTICED or status == UNKNOWN:
                counts[status if status == UNKNOWN else "noticed"] += 1
                continue
            counts["survived"] += 1
            change = changed_lines(name, path)
            if not any(fits(reason, path, change) for reason in reasons):
                unexplained.append(f"{name} ({status})\n{change}")
        rows.append(row(str(path), counts))
        total += counts
    print(markdown_table(["file", "changes", "noticed", "survived", "not tried"], [*rows, row("all", total)]))
    print(*unexplained, sep="\n\n")
    tried = total.total() - total[UNKNOWN]
    if unexplained or total["survived"] > LARGEST_SHARE * tried:
        raise SystemExit(f"{total['survived']} of {tried} changes survive, {len(unexplained)} of them without a reason")


def row(title: str, counts: Counter[str]) -> list[str]:
    tried = counts.total() - counts[UNKNOWN]
    share = f" ({counts['survived'] / tried:.1%})" if tried else ""
    return [title, str(counts.total()), str(counts["noticed"]), f"{counts['survived']}{share}", str(counts[UNKNOWN])]


def changed_lines(mutant: str, path: Path) -> str:
    lines = get_diff_for_mutant(mutant, path=path).splitlines()
    return "\n".join(line for line in lines if re.match(r"[+-](?![+-]{2} )", line))


def fits(reason: dict[str, str], path: Path, change: str) -> bool:
    return path.match(reason.get("file", "*")) and re.search(reason["change"], change, re.MULTILINE) is not None


if __name__ == "__main__":
    run_command(main)
