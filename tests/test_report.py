"""What the findings show and open with: tables, sentences, checks."""

import json
import math

import pytest
import torch

from lab.report import finding
from lab.report.tables import measured, number, table
from pipeline.nbval_close import Approximate

ROWS = [("base", 0.6857, (0.94301, (0.9309, 0.9550))), ("a & b", 1e-9, (0.5, None))]


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (0.12345, "0.123"),
        (0.0, "0.0"),
        (-0.0, "0.0"),
        (math.nan, "–"),
        (None, "–"),
        (True, "yes"),
        (7, "7"),
        (math.inf, "inf"),
        ("DDIM", "DDIM"),
    ],
)
def test_a_number_as_text(x, text):
    assert number(x) == text


def test_a_value_stands_with_its_interval():
    assert measured(0.94301, (0.9309, 0.955)) == "0.943 [0.931, 0.955]"
    assert measured(0.94301, form=".1f") == "0.9"


def test_a_table_as_html_does_not_wrap_and_as_text_is_aligned():
    found = table(ROWS, {"model": "", "SNR": ".1e", "std ratio": ""}, caption="levels")
    html, text = found._repr_html_(), repr(found)
    assert '<td align="right" nowrap>0.943 [0.931, 0.955]</td>' in html
    assert "a &amp; b" in html
    assert text.splitlines() == [
        "levels",
        "model  SNR      std ratio",
        "base   6.9e-01  0.943 [0.931, 0.955]",
        "a & b  1.0e-09  0.500",
    ]


def test_a_tensors_element_is_a_number():
    assert repr(table([(torch.tensor(0.5), torch.tensor(3))], ["a", "b"])).splitlines()[1].split() == ["0.500", "3"]


def test_a_row_that_is_too_short_is_refused():
    with pytest.raises(ValueError, match=r"the row \(1,\) has 1 cells: give one for each of a, b"):
        table([(1,)], ["a", "b"])


def test_nbval_compares_the_numbers_of_a_table_with_its_tolerance():
    """In HTML as in text: close numbers are the same, others and other words are not."""

    def both(value, name="base"):
        found = table([(name, value)], ["model", "ratio"])
        return [Approximate(view) for view in (found._repr_html_(), repr(found), f"**{value:.3f}** of {name}")]

    for this, close, far, other in zip(both(0.943), both(0.944), both(0.963), both(0.943, "zsnr"), strict=True):
        assert this == close
        assert this != far
        assert this != other


def test_nbval_takes_rounding_for_the_zero_that_it_is_on_another_machine():
    assert Approximate(number(0.0)) == number(2.2e-16, ".1e")


def test_a_findings_checks_are_collected_written_and_decided(tmp_path):
    claim = finding.Claims("01_name", tmp_path)
    claim("Z-04", "beta_T", 1.0, equal=1.0)
    claim("Z-04", "scale factor", 2.0, equal=1.0)
    claim("Z-01", "digits that agree in float32, of 6 numbers", 6)
    claim(
        "Z-21",
        "exact denoiser, w = 1: shortfall of black and white, flawed schedule less zero SNR",
        0.5,
        interval=(-1, 2),
    )
    shown = claim.verdict()
    assert [(row[0], row[1], row[3]) for row in shown.rows] == [
        ("Z-01", "reproduced", "6"),
        ("Z-04", "beside: holds", "1.000"),
        ("Z-04", "beside: contradicts", "2.000"),
        ("Z-21", "exact: inconclusive", "0.500 [-1.00, 2.00]"),
    ]
    written = json.loads((tmp_path / "claims.json").read_text())
    assert written["notebook"] == "01_name"
    assert [m["value"] for m in written["measures"]] == [1.0, 2.0, 6, 0.5]


def test_a_long_list_is_shown_by_its_ends(tmp_path):
    claim = finding.Claims("01_name", tmp_path)
    claim("Z-04", "twelve", [float(i) for i in range(12)], at_least=0.0)
    assert finding.text(claim.found[0]) == "0.0, 1.000, 2.000, ..., 10.00, 11.00"
