"""`rep3d compare`: evaluations beside each other."""

from __future__ import annotations

from pathlib import Path

from fire.decorators import SetParseFn

from rep3d.files import write_text


@SetParseFn(str)  # a folder may be called 2024_01_05
def compare(*folders: str, output_dir: str = "runs/comparison", score: str = "dice") -> None:
    """Compare evaluations: a table with intervals and the paired Wilcoxon test, and a box plot per label.

    The first one is what the others are tested against. Prints the table and leaves it, with the plot, in a folder.

    Args:
        folders: two or more output folders of evaluations, each with its scores.csv.
        output_dir: receives comparison.md and comparison.png.
        score: a column of scores.csv; volume errors count without their sign.
    """
    # Here, not above: they take seconds, and a help needs none of them.
    from rep3d.evaluation.comparison import box_plot, comparison_table
    from rep3d.evaluation.scores import COLUMNS, read_scores

    if len(folders) < 2:
        raise SystemExit(f"give two or more folders of evaluations, got {len(folders)}")
    if len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise SystemExit(f"a folder is given twice: {' '.join(folders)}")
    if score not in COLUMNS:
        raise SystemExit(f"score is {score!r}, expected one of {', '.join(COLUMNS)}")
    evaluations = {str(folder): read_scores(folder) for folder in folders}
    text = comparison_table(evaluations, score)
    output = Path(output_dir)
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / "comparison.md", text)
    box_plot(evaluations, output / "comparison.png", score)
    print(text)
