"""The comparison as tables for other programs and for papers: CSV, Markdown, LaTeX."""

import csv
import io
from pathlib import Path

from data_pipeline.output import write_text
from trainer.comparison.compare import Comparison, Figure, Group
from trainer.metrics.bootstrap import LEVEL
from trainer.pictures.pages import signed

LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def write_tables(comparison: Comparison, folder: Path) -> list[Path]:
    """Write comparison.csv, .md and .tex into `folder`, each complete or not at all."""
    paths = []
    for suffix, table in (("csv", to_csv), ("md", to_markdown), ("tex", to_latex)):
        path = folder / f"comparison.{suffix}"
        write_text(path, table(comparison))
        paths.append(path)
    return paths


def to_csv(comparison: Comparison) -> str:
    """One line a run with every figure, and the group's intervals, differences and costs."""
    names = dict.fromkeys(name for run in comparison.runs for name in run.metrics)
    origins = dict.fromkeys(name for run in comparison.runs for name in run.provenance)
    rows = []
    for index, group in enumerate(comparison.groups):
        for run in group.runs:
            row: dict[str, object] = {"run": run.name, "group": group.name, "folder": run.folder}
            row |= {key: column[index] for key, column in comparison.parameters.items()}
            row |= {name: run.metrics.get(name, "") for name in names}
            for name, figure in group.figures.items():
                row |= _spread(name, figure)
            row |= run.costs
            row |= {f"provenance.{name}": run.provenance.get(name, "") for name in origins}
            rows.append(row)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _spread(name: str, figure: Figure) -> dict[str, object]:
    row: dict[str, object] = {}
    if figure.interval is not None:
        row |= {f"{name} low": figure.interval.low, f"{name} high": figure.interval.high}
    if figure.difference is not None:
        gap = figure.difference
        row |= {
            f"{name} difference": gap.value,
            f"{name} difference low": gap.interval.low,
            f"{name} difference high": gap.interval.high,
        }
    return row


def to_markdown(comparison: Comparison) -> str:
    """A table of the headline figures; bold where the difference to the baseline is clear."""
    lines = [_markdown_row(["run", *comparison.parameters, *comparison.metrics])]
    lines.append(
        _markdown_row(
            ["---", *["---" for _ in comparison.parameters], *["---:"] * len(comparison.metrics)]
        )
    )
    for index, group in enumerate(comparison.groups):
        cells = [_label(group), *[column[index] for column in comparison.parameters.values()]]
        for name in comparison.metrics:
            figure = group.figures[name]
            text = _score(figure, "±") + _bounds(figure)
            cells.append(f"**{text}**" if _clear(figure) else text)
        lines.append(_markdown_row(cells))
    for name, numbers in comparison.references.items():
        blanks = [""] * len(comparison.parameters)
        cells = [f"{numbers[metric]:.2f}" for metric in comparison.metrics]
        lines.append(_markdown_row([f"*{name}*", *blanks, *cells]))
    lines += ["", _caption(comparison)]
    lines += [f"\n**{warning}**" for warning in comparison.warnings]
    return "\n".join(lines) + "\n"


def _markdown_row(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def to_latex(comparison: Comparison) -> str:
    """The same for a paper; needs the package booktabs."""
    left = 1 + len(comparison.parameters)
    heads = [*comparison.parameters, *comparison.metrics]
    lines = [
        "% needs \\usepackage{booktabs}",
        *(f"% {warning}" for warning in comparison.warnings),
        "\\begin{tabular}{" + "l" * left + "r" * len(comparison.metrics) + "}",
        "\\toprule",
        " & ".join(["Run", *(_latex(head) for head in heads)]) + " \\\\",
        "\\midrule",
    ]
    for index, group in enumerate(comparison.groups):
        cells = [_latex(_label(group))]
        cells += [_latex(column[index]) for column in comparison.parameters.values()]
        for name in comparison.metrics:
            figure = group.figures[name]
            text = _score(figure, "$\\pm$")
            cells.append(f"\\textbf{{{text}}}" if _clear(figure) else text)
        lines.append(" & ".join(cells) + " \\\\")
    if comparison.references:
        lines.append("\\midrule")
    for name, numbers in comparison.references.items():
        values = [f"{numbers[metric]:.2f}" for metric in comparison.metrics]
        lines.append(" & ".join([_latex(name), *[""] * (left - 1), *values]) + " \\\\")
    lines += ["\\bottomrule", "\\end{tabular}", f"% {_caption(comparison)}"]
    return "\n".join(lines) + "\n"


def _latex(text: str) -> str:
    return "".join(LATEX_SPECIAL.get(letter, letter) for letter in text)


def _label(group: Group) -> str:
    return group.name if len(group.runs) == 1 else f"{group.name} (n = {len(group.runs)})"


def _score(figure: Figure, sign: str) -> str:
    deviation = "" if figure.deviation is None else f" {sign} {figure.deviation:.2f}"
    return f"{figure.value:.2f}{deviation}"


def _bounds(figure: Figure) -> str:
    if figure.interval is None:
        return ""
    return f" [{signed(figure.interval.low, 1)}, {signed(figure.interval.high, 1)}]"


def _clear(figure: Figure) -> bool:
    return figure.difference is not None and figure.difference.clear


def _caption(comparison: Comparison) -> str:
    measured = ", ".join(
        f"{key} {comparison.shared[key]}"
        for key in ("dataset", "convention", "report", "selection")
        if key in comparison.shared
    )
    return (
        f"Percent, {LEVEL:.0%} bootstrap intervals; bold: the paired difference to "
        f"{comparison.baseline.name} is clear of zero"
        f"{''.join(f' ({caveat})' for caveat in comparison.caveats)}. {measured}."
    )
