"""The claims table: its rows, and verdicts that follow from measurements alone."""

import json
import math
import re
from dataclasses import FrozenInstanceError, asdict, replace
from pathlib import Path

import numpy as np
import pytest

import lab.report.claims
from lab.report.claims import VERDICTS, Check, claims, load, save, table, to_json, to_markdown, verdict

IDS = [f"Z-{i:02d}" for i in range(1, 25)] + [f"E-{i:02d}" for i in range(1, 51)]
NAN, INF = math.nan, math.inf


def of(value, **check):
    return Check("Z-01", "x", value, **check)


def row(*measures, id="Z-01"):
    return next(r for r in table([measures]) if r["id"] == id)


# ---- claims.yaml


def test_every_claim_has_its_row_in_order():
    assert len(IDS) == 74
    assert list(claims()) == IDS == [r["id"] for r in table([])]


def test_yaml_lists_no_id_twice():
    text = Path(lab.report.claims.__file__).with_suffix(".yaml").read_text(encoding="utf-8")
    assert re.findall(r'^- id: "(.*)"$', text, re.MULTILINE) == IDS  # a dict would hide a duplicate


def test_entries_are_complete_and_short():
    for id, c in claims().items():
        assert {"id", "paper", "where", "statement", "expected"} <= set(c) <= {*c, "out_of_reach"}, id
        assert all(isinstance(v, str) and v.strip() and "\n" not in v for v in c.values()), id
        assert c["paper"] == {"Z": "ZSNR", "E": "EDM"}[id[0]]
        assert len(c["statement"]) <= 160, id
        assert "|" not in c["statement"], id


def test_only_what_no_toy_can_stand_for_is_out_of_reach():
    assert [id for id, c in claims().items() if "out_of_reach" in c] == ["E-27", "E-36"]
    assert not any("verdict" in c for c in claims().values())


# ---- one check: does it hold?


@pytest.mark.parametrize(
    ("value", "check"),
    [
        (1.0, {"equal": 1}),
        (1.1, {"equal": 1, "abs": 0.1}),  # the edge belongs to the band
        (0.9, {"equal": 1, "abs": 0.1}),
        (220.0, {"equal": 200, "rel": 0.1}),
        (-220.0, {"equal": -200, "rel": 0.1}),
        (1.5, {"equal": 1, "rel": 0.1, "abs": 0.5}),  # the wider of the two
        (0.0, {"equal": 0, "rel": 0.1}),
        (2.0, {"at_most": 2}),
        (-1e9, {"at_most": 2}),
        (1e301, {"at_least": 2}),
        (2.0, {"at_least": 2}),
        (2.0, {"at_least": 2, "at_most": 2}),
        (INF, {"at_least": 5}),
        (True, {"equal": True}),
        (7, {"equal": 7}),
        ([1, 2, 3], {"equal": [1, 2, 3]}),
        ([1.0, 2.2], {"equal": [1, 2], "rel": 0.1}),
        ([1.0, 1.0], {"equal": 1}),
        ([0.1, 0.2], {"at_most": 0.2}),
        ([0.1, 5.0], {"at_least": [0, 5], "at_most": [0.1, 6]}),
        (np.array([1.0, 2.0]), {"equal": np.array([1, 2])}),
        (np.float32(0.5), {"equal": 0.5}),
        (1.0, {"equal": 1, "interval": (2, 3)}),  # the interval does not decide
    ],
)
def test_holds(value, check):
    assert verdict([of(value, **check)]) == "reproduced"
    assert verdict([of(value, **check, direction=True)]) == "direction"


@pytest.mark.parametrize(
    ("value", "check"),
    [
        (1.1000001, {"equal": 1, "abs": 0.1}),
        (0.8999999, {"equal": 1, "abs": 0.1}),
        (220.1, {"equal": 200, "rel": 0.1}),
        (1e-300, {"equal": 0, "rel": 0.1}),  # a relative tolerance around zero is none
        (math.nextafter(1, 2), {"equal": 1}),
        (2.0001, {"at_most": 2}),
        (1.9999, {"at_least": 2}),
        (1.0, {"at_least": 2, "at_most": 3}),
        (4.0, {"at_least": 2, "at_most": 3}),
        (-INF, {"at_least": 5}),
        (False, {"equal": True}),
        (NAN, {"equal": 1, "abs": 1e9}),
        (NAN, {"at_most": 1e9}),
        (NAN, {"at_least": -1e9}),
        ([1, 2, 4], {"equal": [1, 2, 3]}),
        ([2, 1], {"equal": [1, 2]}),
        ([1.0, NAN], {"equal": 1}),
        ([0.1, 0.3], {"at_most": 0.2}),
        ([0.1, 5.0], {"at_least": [0, 6]}),
    ],
)
@pytest.mark.parametrize("direction", [False, True])
def test_an_exact_failure_contradicts(value, check, direction):
    assert verdict([of(value, **check, direction=direction)]) == "contradicted"


# ---- how a failed check of a sample is read


@pytest.mark.parametrize(
    ("value", "check", "expected"),
    [
        (2.5, {"at_most": 2, "interval": (1.9, 3)}, "not reproduced"),
        (2.5, {"at_most": 2, "interval": (2, 3)}, "not reproduced"),  # it touches the bound
        (2.5, {"at_most": 2, "interval": (2.1, 3)}, "contradicted"),
        (1.5, {"at_least": 2, "interval": (1, 2)}, "not reproduced"),
        (1.5, {"at_least": 2, "interval": (1, 1.9)}, "contradicted"),
        (1.2, {"equal": 1, "abs": 0.125, "interval": (1.125, 1.3)}, "not reproduced"),
        (1.2, {"equal": 1, "abs": 0.125, "interval": (1.13, 1.3)}, "contradicted"),
        (0.8, {"equal": 1, "abs": 0.125, "interval": (0.7, 0.87)}, "contradicted"),
        (0.8, {"equal": 1, "abs": 0.125, "interval": (0.0, 5.0)}, "not reproduced"),
        (9.0, {"at_least": 2, "at_most": 3, "interval": (4, 10)}, "contradicted"),
        (NAN, {"at_most": 2, "interval": (NAN, NAN)}, "not reproduced"),
        (1.0, {"at_most": 2, "interval": (0, 3)}, "reproduced"),
        ([1.0, 2.5], {"at_most": 2, "interval": [(0, 3), (1, 3)]}, "not reproduced"),
        ([1.0, 2.5], {"at_most": 2, "interval": [(0, 3), (2.1, 3)]}, "contradicted"),
        ([1.0, 1.5], {"at_most": 2, "interval": [(0, 3), (0, 3)]}, "reproduced"),
    ],
)
def test_interval(value, check, expected):
    assert verdict([of(value, **check)]) == expected


def test_several_checks_of_one_claim():
    good, weak = of(1, equal=1), of(1, equal=1, direction=True)
    straddling, wrong = of(3, at_most=2, interval=(1, 4)), of(3, at_most=2, interval=(2.5, 4))
    assert verdict([good, good]) == "reproduced"
    assert verdict([good, weak]) == "direction"
    assert verdict([good, weak, straddling]) == "not reproduced"
    assert verdict([good, straddling, wrong]) == "contradicted"
    assert verdict([straddling, of(3, equal=2)]) == "contradicted"


def test_nothing_measured():
    assert verdict([]) == verdict([], "Z-01") == "pending"
    assert verdict([], "E-27") == "out of reach"
    assert verdict([Check("E-27", "images/s", 26.3, equal=26.3)], "E-27") == "reproduced"
    assert set(VERDICTS) > {r["verdict"] for r in table([])} == {"pending", "out of reach"}


# ---- errors name the value and the remedy


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ({"id": "Z-25", "equal": 1}, r"'Z-25'.*claims\.yaml"),
        ({}, "equal is None.*give equal or bounds"),
        ({"equal": 1, "at_most": 2}, "equal is 1, at_most 2.*give equal or bounds"),
        ({"equal": 1, "at_least": 2}, "at_least 2.*give equal or bounds"),
        ({"equal": 1, "rel": NAN}, "rel is nan.*finite"),
        ({"equal": 1, "rel": INF}, "rel is inf.*finite"),
        ({"equal": 1, "abs": INF}, "abs is inf.*finite"),
        ({"equal": 1, "abs": NAN}, "abs is nan.*finite"),
        ({"equal": 1, "abs": -1}, "abs is -1.*>= 0"),
        ({"equal": 1, "rel": -1}, "rel is -1.*>= 0"),
        ({"at_most": 1, "rel": 0.1}, "rel is 0.1.*only with equal"),
        ({"at_most": 1, "abs": 0.1}, "abs is 0.1.*only with equal"),
        ({"equal": NAN}, "equal is nan: give a finite"),
        ({"at_most": INF}, "at_most is inf: give a finite"),
        ({"at_least": [1, -INF], "value": [1, 2]}, "at_least is -inf: give a finite"),
        ({"at_least": 2, "at_most": 1}, "at_least 2 is above at_most 1"),
        ({"equal": [1, 2]}, r"equal is \[1, 2\], value 1: give one bound"),
        ({"equal": [1, 2], "value": [1, 2, 3]}, r"equal is \[1, 2\], value \[1, 2, 3\]"),
        ({"at_most": [1], "value": [1, 2]}, r"at_most is \[1\], value \[1, 2\]"),
        ({"equal": 1, "value": []}, r"value is \[\].*at least one"),
        ({"equal": 1, "value": [[1]]}, r"value is \[1\].*flat list"),
        ({"equal": 1, "value": None}, "value is None: give a number"),
        ({"equal": 1, "value": "high"}, "value is 'high': give a number"),
        ({"equal": 1, "interval": (2, 1)}, r"interval is \(2, 1\): give \(lo, hi\)"),
        ({"equal": 1, "interval": (2,)}, r"interval is \(2,\): give \(lo, hi\)"),
        ({"equal": 1, "interval": 2}, r"interval is 2: give \(lo, hi\)"),
        ({"equal": 1, "value": [1, 2], "interval": [(0, 3)]}, r"interval is \[\(0, 3\)\].*per element"),
        ({"equal": 1, "value": [1, 2], "interval": (0, 3)}, r"interval is 0: give \(lo, hi\)"),
    ],
)
def test_bad_input(check, message):
    with pytest.raises(ValueError, match=message):
        Check(**{"id": "Z-01", "what": "x", "value": 1} | check)


def test_measures_of_two_claims_have_no_common_verdict():
    with pytest.raises(ValueError, match=r"\['E-01', 'Z-01'\]"):
        verdict([of(1, equal=1), Check("E-01", "x", 1, equal=1)])
    with pytest.raises(ValueError, match=r"\['E-01', 'Z-01'\]"):
        verdict([of(1, equal=1)], "E-01")


# ---- a verdict cannot be typed in


def test_a_typed_verdict_is_refused(tmp_path):
    m = of(1, equal=1)
    assert not hasattr(m, "verdict")
    with pytest.raises(FrozenInstanceError):
        m.verdict = "reproduced"
    plain = {k: v for k, v in asdict(m).items() if k != "notebook"}
    for bad in (plain | {"verdict": "reproduced"}, {"id": "Z-01", "verdict": "reproduced"}):
        for use in (verdict, lambda checks: table([checks]), lambda checks: save(tmp_path / "m.json", checks, "nb")):
            with pytest.raises((AttributeError, TypeError)):
                use([bad])
    assert not list(tmp_path.iterdir())
    for bad in (
        {"notebook": "nb", "measures": [plain | {"verdict": "reproduced"}]},
        {"notebook": "nb", "measures": [plain], "verdict": "reproduced"},
        [plain],
    ):
        (tmp_path / "m.json").write_text(json.dumps(bad))
        with pytest.raises(ValueError, match=r"a verdict is computed|write it with save\(\)"):
            load(tmp_path / "m.json")


def test_a_file_edited_by_hand_is_checked_again(tmp_path):
    save(tmp_path / "m.json", [of(1, equal=1)], "nb")
    text = (tmp_path / "m.json").read_text()
    (tmp_path / "m.json").write_text(text.replace("Z-01", "Z-99"))
    with pytest.raises(ValueError, match="Z-99"):
        load(tmp_path / "m.json")


# ---- files


MEASURES = [
    of([0.5, NAN, INF], equal=[0.5, 1, 2], rel=1e-5, note="a | b"),
    of(0.123456789, at_most=0.2, at_least=0.1, interval=(0.1, NAN), direction=True),
    Check("E-01", "σ(1)", np.float64(152.1), equal=152, abs=0.5),
    Check("E-08", "NFE", 35, equal=35),
    Check("E-12", "identity", True, equal=True),
]


def test_save_and_load_round_trip(tmp_path):
    path = tmp_path / "new" / "01.json"
    save(path, MEASURES, "01_terminal_snr")
    first = path.read_bytes()
    loaded = load(path)
    assert loaded == [replace(m, notebook="01_terminal_snr") for m in MEASURES]
    save(path, loaded, "01_terminal_snr")
    assert path.read_bytes() == first
    json.loads(first, parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))
    assert [p.name for p in path.parent.iterdir()] == ["01.json"]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "01.json"
    save(path, MEASURES, "nb")
    old = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save(path, MEASURES[:1], "nb")
    assert path.read_bytes() == old
    with pytest.raises(ValueError, match="notebook is empty"):
        save(path, MEASURES, "")


# ---- the table


def test_row_shows_what_was_measured():
    sampled = of(0.123456789, at_most=0.2, at_least=0.1, interval=(0.11111, 0.25), direction=True, note="why")
    exact = of(4.0359931e-05, equal=4.035993e-05, rel=2e-5, note="why")
    r = row(replace(sampled, notebook="07"), replace(exact, notebook="01"))
    assert r["measured"] == "x 0.1235 [0.1111, 0.25]; x 4.03599e-05"
    assert r["tolerance"] == ">= 0.1 and <= 0.2, direction only; = 4.035993e-05 (rel 2e-05)"
    assert (r["verdict"], r["note"], r["notebook"]) == ("direction", "why", "07, 01")
    assert row(of([True, 3], equal=1))["measured"] == "x (yes, 3) (1 of 2 fail)"
    assert row(of(1, equal=1, rel=0.1, abs=0.2))["tolerance"] == "= 1 (rel 0.1 or abs 0.2)"
    assert row(of([1, 2], equal=[1, 2]))["tolerance"] == "= (1, 2) (exact)"
    assert row(of(NAN, at_most=1))["measured"] == "x nan"
    assert row(of(list(range(50)), at_most=48))["measured"] == "x (0, 1, 2, 3, ..., 48, 49) (1 of 50 fail)"
    many = row(of([0.5] * 2, at_most=1, interval=[(0, 1), (0.25, 2)]))
    assert many["measured"] == "x (0.5 [0, 1], 0.5 [0.25, 2])"


def test_row_without_measures():
    r = row(id="E-36")
    assert (r["measured"], r["tolerance"], r["verdict"], r["notebook"]) == ("", "", "out of reach", "")
    assert r["note"] == claims()["E-36"]["out_of_reach"]
    done = row(Check("E-36", "FID", 1, at_most=2), id="E-36")
    assert (done["verdict"], done["note"]) == ("reproduced", "")


def test_table_gathers_the_measures_of_all_notebooks():
    lists = [[of(1, equal=1)], [of(1, equal=2), Check("E-50", "x", 1, equal=1)], []]
    found = {r["id"]: r["verdict"] for r in table(lists) if r["measured"]}
    assert found == {"Z-01": "contradicted", "E-50": "reproduced"}


def test_markdown_has_each_id_once():
    rows = table([MEASURES])
    text = to_markdown(rows)
    assert re.findall(r"^\| ([ZE]-\d\d) \|", text, re.MULTILINE) == IDS
    assert [len(re.findall(id, text)) for id in IDS] == [1] * 74
    body = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in body} == {10}  # nine columns, bars escaped
    assert r"a \| b" in text
    assert text.splitlines()[0] == "# 74 claims: 3 reproduced, 1 contradicted, 68 pending, 2 out of reach"
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## ZSNR", "## EDM"]


def test_markdown_escapes():
    r = row(of(1, equal=1, note="a~b~ *c* <d>\n\\|"))
    assert to_markdown([r]).splitlines()[-1].split(" | ")[-2] == r"a\~b\~ \*c\* \<d> \\\|"


def test_json_is_deterministic_and_complete():
    rows = table([MEASURES])
    text = to_json(rows)
    assert json.loads(text) == rows
    assert text == to_json(table([MEASURES]))
    assert text.endswith("]\n")
    assert "√ᾱ_T" in text
    keys = "id paper where statement expected measured tolerance verdict note notebook"
    assert {" ".join(r) for r in json.loads(text)} == {keys}
    assert all(isinstance(v, str) for r in rows for v in r.values())
