"""For Sphinx: docstrings as they are written here, plain text with indented equations, as reStructuredText."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

KEPT: dict[str, list[str]] = {}
EQUATION = re.compile(r"\S+( \S+)? *(=|<-) ")
SECTION = re.compile(r"(Args|Returns|Raises|Attributes|Yields):$")


def indent(line: str) -> int:
    """How far a line is indented."""
    return len(line) - len(line.lstrip())


def escaped(line: str) -> str:
    """`x` as code, a link where it names something of zsnr; all other marks as they stand."""
    parts = re.split(r"(`[^`]+`)", line)
    for i, part in enumerate(parts):
        if i % 2:
            inner = part.strip("`")
            parts[i] = f":py:obj:`{inner}`" if re.fullmatch(r"zsnr[\w.]*", inner) else f"``{inner}``"
        else:
            parts[i] = re.sub(r"([\\*|])|(?<=\w)(_)(?!\w)", lambda match: "\\" + match[0], part)
    return "".join(parts)


def literal(block: list[str]) -> bool:
    """Is this paragraph equations, a table or code? They are indented, lined up, or an equation a line."""
    if block[0].lstrip().startswith(("- ", "1. ")):
        return False
    lined_up = any(indent(line) > indent(block[0]) or "  " in line.strip() for line in block)
    return indent(block[0]) > 1 or lined_up or all(map(EQUATION.match, block))


def blocks(lines: list[str]) -> list[list[str]]:
    """Paragraphs, parted by blank lines."""
    found: list[list[str]] = [[]]
    for line in lines:
        found += [[]] if not line.strip() and found[-1] else []
        found[-1] += [line] if line.strip() else []
    return [block for block in found if block]


def converted(lines: list[str]) -> list[str]:
    """A docstring as reStructuredText; its sections are left to napoleon."""
    result: list[str] = []
    section = False
    for block in blocks(lines):
        section = bool(SECTION.match(block[0])) or (section and indent(block[0]) > 0)
        if section or not literal(block):
            result += [*map(escaped, block), ""]
        else:
            result += ["::", "", *("    " + line for line in block), ""]
    return result


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Called by autodoc for each docstring. Napoleon would take "Steps" for the type in an attribute's "Steps: all"."""
    new = converted(lines)
    if what in ("attribute", "property"):
        KEPT[name], new = new, []
    lines[:] = new


def restore(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Called after napoleon."""
    lines[:] = KEPT.pop(name, lines)


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx; napoleon's priority is 500."""
    app.connect("autodoc-process-docstring", process, priority=400)
    app.connect("autodoc-process-docstring", restore, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
