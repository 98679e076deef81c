"""What finding 7 computes, on cases whose answer is known."""

import math

import numpy as np
import pytest
import sympy as sp
import torch
from scipy import stats

from lab.measure.store import Row
from lab.models import digits
from lab.studies import ladder_loss, preconditioning, training_ladder
from lab.studies import training_ladder_figures as draw


def test_the_requirements_give_table_1_and_so_does_the_code():
    derived = preconditioning.derive()
    assert all(sp.simplify(derived[name] - value) == 0 for name, value in preconditioning.TABLE_1.items())
    assert preconditioning.curvature() == 2
    assert preconditioning.largest_deviation(derived) < 1e-12
    assert preconditioning.largest_deviation(derived | {"c_in": 1.001 * derived["c_in"]}) == pytest.approx(
        0.001, rel=0.01
    )


def test_the_loss_at_the_start_is_1_for_e_and_falls_with_the_noise_for_d():
    assert set(preconditioning.start_gaps().values()) == {0}
    pictures, sigmas = digits.load()[0], np.array([0.01, 1.0, 80.0])
    assert ladder_loss.largest_output("E", pictures, sigmas) == 0
    assert not ladder_loss.Zero()(torch.ones(2, 3), torch.ones(2), torch.ones(2, 2)).any()
    curve, means = ladder_loss.at_start(pictures, 400, sigmas)
    assert curve.mean(1).tolist() == pytest.approx([1, 1, 1], abs=0.1)
    assert means["E"] == pytest.approx(curve.mean(1).tolist(), rel=1e-4)
    assert means["D"] == pytest.approx(0.25 / (sigmas**2 + 0.25), rel=0.1)


def test_the_level_that_is_farthest_from_1_has_the_widest_interval():
    curve = torch.tensor([[1.0, 1.1, 0.9, 1.0], [1.1, 1.3, 1.2, 1.2]], dtype=torch.float64)
    mean, (low, high) = ladder_loss.farthest(curve)
    assert mean == pytest.approx(1.2)
    assert (high - low) / np.diff(ladder_loss.intervals(curve)[1])[0] == pytest.approx(stats.norm.ppf(0.9875) / 1.96)


def test_the_linear_loss_of_equal_variances_is_1_and_less_of_unequal_ones():
    sigma = np.geomspace(0.002, 80, 5)
    assert ladder_loss.linear_loss(np.full(9, 0.25), sigma, 0.5) == pytest.approx(np.ones(5))
    law = ladder_loss.power_law(0.5)
    assert law.mean() == pytest.approx(0.25)
    loss = ladder_loss.linear_loss(law, sigma, 0.5)
    assert loss[[0, -1]] == pytest.approx([1, 1], abs=1e-2)
    assert loss[2] < 0.7


def test_the_best_linear_loss_of_digits_goes_to_1_at_both_ends():
    """Centred, of full rank, and told no class."""
    found = ladder_loss.describe(*digits.load())
    loss = ladder_loss.linear_loss(found.spectrum, np.array([0.002, 0.3, 80]), digits.SIGMA_DATA)
    assert loss[[0, 2]] == pytest.approx([1, 1], abs=0.03)
    assert loss[1] < 0.7
    assert found.spectrum.mean() == pytest.approx(digits.SIGMA_DATA**2, rel=0.01)
    assert found.limit == pytest.approx(1, abs=0.05)


def test_where_a_loss_dropped():
    sigmas = np.array([0.01, 0.1, 1.0, 10.0])
    low, high, share = ladder_loss.dropped(sigmas, np.array([1.0, 0.5, 0.5, 1.0]))
    assert low == pytest.approx(0.0159, rel=0.05)  # 0.9 is a fifth of the way from 1 to 0.5
    assert high == pytest.approx(6.3, rel=0.05)
    norm = stats.norm(-1.2, 1.2)
    assert share == pytest.approx(norm.cdf(math.log(high)) - norm.cdf(math.log(low)), abs=0.01)
    assert math.isnan(ladder_loss.dropped(sigmas, np.ones(4))[0])


def rungs(suspected):
    rows = {
        name: [Row({"seed": i}, {"suspected": share, "frechet": share}) for i, share in enumerate(shares)]
        for name, shares in suspected.items()
    }
    facts = {"suspected": {"untouched": 0.1, "augmented": 0.9}, "samples": 100, "held_out": 50}
    return training_ladder.Ladder(rows, Row({}), facts)


def test_a_leak_is_0_for_what_looks_untouched_and_1_for_what_looks_augmented():
    found = rungs({"E": [0.1], "F": [0.5], "F, always": [0.9]})
    assert found.corrected_mean("E")[0] == pytest.approx(0)
    assert found.leak() == pytest.approx(0.5)
    assert found.leak("F, always") == pytest.approx(1)
    low, high = found.corrected_mean("F")[1]
    spread = math.sqrt(0.25 / 100 + 2 * 0.25 * 0.09 / 50) / 0.8  # of its rate, and of both real ones by a half
    assert (high - low) / 2 == pytest.approx(1.96 * spread)


def test_a_leak_of_several_seeds_is_paired_and_has_an_interval():
    found = rungs({"E": [0.1, 0.3], "F": [0.1, 0.3], "F, always": [0.5, 0.9]})
    assert found.leak()[0] == pytest.approx(0)
    mean, (low, high) = found.leak("F, always")
    assert mean == pytest.approx(0.625)
    assert low < 0.5 < 0.75 < high


def test_gains_are_paired_by_seed_at_every_length():
    found = rungs({"D": [3.0, 5.0], "E": [2.0, 4.0], "D, 1/9": [9.0, 7.0], "E, 1/9": [6.0, 4.0]})
    assert found.gain("D", "E")[0] == pytest.approx(1)
    assert found.gain("D", "E", 9) == (pytest.approx(3), (pytest.approx(3), pytest.approx(3)))


def test_transforms_move_a_picture_and_flips_are_exact():
    train = digits.load()[0]
    one = train.shown(train.draw(1, torch.Generator().manual_seed(0))[0])
    shown = draw.transforms(one)
    assert len(shown) == 7
    _, x_flip, y_flip, *others = shown.values()
    assert x_flip.flip(-1).equal(one)
    assert not x_flip.equal(one)
    assert y_flip.flip(-2).equal(one)
    assert not any(x.allclose(one, atol=0.05) for x in others)


def with_pictures(kept, frechet):
    """A rung of one pixel a picture, kept of its first seed."""
    tensors = [{"pictures": torch.tensor(kept).half().view(-1, 1, 1, 1)}] + [{}] * (len(frechet) - 1)
    return [Row({"seed": i}, {"frechet": x, "energy": x / 2}, tensors[i]) for i, x in enumerate(frechet)]


def test_pictures_far_outside_the_data_are_counted_and_what_they_add_is_told():
    names = dict.fromkeys(("A", "B", "C", "D", "E", "F"), with_pictures([1.0, -2.0], [1.0, 2.0]))
    names[training_ladder.VE] = with_pictures([1.0, -2.0, 3.0, -8.0], [0.5, 4.0])
    found = training_ladder.Ladder(names, Row({}), {})
    assert found.far(training_ladder.VE, 2.4) == (2, 4, 8.0, 78 / 4, 2.5)
    assert found.far("A", 2.4) == (0, 2, 2.0, 2.5, 2.5)
    assert found.uneven(training_ladder.VE, "frechet") == 8
    text = training_ladder.why_uneven(found, torch.tensor([1.0, -2.0]).view(-1, 1, 1, 1))
    assert "up to 2, 2 and 8, those of C to F by 2.0 at most" in text
    assert "Of the 4 that are kept of seed 0, 0 of A's, 0 of B's and 2 of VE's" in text
    assert "go up to 8.0, where these end at 2.0" in text
    assert "is 19.5 on average, without these 2 it is 2.5, and real pictures have 2.5" in text
    assert "those of seeds 1, 1, 1" in text
