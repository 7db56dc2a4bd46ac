"""Compare evaluations: a table with intervals and the paired Wilcoxon test, and a box plot per label.

    python scripts/compare.py eval_rep3d eval_fixed eval_none --output_dir runs/comparison

Each folder is the output folder of `python -m monai.bundle run evaluating`, with its scores.csv. The first one is what
the others are tested against.
"""

from __future__ import annotations

from pathlib import Path

from fire.decorators import SetParseFn

from rep3d.console.commands import run_command
from rep3d.files import write_text


@SetParseFn(str)  # a folder may be called 2024_01_05
def main(*folders: str, output_dir: str = "runs/comparison", score: str = "dice") -> None:
    """Print the table and leave it, with the plot, in a folder.

    Args:
        folders: two or more output folders of evaluations.
        output_dir: receives comparison.md and comparison.png.
        score: a column of scores.csv.
    """
    # Here, not above: they take seconds, and a help needs none of them.
    from rep3d.evaluation.comparison import box_plot, comparison_table
    from rep3d.evaluation.scores import COLUMNS, read_scores

    if len(folders) < 2:
        raise SystemExit(f"give two or more folders of evaluations, got {len(folders)}")
    if score not in COLUMNS:
        raise SystemExit(f"score is {score!r}, expected one of {', '.join(COLUMNS)}")
    evaluations = {str(folder): read_scores(folder) for folder in folders}
    if len(evaluations) < len(folders):
        raise SystemExit(f"a folder is given twice: {' '.join(map(str, folders))}")
    output = Path(output_dir)
    output.mkdir(parents=True, exist_ok=True)
    text = comparison_table(evaluations, score)
    write_text(output / "comparison.md", text)
    box_plot(evaluations, output / "comparison.png", score)
    print(text)


if __name__ == "__main__":
    run_command(main)
