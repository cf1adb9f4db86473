"""Formats numbers for reading, and tables of them as Markdown and LaTeX."""

import math
import re
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import pandas as pd
from tabulate import tabulate

P_DIGITS, P_FLOOR = 3, 0.001
DIGITS, PERCENT_DECIMALS = 4, 2
ABSENT = "–"

HEADINGS = {
    "ci_low": "CI low",
    "ci_high": "CI high",
    "mean_difference": "Mean difference",
    "n": "n",
    "p": "p",
    "run_id": "Run",
    "sd": "SD",
    "t": "t",
}
"""Headings of the columns whose name, with spaces for underscores, is not a heading."""

LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "$": r"\$",
        "&": r"\&",
        "%": r"\%",
        "#": r"\#",
        "_": r"\_",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "<": r"$<$",
        ">": r"$>$",
        "|": r"$|$",
        "±": r"$\pm$",
        "∞": r"$\infty$",
        "–": "--",
        "−": "$-$",
        "λ": r"$\lambda$",
        "[": "{[}",  # first in a row it would be an argument of the line break before it
    }
)


Row = dict[Hashable, Any]
"""A row of a table, by the names of its columns."""


class Column(NamedTuple):
    """A displayed column: its heading, its text for a row, and whether it is right-aligned."""

    heading: str
    text: Callable[[Row], str]
    right: bool = False


class Display(NamedTuple):
    """A table of texts; `right` says which columns hold numbers and are right-aligned."""

    headings: list[str]
    rows: list[list[str]]
    right: list[bool]

    @classmethod
    def of(cls, frame: pd.DataFrame, columns: Sequence[Column]) -> "Display":
        """The given columns for every row of a frame."""
        return cls(
            headings=[column.heading for column in columns],
            rows=[[column.text(row) for column in columns] for row in frame.to_dict("records")],
            right=[column.right for column in columns],
        )


def text_column(heading: str, name: str, right: bool = False) -> Column:
    """The column `name` as it is."""
    return Column(heading, lambda row: str(row[name]), right)


def number_column(heading: str, name: str, unit: str | None = None) -> Column:
    """The column `name` by `number`, in `unit` or that of the row."""
    return Column(heading, lambda row: number(row[name], _unit(row, unit)), right=True)


def mean_column(heading: str, names: Sequence[str], unit: str | None = None) -> Column:
    """The columns `names`, of mean, SD and n, by `mean_sd_n`, in `unit` or that of the row."""

    def text(row: Row) -> str:
        mean, sd, n = (row[name] for name in names)
        return mean_sd_n(mean, sd, n, _unit(row, unit))

    return Column(heading, text, right=True)


def _unit(row: Row, unit: str | None) -> str:
    return str(row["unit"]) if unit is None else unit


def displayed(frame: pd.DataFrame) -> Display:
    """A frame as a table of texts; see `cell` for the rounding of each column."""
    units = frame["unit"].tolist() if "unit" in frame else [""] * len(frame)
    columns = [
        [cell(name, value, unit) for value, unit in zip(frame[name].tolist(), units, strict=True)]
        for name in frame.columns
    ]
    return Display(
        headings=[heading(name) for name in frame.columns],
        rows=[list(row) for row in zip(*columns, strict=True)],
        right=[pd.api.types.is_numeric_dtype(dtype) for dtype in frame.dtypes],
    )


def heading(column: str) -> str:
    """The heading of a column: 'mean_difference' becomes 'Mean difference'."""
    return HEADINGS.get(column, column.replace("_", " ").capitalize())


def cell(column: str, value: Any, unit: str) -> str:
    """One field as text: strings and integers unchanged, floats by column name or unit.

    Returns:
        For `p` the result of `p_value`; `t` as dimensionless; `confidence` as a percentage; any
        other float by `number` in `unit`.
    """
    if not isinstance(value, float):
        return str(value)
    if column == "p":
        return p_value(value)
    if column == "confidence":
        return f"{100 * value:g}%"
    return number(value, "dimensionless" if column == "t" else unit)


def number(value: float, unit: str) -> str:
    """A number as text: 2 decimals in `percent`, otherwise 4 significant digits; NaN is a dash."""
    if math.isnan(value):
        return ABSENT
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    percent = unit == "percent"
    text = f"{value:.{PERCENT_DECIMALS}f}" if percent else _significant(value, DIGITS)
    return text.removeprefix("-") if float(text) == 0 else text


def interval_text(low: float, high: float, unit: str) -> str:
    """An interval as text: '[0.31, 2.09]', formatted by `number`; a dash if it is NaN."""
    return ABSENT if math.isnan(low) else f"[{number(low, unit)}, {number(high, unit)}]"


def mean_sd_n(mean: float, sd: float, n: int, unit: str) -> str:
    """A mean as text: '31.45 ± 0.27 (3)'; '31.45 (1)' without a spread; a dash without a value."""
    centre = number(mean, unit)
    if math.isnan(mean):
        return centre
    if math.isnan(sd):
        return f"{centre} ({n})"
    # As many decimals as the mean: more would say nothing, except that there is a spread at all.
    decimals = len(centre.partition(".")[2])
    spread = number(sd, unit) if "e" in centre else f"{sd:.{decimals}f}"
    spread = f"{sd:.1g}" if sd > 0 and not spread.strip("0.") else spread
    return f"{centre} ± {spread} ({n})"


def quantity(low: int, noun: str, high: int | None = None) -> str:
    """A number of things, or a range of numbers, as text: '1 seed', '5 seeds', '3 to 5 seeds'."""
    most = low if high is None else high
    many = f"{low} to {most}" if low < most else f"{most}"
    return f"{many} {noun}{'' if many == '1' else 's'}"


def p_value(value: float) -> str:
    """A p-value as text: 3 significant digits, '<0.001' if smaller than that; NaN is a dash."""
    if math.isnan(value):
        return ABSENT
    return f"<{P_FLOOR}" if value < P_FLOOR else _significant(value, P_DIGITS)


def _significant(value: float, digits: int) -> str:
    # '#' keeps trailing zeros, which say how many digits were measured, but also a bare point.
    return f"{value:#.{digits}g}".removesuffix(".")


def markdown(table: Display) -> str:
    """The table as a Markdown pipe table, numbers right-aligned."""
    text = tabulate(
        [[_pipe_safe(field) for field in row] for row in table.rows],
        headers=[_pipe_safe(name) for name in table.headings],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["right" if right else "left" for right in table.right] if table.rows else None,
    )
    return text + "\n"


def _pipe_safe(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def latex(table: Display) -> str:
    r"""The table as a tabular for \input; the document needs only \usepackage{booktabs}."""
    columns = "".join("r" if right else "l" for right in table.right)
    lines = [_latex_row(table.headings), *(_latex_row(row) for row in table.rows)]
    body = [lines[0], r"\midrule", *lines[1:]]
    parts = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *body, r"\bottomrule"]
    return "\n".join([*parts, r"\end{tabular}"]) + "\n"


def _latex_row(fields: list[str]) -> str:
    return " & ".join(latex_text(field) for field in fields) + r" \\"


def latex_text(text: str) -> str:
    """Text with LaTeX's special characters escaped, and numbers typeset with their minus signs."""
    escaped = " ".join(text.split()).translate(LATEX)
    numeric = re.fullmatch(r"(-?)([\d.]+)(?:e([+-]\d+))?(.*)", escaped)
    if not numeric:
        return re.sub(r"^-(?=\$)", "$-$", escaped)
    sign, digits, power, rest = numeric.groups()
    scaled = rf"{digits}$\times10^{{{int(power)}}}$" if power else digits
    return f"{'$-$' if sign else ''}{scaled}{rest}"
