"""What `make peers` calls red: failures without a reason, and reasons without a failure."""

import runpy
from pathlib import Path

import pytest

judge = runpy.run_path(str(Path(__file__).parent / "peers" / "__main__.py"))["judge"]


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
