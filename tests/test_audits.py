"""What finding 15 computes, on cases whose answer is known."""

import math

import pytest

from lab.studies import audits, diffusers_bugs
from zsnr.audit.report import Report


def test_the_state_of_every_count():
    """That of the next count that was tried."""
    report = Report("x", errors={1: 0.0, 3: 2.0, 4: 20.0, 5: math.nan, 6: math.inf, 8: 0.1})
    report.add("bug", "step outside the table", "what", "remedy", [8])
    assert audits.strip(report, 9).tolist() == [1, 2, 2, 3, 4, 0, 1, 5, 1]
    assert audits.by_bug({("a", "x"): report, ("a", "y"): report}) == [("step outside the table", 1, "a")]


def test_which_counts_are_tried():
    assert list(audits.tried("DDIMScheduler", 130, 4)) == list(range(1, 131))
    assert 61 in audits.tried("LMSDiscreteScheduler", 1000, 4)
    assert len(audits.tried("LMSDiscreteScheduler", 1000, 4)) == 5
    assert [n for n in audits.tried("DDPMScheduler", 200, 4) if n > 120] == [121, 122, 123, 124, 125, 150, 175, 200]


@pytest.mark.parametrize("bug", ["stochastic", "custom_sigmas", "multistep", "ends", "ignored_flag"])
def test_a_bug_shows_in_plain_diffusers(bug):
    rows = getattr(diffusers_bugs, bug)()
    assert rows
    assert all(seen != right for _, seen, right in rows)
