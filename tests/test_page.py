"""The claims for people: docs/claims.md and the README's table of findings."""

import json
import re

import pytest

from lab import ROOT
from lab.report import page
from lab.report.claims import VERDICTS, Check, claims
from lab.report.wording import table, words

DOCS = ROOT / "docs"
ROWS = table([])
LONGEST = 60  # words


def primary(id, value, scope="row", notebook="01_terminal_snr", **more):
    return Check(id, claims()[id]["primary"][scope]["what"], value, notebook=notebook, **more)


MEASURED = [
    primary("Z-01", 6),
    Check("Z-01", "beside | it", 1, at_most=2, note="a~b *c* <d>", notebook="01_terminal_snr"),
    primary("Z-06", 0.3070261, "exact", "02_sample_steps"),
    primary("Z-06", 0.13, "trained", "03_offset_noise", interval=(0.1, 0.2)),
    primary("Z-12", 0.03, "trained", "02_sample_steps", interval=(-0.1, 0.2)),
    primary("E-02", [20291, 642, 321, 214, 160, 128, 106, 92, 80, 71], notebook="06_design_space"),
]
SOME = table([MEASURED])
TEXT = page.to_markdown(SOME, DOCS)


def lines(text):
    """The cells of each line of the overview."""
    found = (re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("| ["))
    return [[cell.strip() for cell in cells] for cells in found]


def test_the_overview_has_a_line_for_each_verdict_in_order():
    overview = lines(page.overview(SOME, ""))
    assert len(overview) == sum(len(words(row)) for row in SOME) == 88
    assert {len(cells) for cells in overview} == {6}
    ids = [re.match(r"\[(.*)\]\(#(.*)\)", cells[0]).groups() for cells in overview]
    assert list(dict.fromkeys(id for id, _ in ids)) == list(claims())
    assert all(id.lower() == anchor for id, anchor in ids)


def test_a_line_has_one_number_with_its_interval_and_both_scopes_have_one():
    overview = {(cells[0][1:5], cells[4]): cells for cells in lines(page.overview(SOME, ""))}
    assert overview["Z-01", "reproduced"][3] == "6"
    assert overview["Z-06", "direction (exact)"][3] == "0.307"
    assert overview["Z-06", "direction (trained)"][3] == "0.13 [0.1, 0.2]"
    assert overview["Z-12", "inconclusive (trained)"][3] == "0.03 [-0.1, 0.2]"
    assert overview["E-02", "direction"][3] == "10 of 10"
    assert overview["E-27", "out of reach"][3] == ""
    assert overview["Z-02", "pending"][3] == ""


def test_every_claim_has_its_section_with_the_primary_check_first():
    assert re.findall(r"^### (.*)$", TEXT, re.M) == list(claims())
    section = TEXT.partition("### Z-06\n")[2].partition("### ")[0]
    assert "**direction** on exact denoisers, **direction** on trained networks" in section
    assert f"> {page.cell(claims()['Z-06']['statement'])}\n" in section
    assert section.count("**primary") == 2
    assert section.count("Why this check and band") == 2
    assert "![The leak keeps brightness around 0](03_offset_noise-levels.png)" in section
    beside = TEXT.partition("### Z-01\n")[2].partition("### ")[0]
    assert beside.index("**primary**") < beside.index(r"beside \| it (a\~b \*c\* \<d>)")
    assert "pending" in TEXT.partition("### Z-02\n")[2].partition("### ")[0]


def test_a_check_links_to_the_section_that_measures_it():
    found = page.link({"notebook": "01_terminal_snr", "what": "digits that agree in float32, of 6 numbers"}, DOCS)
    assert found == "[1](../notebooks/findings/01_terminal_snr.ipynb#table-1)"
    assert page.link({"notebook": "01_terminal_snr", "what": "of no notebook"}, ROOT / "results").endswith(".ipynb)")
    assert page.link({"notebook": "", "what": "x"}, DOCS) == ""


def test_every_verdict_is_defined_and_another_profiles_page_says_so():
    assert list(page.MEANING) == list(VERDICTS)
    assert all(f"- **{word}**: " in TEXT for word in VERDICTS if word != "pending")
    assert "profile `smoke`" in page.to_markdown(SOME, DOCS, "smoke")
    assert "profile" not in TEXT


def test_no_cell_is_long():
    """Of the short table, on what the full profile measured."""
    rows = json.loads((ROOT / "results/claims.json").read_text())
    cells = [cell for line in lines(page.overview(rows, "")) for cell in line]
    assert max(len(cell.split()) for cell in cells) <= LONGEST


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ([], ""),
        (["Z-01"], "Z-01"),
        (["Z-01", "Z-02"], "Z-01, Z-02"),
        (["Z-01", "Z-02", "Z-03", "E-04"], "Z-01 to Z-03, E-04"),
        (["Z-24", "E-25"], "Z-24, E-25"),
    ],
)
def test_ranges(ids, text):
    assert page.ranges(ids) == text


def test_the_findings_have_the_claims_and_verdicts_of_their_primary_checks():
    cells = [line.split(" | ") for line in page.findings(SOME).splitlines()[2:]]
    assert len(cells) == len(list((ROOT / "notebooks/findings").glob("*.py")))
    assert [c[2:] for c in cells[:3]] == [
        ["Z-01", "1 reproduced |"],
        ["Z-06, Z-12", "1 direction, 1 inconclusive |"],
        ["Z-06", "1 direction |"],
    ]
    assert cells[-1][2:] == ["none", "none |"]


def test_the_readme_keeps_what_stands_around_the_table():
    text = "before\n<!-- findings -->\nold\n<!-- /findings -->\nafter\n"
    made = page.readme(text, SOME)
    assert made.startswith("before\n<!-- findings -->\n| finding | question | claims |")
    assert made.endswith("<!-- /findings -->\nafter\n")
    assert "\nold\n" not in made
    assert page.readme(made, SOME) == made
    for broken in ("no marks", "<!-- findings -->\n", text + text):
        with pytest.raises(ValueError, match="needs a line"):
            page.readme(broken, SOME)


def test_a_new_finding_without_its_question_is_refused(monkeypatch, tmp_path):
    (tmp_path / "99_new.py").touch()
    monkeypatch.setattr(page, "FINDINGS", tmp_path)
    with pytest.raises(ValueError, match=r"99_new has no entry in lab/report/findings\.yaml"):
        page.findings(SOME)
