"""Tables of numbers for a notebook: HTML whose cells do not wrap, and plain text where there is no browser.

    table([("base", 0.686, (0.645, 0.726))], columns=["model", "std ratio"])

A cell is text, a number, a truth value, None (nothing there), or a number with its 95 % interval:
`measured(value, interval)`, or the tuple (value, (low, high)), shown as `0.686 [0.645, 0.726]`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

FORM = ".3f"
LONG = 60
"""A text with more characters than this may wrap."""


def number(x: Any, form: str = FORM) -> str:
    """x as text: a float by the format `form`, an exact 0 as 0.0, a NaN or None as a dash, anything else as it is."""
    if x is None:
        return "–"
    if isinstance(x, bool):
        return "yes" if x else "no"
    if not isinstance(x, float):
        return str(x)
    if math.isnan(x):
        return "–"
    return "0.0" if x == 0 else format(x, form)


def measured(value: float, interval: Sequence[float] | None = None, form: str = FORM) -> str:
    """A value with its interval, `value [low, high]`; the value alone where there is no interval."""
    text = number(float(value), form)
    if interval is None:
        return text
    low, high = (number(float(end), form) for end in interval)
    return f"{text} [{low}, {high}]"


def _cell(x: Any, form: str) -> str:
    if isinstance(x, tuple):
        value, interval = x
        return measured(value, interval, form)
    return number(x.item() if hasattr(x, "item") else x, form)


def _aligned(text: str) -> str:
    """Numbers stand to the right, words to the left."""
    return "right" if text[:1].isdigit() or text[:1] in "-–+" else "left"


@dataclass(frozen=True)
class Table:
    """Rows of text under titles; `table` makes it.

    Args:
        columns: the titles.
        rows: one text a column.
        caption: a sentence above the table.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""

    def _repr_html_(self) -> str:
        head = "".join(f'<th align="left" nowrap>{escape(title)}</th>' for title in self.columns)
        lines = [f"<tr>{head}</tr>"]
        for row in self.rows:
            cells = (
                f'<td align="{_aligned(text)}"{"" if len(text) > LONG else " nowrap"}>{escape(text)}</td>'
                for text in row
            )
            lines.append(f"<tr>{''.join(cells)}</tr>")
        caption = f"<caption>{escape(self.caption)}</caption>\n" if self.caption else ""
        return f"<table>\n{caption}" + "\n".join(lines) + "\n</table>"

    def __repr__(self) -> str:
        lines = [self.columns, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        return "\n".join([self.caption, *text] if self.caption else text)


def table(rows: Iterable[Sequence[Any]], columns: Sequence[str] | Mapping[str, str], caption: str = "") -> Table:
    """A table to be shown.

    Args:
        rows: one cell a column.
        columns: the titles; a mapping gives each column's format of floats too, such as {"SNR": ".2e"}.
        caption: a sentence above the table.

    Raises:
        ValueError: a row with more or fewer cells than there are columns.
    """
    forms = [columns[name] or FORM for name in columns] if isinstance(columns, Mapping) else [FORM] * len(columns)
    lines = [tuple(row) for row in rows]
    for row in lines:
        if len(row) != len(forms):
            raise ValueError(f"the row {row} has {len(row)} cells: give one for each of {', '.join(columns)}")
    text = tuple(tuple(_cell(x, form) for x, form in zip(row, forms, strict=True)) for row in lines)
    return Table(tuple(columns), text, caption)
