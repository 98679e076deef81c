"""For Sphinx: the notebooks as executed last, the front page's tables, a colour for each verdict."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

from lab.report.claims import VERDICTS
from lab.report.page import MARKS

if TYPE_CHECKING:
    from docutils.nodes import document
    from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
FIRST = ["guide", "samplers", "remotes-and-gpu", "troubleshooting"]
"""Pages of the guide to read first, where they are there."""


def between(text: str, begin: str, end: str) -> str:
    """What stands between two marks."""
    return text.partition(begin)[2].partition(end)[0].strip("\n")


def notebook(text: str) -> str:
    """An executed notebook without its parameters and with its code folded: text, figures, numbers tell the story."""
    content = json.loads(text)
    for cell in content["cells"]:
        tags = cell["metadata"].setdefault("tags", [])
        if cell["cell_type"] == "code":
            tags += ["remove-input" if {"parameters", "injected-parameters"} & {*tags} else "hide-input"]
    return json.dumps(content)


def index(text: str) -> str:
    """The front page with its lists and tables filled in."""
    findings = YAML(typ="safe").load(ROOT / "lab/report/findings.yaml")
    pages = sorted({path.stem for path in (ROOT / "docs").glob("*.md")} - {"index", "claims", "stages"})
    guide = [name for name in FIRST if name in pages] + [name for name in pages if name not in FIRST]
    readme, claims = (ROOT / "README.md").read_text(), (ROOT / "docs/claims.md").read_text()
    tables = {
        "toc of findings": "\n".join(
            f"{int(name[:2])}. {title} </notebooks/findings/{name}>" for name, (title, _) in findings.items()
        ),
        "toc of the guide": "\n".join(guide),
        "findings": between(readme, *map(str.strip, MARKS)).replace("](notebooks/", "](../notebooks/"),
        "claims": between(claims, "## At a glance", "## ZSNR").replace("](#", "](claims.md#"),
        "legend": between(claims, "# The claims of both papers", "One *primary*"),
    }
    for name, filled in tables.items():
        text = text.replace(f"<!-- {name} -->", filled)
    return text


def read(app: Sphinx, name: str, source: list[str]) -> None:
    """Change a page's source before it is parsed."""
    if name.startswith("notebooks/"):
        full = ROOT / "results/full/findings" / Path(name).name / f"{Path(name).name}.ipynb"
        source[0] = notebook(full.read_text(encoding="utf-8") if full.exists() else source[0])
    elif name == "docs/index":
        source[0] = index(source[0])
    else:
        source[0] = source[0].replace("```mermaid", "```text")  # GitHub draws it; here it would take a browser's script


def classes(text: str) -> list[str]:
    """Of a table's cell, for site.css: its verdict, or that it is not to be broken, being an id or a number."""
    if match := re.match(rf"({'|'.join(VERDICTS)})( \(|$)", text):
        return ["verdict", match[1].replace(" ", "-")]
    return ["whole"] if re.fullmatch(r"[ZE]-\d\d|[-\d.e]+ \[[-\d.e]+, [-\d.e]+\]", text) else []


def colour(app: Sphinx, tree: document, name: str) -> None:
    """Give the cells of all tables their classes."""
    from docutils.nodes import entry

    for cell in tree.findall(entry):
        cell["classes"] += classes(cell.astext())


def front(app: Sphinx, error: Exception | None) -> None:
    """The site's own index.html leads to its first page."""
    if not error:
        to = '<!doctype html><meta charset="utf-8"><title>zsnr</title><meta http-equiv="refresh" content="0; url={0}">'
        Path(app.outdir, "index.html").write_text(to.format("docs/index.html") + '<a href="docs/index.html">zsnr</a>\n')


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("source-read", read)
    app.connect("doctree-resolved", colour)
    app.connect("build-finished", front)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
