"""The claims table: its rows, and verdicts that follow from measurements alone."""

import json
import math
import re
from dataclasses import FrozenInstanceError, asdict, replace
from pathlib import Path

import numpy as np
import pytest
from mutants import MUTANTS, ROOT, finding

import lab.report.claims
from lab.report.claims import (
    BAND,
    SCOPES,
    VERDICTS,
    Check,
    claims,
    load,
    save,
    to_json,
    verdict,
    verdicts,
)
from lab.report.wording import power, summary, table, words

IDS = [f"Z-{i:02d}" for i in range(1, 25)] + [f"E-{i:02d}" for i in range(1, 51)]
NAN, INF = math.nan, math.inf


def of(value, **check):
    """A check that stands beside Z-01's primary one."""
    return Check("Z-01", "x", value, **check)


@pytest.fixture
def judged(monkeypatch):
    """judged(value, interval=..., **band) is Z-01's verdict by a primary check of that band."""

    def judge(value, interval=None, scope="row", **primary):
        real, primary = (
            claims(),
            {k: v.tolist() if hasattr(v, "tolist") else v for k, v in primary.items()},
        )  # as in YAML
        entry = real["Z-01"] | {"primary": {scope: {"what": "p", "why": "w", **primary}}}
        with monkeypatch.context() as m:
            m.setattr(lab.report.claims, "claims", lambda: real | {"Z-01": entry})
            return verdict([Check("Z-01", "p", value, interval=interval)])

    return judge


@pytest.fixture
def two_scopes(monkeypatch):
    """Z-01 with a primary check on exact denoisers (p, at most 1) and one on trained ones (q, a direction)."""
    primary = {
        "exact": {"what": "p", "at_most": 1, "why": "exactly"},
        "trained": {"what": "q", "at_least": 0, "direction": True, "why": "its sign", "decides": "more pictures"},
    }
    real = claims()
    entry = {k: v for k, v in real["Z-01"].items() if k != "primary"} | {"primary": primary}
    monkeypatch.setattr(lab.report.claims, "claims", lambda: real | {"Z-01": entry})


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
        text = {k: v for k, v in c.items() if k != "primary"}
        assert {"id", "name", "paper", "where", "statement", "expected"} <= set(text), id
        assert set(text) <= {"id", "name", "paper", "where", "statement", "expected", "figure", "out_of_reach"}, id
        assert ("primary" in c) != ("out_of_reach" in c), id  # decided by a check, or by none
        assert all(isinstance(v, str) and v.strip() and "\n" not in v for v in text.values()), id
        assert c["paper"] == {"Z": "ZSNR", "E": "EDM"}[id[0]]
        assert len(c["statement"]) <= 160, id
        assert len(c["name"]) <= 50, id
        assert not c["name"].endswith("."), id
        assert "|" not in c["statement"], id


def test_a_claims_figure_is_one_that_a_finding_draws():
    findings = Path(__file__).parents[1] / "notebooks/findings"
    figures = [c["figure"].split("/") for c in claims().values() if "figure" in c]
    assert len(figures) > 30
    for notebook, name in figures:
        assert f'out, "{name}")' in (findings / f"{notebook}.py").read_text(), (notebook, name)


def test_only_what_no_toy_can_stand_for_is_out_of_reach():
    beyond = ["E-27", "E-31", "E-34", "E-36", "E-39"]
    assert [id for id, c in claims().items() if "out_of_reach" in c] == beyond
    assert not any("verdict" in c for c in claims().values())


PRIMARY = [(id, scope, p) for id, c in claims().items() for scope, p in c.get("primary", {}).items()]


@pytest.mark.parametrize(("id", "scope", "primary"), PRIMARY, ids=[f"{id}-{scope}" for id, scope, _ in PRIMARY])
def test_a_primary_check_has_a_name_a_band_and_a_reason(id, scope, primary):
    assert scope in SCOPES
    assert scope != "row" or len(claims()[id]["primary"]) == 1  # a row is not parted
    assert {"what", "why"} <= set(primary) <= {"what", "why", "decides", "direction", *BAND}
    assert primary.get("direction", True) is True  # said, or not
    assert all(isinstance(primary[k], str) and primary[k].strip() for k in ("what", "why", "decides") if k in primary)
    assert len(primary["why"]) <= 180
    sizes = {len(primary[k]) for k in BAND if isinstance(primary.get(k), list)}
    assert Check(id, primary["what"], [0.0] * sizes.pop() if sizes else 0.0).scope == scope  # and its band is one


def test_names_of_primary_checks_are_told_apart():
    names = [(id, p["what"]) for id, _, p in PRIMARY]
    assert len(names) == len(set(names))


def test_each_primary_check_is_measured_by_one_finding():
    """By what the findings of the full profile stored."""
    stored = sorted((ROOT / "results/full/findings").glob("*/claims.json"))
    assert len(stored) == 16
    made = [(check.id, check.what) for path in stored for check in load(path)]
    for id, scope, primary in PRIMARY:
        assert made.count((id, primary["what"])) == 1, (id, scope)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_changes_one_line_and_a_primary_check_is_to_see_it(name):
    file, line, change, id, scope = MUTANTS[name]
    text = (ROOT / f"zsnr/{file}.py").read_text()
    assert text.count(line) == 1 != text.count(change)
    assert finding(id, claims()[id]["primary"][scope]["what"]).stem[:2].isdigit()


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
    ],
)
def test_holds(judged, value, check):
    assert judged(value, **check) == "reproduced"
    assert judged(value, **check, direction=True) == "direction"
    assert judged(value, **check, scope="arithmetic") == "arithmetic"
    assert of(value, **check).outcome == "holds"


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
def test_an_exact_failure_contradicts(judged, value, check):
    assert judged(value, **check) == "contradicted"
    assert judged(value, **check, direction=True) == "contradicted"
    assert judged(value, **check, scope="arithmetic") == "arithmetic: contradicted"
    assert of(value, **check).outcome == "contradicts"


# ---- a sample is read by its interval: inside, outside, or across an edge


@pytest.mark.parametrize(
    ("value", "check", "expected"),
    [
        (2.5, {"at_most": 2, "interval": (1.9, 3)}, "inconclusive"),
        (2.5, {"at_most": 2, "interval": (2, 3)}, "inconclusive"),  # it touches the band
        (2.5, {"at_most": 2, "interval": (2.1, 3)}, "contradicted"),
        (1.5, {"at_most": 2, "interval": (1, 2.1)}, "inconclusive"),  # the value alone decides nothing
        (1.5, {"at_most": 2, "interval": (1, 2)}, "reproduced"),  # the edge belongs to the band
        (1.5, {"at_least": 2, "interval": (1, 2)}, "inconclusive"),
        (1.5, {"at_least": 2, "interval": (1, 1.9)}, "contradicted"),
        (2.5, {"at_least": 2, "interval": (1.9, 3)}, "inconclusive"),
        (2.5, {"at_least": 2, "interval": (2, INF)}, "reproduced"),
        (2.5, {"at_least": 2, "interval": (-INF, INF)}, "inconclusive"),
        (1.0, {"equal": 1, "interval": (0.9, 1.1)}, "inconclusive"),  # no sample is exactly so
        (1.0, {"equal": 1, "abs": 0.125, "interval": (0.875, 1.125)}, "reproduced"),  # an equivalence
        (1.0, {"equal": 1, "abs": 0.125, "interval": (0.87, 1.1)}, "inconclusive"),
        (1.0, {"equal": 1, "abs": 0.125, "interval": (0.9, 1.13)}, "inconclusive"),
        (1.0, {"equal": 1, "abs": 0.125, "interval": (0.5, 1.5)}, "inconclusive"),  # wider on both sides: no power
        (1.2, {"equal": 1, "abs": 0.125, "interval": (1.125, 1.3)}, "inconclusive"),
        (1.2, {"equal": 1, "abs": 0.125, "interval": (1.13, 1.3)}, "contradicted"),
        (0.8, {"equal": 1, "abs": 0.125, "interval": (0.7, 0.87)}, "contradicted"),
        (0.8, {"equal": 1, "abs": 0.125, "interval": (0.0, 5.0)}, "inconclusive"),
        (9.0, {"at_least": 2, "at_most": 3, "interval": (4, 10)}, "contradicted"),
        (1.0, {"equal": 1, "interval": (2, 3)}, "contradicted"),
        (1.0, {"at_most": 2, "interval": (NAN, NAN)}, "inconclusive"),
        (NAN, {"at_most": 2, "interval": (NAN, NAN)}, "inconclusive"),
    ],
)
def test_interval(judged, value, check, expected):
    assert judged(value, **check) == expected
    outcome = {"reproduced": "holds", "contradicted": "contradicts"}.get(expected, expected)
    assert of(value, **check).outcome == outcome


@pytest.mark.parametrize(
    ("value", "check", "outcomes", "outcome"),
    [
        ([1.0, 1.5], {"at_most": 2, "interval": [(0, 2), (0, 2)]}, ["holds", "holds"], "holds"),
        ([1.0, 2.5], {"at_most": 2, "interval": [(0, 2), (1, 3)]}, ["holds", "inconclusive"], "inconclusive"),
        ([1.9, 2.5], {"at_most": 2, "interval": [(0, 3), (2.1, 3)]}, ["inconclusive", "contradicts"], "contradicts"),
        ([1.0, 3.0], {"at_most": 2}, ["holds", "contradicts"], "contradicts"),
    ],
)
def test_a_list_is_as_its_worst_element(value, check, outcomes, outcome):
    assert of(value, **check).outcomes() == outcomes
    assert of(value, **check).outcome == outcome


def test_only_the_primary_check_decides(two_scopes):
    good, wrong = of(1, equal=1), of(3, equal=1)
    p, q = Check("Z-01", "p", 1), Check("Z-01", "q", 1.0, interval=(-1, 3))
    assert (good.scope, p.scope, q.scope) == ("", "exact", "trained")
    assert verdicts([p, q, wrong]) == {"exact": "reproduced", "trained": "inconclusive"}
    assert verdict([p, q, wrong]) == "exact: reproduced; trained: inconclusive"
    assert verdict([wrong, Check("Z-01", "p", 2), good]) == "exact: contradicted; trained: pending"
    assert verdict([good, good]) == "exact: pending; trained: pending"
    assert words({"verdict": verdict([p, q])}) == ["reproduced", "inconclusive"]


def test_the_band_of_a_primary_check_is_read_where_it_is_named(two_scopes, tmp_path):
    q = Check("Z-01", "q", 1.0, interval=(0, 3))
    assert q.band == {"equal": None, "at_least": 0, "at_most": None, "rel": 0.0, "abs": 0.0}
    assert q.at_least is None  # so no file keeps it
    save(tmp_path / "m.json", [q], "nb")
    claims_now = lab.report.claims.claims()
    claims_now["Z-01"]["primary"]["trained"]["at_least"] = 0.5
    assert verdicts(load(tmp_path / "m.json"))["trained"] == "inconclusive"


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ({"at_most": 1}, "'p' is the primary check of Z-01: give no at_most, claims.yaml does"),
        ({"equal": 0}, "give no equal"),
        ({"abs": 0.1}, "give no abs"),
        (
            {"value": [1, 2], "interval": [(0, 1), (0, 1)]},
            r"value is \[1, 2\]: a primary check of samples is one number",
        ),
    ],
)
def test_a_primary_check_takes_no_band_and_one_sampled_number(two_scopes, check, message):
    with pytest.raises(ValueError, match=message):
        Check(**{"id": "Z-01", "what": "p", "value": 1} | check)


def test_a_primary_check_is_measured_once(two_scopes):
    with pytest.raises(ValueError, match="'p' is measured 2 times"):
        verdict([Check("Z-01", "p", 1), Check("Z-01", "p", 1)])


def test_summary_tells_what_decides_and_what_fails_beside(two_scopes):
    found = [of(3, equal=1), of(1, equal=1), Check("Z-01", "q", 1.0, interval=(-1, 3)), Check("Z-01", "p", 1)]
    assert summary(found).splitlines() == [
        "Z-01 inconclusive (trained): q 1 [-1, 3]",
        "Z-01 reproduced (exact): p 1",
        "    beside Z-01, contradicts: x 3",
    ]


def test_nothing_measured():
    assert verdict([], "Z-01") == "pending"
    assert verdict([], "Z-06") == "exact: pending; trained: pending"
    assert verdict([], "E-27") == "out of reach"
    # whatever is measured of a claim out of reach stands beside
    assert verdict([Check("E-27", "images/s", 26.3, equal=26.3)], "E-27") == "out of reach"
    assert {word for r in table([]) for word in words(r)} == {"pending", "out of reach"} < set(VERDICTS)
    with pytest.raises(ValueError, match="give those of one claim, or its id"):
        verdict([])


# ---- errors name the value and the remedy


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ({"id": "Z-25", "equal": 1}, r"'Z-25'.*claims\.yaml"),
        ({}, "equal is None.*give equal or bounds, or a primary check's name"),
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
    of(0.123456789, at_most=0.2, at_least=0.1, interval=(0.1, NAN)),
    Check("E-01", "sigma(eps_t), sigma(1) of the column that trains", np.array([0.001, 152.1])),
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


def test_row_shows_what_was_measured(two_scopes):
    p = Check("Z-01", "p", 0.123456789, note="more", notebook="07")
    q = Check("Z-01", "q", 0.5, interval=(0.11111, 0.25), notebook="01")
    beside = of(4.0359931e-05, equal=4.035993e-05, rel=2e-5, note="why", notebook="01")
    r = row(q, p, beside)
    assert r["measured"] == "exact: p 0.123457; trained: q 0.5 [0.1111, 0.25]"
    assert (r["verdict"], r["notebook"]) == ("exact: reproduced; trained: direction", "01, 07")
    first, second, last = r["checks"]  # the primary ones first
    assert (first["scope"], first["value"], first["band"], first["outcome"]) == ("exact", "0.123457", "<= 1", "holds")
    assert (first["why"], first["note"], first["verdict"]) == ("exactly", "more", "reproduced")
    assert (second["short"], second["band"], second["decides"]) == ("0.5 [0.111, 0.25]", ">= 0", "")
    assert (last["scope"], last["value"], last["band"]) == ("", "4.03599e-05", "= 4.035993e-05 (rel 2e-05)")
    assert [c["notebook"] for c in r["checks"]] == ["07", "01", "01"]
    # what would decide it is said where nothing does
    undecided = row(replace(q, interval=(-1, 1)))["checks"][0]
    assert undecided["decides"].startswith("at most 9 times as many repeats, for the claim")
    assert undecided["decides"].endswith("; or more pictures")
    assert row(q)["pending"] == ["exact"]


@pytest.mark.parametrize(
    ("value", "interval", "says"),
    [
        (0.1, (-0.2, 0.4), "at most 9 times as many repeats, for"),
        (0.1, (-0.2, 9), "at most 9 times as many repeats, for"),  # the other side does not matter
        (-0.1, (-9, 0.2), "at most 9 times as many repeats, against"),
        (0.01, (-0.1, 0.1), "at most 121 times as many repeats, for"),
        (0.001, (-1, 1), "more than 1000 times as many repeats, for"),
        (0.0, (-1, 1), "more than 1000 times as many repeats, for"),
        (-0.2, (-0.4, 0.0), "at most 1 times as many repeats, against"),  # ends at the edge
    ],
)
def test_the_sample_that_would_decide_a_check_of_one_number(two_scopes, value, interval, says):
    """The interval would end at the band's edge, 0: it shrinks with the square root of the sample."""
    found = power(Check("Z-01", "q", value, interval=interval))
    assert found == f"{says} the claim, if the value stays (of what the interval is over)"


@pytest.mark.parametrize("interval", [(-1, float("inf")), (float("nan"), 1)], ids=str)
def test_an_interval_without_an_end_says_nothing_of_the_sample(two_scopes, interval):
    assert power(Check("Z-01", "q", 0.5, interval=interval)) == ""


def test_the_farther_edge_is_the_one_to_reach(monkeypatch):
    """Both have to lie outside: 3 in [-1, 7] against [0, 4] is (4 / 1)^2 from one edge, (4 / 3)^2 from the other."""
    entry = claims()["Z-01"] | {"primary": {"row": {"what": "p", "why": "w", "at_least": 0, "at_most": 4}}}
    real = claims()
    monkeypatch.setattr(lab.report.claims, "claims", lambda: real | {"Z-01": entry})
    assert power(Check("Z-01", "p", 3.0, interval=(-1, 7))).startswith("at most 16 times")


def test_a_row_shows_its_one_scope_plainly():
    r = row(Check("Z-01", "digits that agree in float32, of 6 numbers", 5))
    assert (r["measured"], r["verdict"]) == ("digits that agree in float32, of 6 numbers 5", "contradicted")


@pytest.mark.parametrize(
    ("value", "interval", "reason"),
    [
        (6, None, "P: has to be at most 1, but is not."),
        (1, None, "P: has to be at most 1, and is."),
        (0.5, (0, 1), "P: has to be at most 1, and the whole interval is."),
        (0.5, (0, 2), "P: has to be at most 1, but the interval crosses that bound."),
        (2.5, (2, 3), "P: has to be at most 1, but the whole interval lies outside."),
        ([1, 0], None, "P: has to be at most 1, and both are."),
        ([1, 0, 3], None, "P: has to be at most 1, but 1 of 3 are not."),
    ],
)
def test_a_reason_is_one_sentence_about_value_and_band(monkeypatch, two_scopes, value, interval, reason):
    monkeypatch.setitem(lab.report.claims.claims()["Z-01"]["primary"]["exact"], "what", "p ")
    found = row(Check("Z-01", "p ", value, interval=interval))["checks"][0]["reason"]
    assert found == reason.replace("P:", "P :")


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (of([True, 3], equal=1), "(yes, 3) (1 of 2 hold), = 1 (exact): contradicts"),
        (of(1, equal=1, rel=0.1, abs=0.2), "1, = 1 (rel 0.1 or abs 0.2): holds"),
        (of([1, 2], equal=[1, 2]), "(1, 2), = (1, 2) (exact): holds"),
        (of(NAN, at_most=1), "nan, <= 1: contradicts"),
        (of(list(range(50)), at_most=48), "(0, 1, 2, 3, ..., 48, 49) (49 of 50 hold), <= 48: contradicts"),
        (
            of([0.5] * 2, at_least=0, at_most=1, interval=[(0, 1), (0.25, 2)]),
            "(0.5 [0, 1], 0.5 [0.25, 2]) (1 of 2 hold), >= 0 and <= 1: inconclusive",
        ),
    ],
)
def test_a_check_beside_shows_its_band_and_outcome(check, text):
    shown = row(check)["checks"][0]
    assert f"{shown['value']}, {shown['band']}: {shown['outcome']}" == text
    assert not shown["verdict"]


def test_row_without_measures():
    r = row(id="E-36")
    assert (r["measured"], r["checks"], r["verdict"], r["notebook"]) == ("", [], "out of reach", "")
    assert r["out_of_reach"] == claims()["E-36"]["out_of_reach"]
    tried = row(Check("E-36", "FID", 1, at_most=2), id="E-36")
    assert (tried["verdict"], tried["checks"][0]["outcome"]) == ("out of reach", "holds")


def test_table_gathers_the_measures_of_all_notebooks():
    good = Check("Z-02", claims()["Z-02"]["primary"]["row"]["what"], [0.068265, 0.997667])
    lists = [[Check("Z-01", "digits that agree in float32, of 6 numbers", 5)], [of(1, equal=2), good], []]
    found = {r["id"]: r["verdict"] for r in table(lists) if r["measured"]}
    assert found == {"Z-01": "contradicted", "Z-02": "reproduced"}


def test_json_is_deterministic_and_complete():
    rows = table([MEASURES])
    text = to_json(rows)
    assert json.loads(text) == rows
    assert text == to_json(table([MEASURES]))
    assert text.endswith("]\n")
    assert "√ᾱ_T" in text
    keys = "id name paper where statement expected figure measured verdict notebook out_of_reach pending checks"
    assert {" ".join(r) for r in json.loads(text)} == {keys}
    assert {len(c) for r in rows for c in r["checks"]} == {12}
    assert all(isinstance(v, str) for r in rows for c in r["checks"] for v in c.values())
