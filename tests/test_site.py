"""The site: docstrings as pages have them, folded notebooks, the front page; dead links and network loads are found.

`make site`, which `.ci/test` calls, builds it.
"""

import importlib.util
import json
import sys

import pytest

from lab import ROOT


def module(path):
    spec = importlib.util.spec_from_file_location(f"of_the_site_{path.stem}", path)
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


docstrings, pages = module(ROOT / "docs/site_docstrings.py"), module(ROOT / "docs/site_pages.py")
faults = module(ROOT / "tests/site.py").faults


@pytest.mark.parametrize(
    ("docstring", "page"),
    [
        ("A `b` of *c* | d_ in x_phi.", r"A ``b`` of \*c\* \| d\_ in x_phi."),
        ("See `zsnr.rows`, `rows`.", "See :py:obj:`zsnr.rows`, ``rows``."),
        ("Text:\n\n    x = *y*", "Text:\n\n::\n\n        x = *y*"),
        ("beta = 1\nmean = 2\n       + 3", "::\n\n    beta = 1\n    mean = 2\n           + 3"),
        ("sigma = a\nx_s = b", "::\n\n    sigma = a\n    x_s = b"),
        ("eta = 0:  x <- y", "::\n\n    eta = 0:  x <- y"),
        ("- one\n  and more\n- two", "- one\n  and more\n- two"),
        ("Args:\n    x: *all*,\n        and more\n\nAfter.", "Args:\n    x: \\*all\\*,\n        and more\n\nAfter."),
    ],
)
def test_a_docstring_reads_as_it_is_written(docstring, page):
    assert "\n".join(docstrings.converted(docstring.split("\n"))).rstrip("\n") == page


def test_a_notebooks_code_is_folded_and_its_parameters_left_out():
    cells = [{"cell_type": "markdown", "metadata": {}}, {"cell_type": "code", "metadata": {}}]
    cells += [{"cell_type": "code", "metadata": {"tags": [tag]}} for tag in ("parameters", "injected-parameters", "a")]
    made = json.loads(pages.notebook(json.dumps({"cells": cells})))["cells"]
    assert [cell["metadata"]["tags"][-1:] for cell in made] == [
        [],
        ["hide-input"],
        ["remove-input"],
        ["remove-input"],
        ["hide-input"],
    ]


def test_the_front_page_has_both_tables_and_every_finding():
    text = pages.index((ROOT / "docs/index.md").read_text())
    assert "<!-- " not in text
    assert "](claims.md#z-01)" in text
    for path in (ROOT / "notebooks/findings").glob("*.py"):
        assert f"](../notebooks/findings/{path.stem}.ipynb)" in text
        assert f"</notebooks/findings/{path.stem}>" in text


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("direction (exact)", ["verdict", "direction"]),
        ("out of reach", ["verdict", "out-of-reach"]),
        ("directions", []),
        ("Z-01", ["whole"]),
        ("-0.03 [-1e-05, 2]", ["whole"]),
        ("0.3", []),
    ],
)
def test_classes_of_a_cell(text, classes):
    assert pages.classes(text) == classes


@pytest.mark.parametrize(
    ("page", "found"),
    [
        ('<a href="#here">a</a><b id="here">b</b><a href="https://x.y/z">z</a><img src="a.png">', None),
        ('<a href="#there">a</a>', "links to #there"),
        ('<a href="other.html">a</a>', "links to other.html"),
        ('<a href="more.html#no">a</a>', "links to more.html#no"),
        ('<a href="more.html#yes">a</a>', None),
        ('<img src="b.png">', "links to b.png"),
        ('<script src="https://x.y/z.js"></script>', "loads https://x.y/z.js"),
        ('<link rel="stylesheet" href="//x.y/z.css">', "loads //x.y/z.css"),
    ],
)
def test_dead_links_and_loads_from_a_network_are_found(tmp_path, page, found):
    (tmp_path / "a.png").touch()
    (tmp_path / "more.html").write_text('<p id="yes">')
    (tmp_path / "index.html").write_text(page)
    assert [f"index.html {found}" in fault for fault in faults(tmp_path)] == [True] * bool(found)


def test_an_empty_site_is_a_fault(tmp_path):
    assert faults(tmp_path) == [f"{tmp_path} holds no page"]
