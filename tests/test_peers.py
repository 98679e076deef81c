"""What `make peers` calls red: failures without a reason, and reasons without a failure."""

import runpy
from pathlib import Path

import pytest
from diffusers import EulerDiscreteScheduler

PEERS = Path(__file__).parent / "peers"
judge = runpy.run_path(str(PEERS / "__main__.py"))["judge"]


def test_the_plugin_finds_what_it_imports(monkeypatch):
    for name, value in {"MODE": "ours", "OUT": "out.jsonl", "SHARD": "0/1"}.items():
        monkeypatch.setenv(f"PEERS_{name}", value)
    ours = runpy.run_path(str(PEERS / "swap.py"))["_pipeline"]({"scheduler": EulerDiscreteScheduler()})["scheduler"]
    assert ours.config["timestep_spacing"] == "linspace"  # their default, not ours


@pytest.mark.parametrize(
    ("outcome", "broken", "patterns", "wrong"),
    [
        ("passed", False, [], None),
        ("failed", False, ["test_a.py::test_*"], None),
        ("failed", True, [], None),  # with theirs too
        ("failed", False, [], "fails: tests/test_a.py::test_b: why"),
        ("passed", False, ["test_b"], "listed, but does not fail for us alone: tests/test_a.py::test_b"),
        ("failed", True, ["test_b"], "listed, but does not fail for us alone: tests/test_a.py::test_b"),
        ("passed", False, ["test_c"], "listed, but there is no such test: test_c"),
    ],
)
def test_the_table_and_the_failures_must_agree(outcome, broken, patterns, wrong):
    test = "tests/test_a.py::test_b"
    _, found = judge({test: (outcome, "why")}, {test} if broken else set(), {"a reason": patterns})
    assert found == ([wrong] if wrong else [])
