"""What finding 7 computes, on cases whose answer is known."""

import math

import numpy as np
import pytest
import sympy as sp
import torch
from garments import garments
from scipy import stats

from lab.measure.store import Row
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
    images, sigmas = garments(), np.array([0.01, 1.0, 80.0])
    sigma_data = images.draw(200, torch.Generator().manual_seed(0))[0].square().mean().sqrt().item()
    assert ladder_loss.largest_output("E", images, sigmas, sigma_data) == 0
    assert not ladder_loss.Zero()(torch.ones(2, 3), torch.ones(2), torch.ones(2, 2)).any()
    curve, means = ladder_loss.at_start(images, 400, sigmas, sigma_data)
    assert curve.mean(1).tolist() == pytest.approx([1, 1, 1], abs=0.1)
    assert means["E"] == pytest.approx(curve.mean(1).tolist(), rel=1e-4)
    assert means["D"] == pytest.approx(sigma_data**2 / (sigmas**2 + sigma_data**2), rel=0.1)


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


def test_the_average_picture_of_a_class_is_its_best_answer_at_large_noise():
    """In pictures without a backdrop's level, little differs within a class."""
    images = garments()
    found = ladder_loss.describe(images, images, 400, 100, 0.5)
    assert found.constant == int((images.matte == 0).all(0).sum()) - 1
    assert found.limit == pytest.approx(found.spectrum.mean() / 0.25, rel=0.2)


def test_where_a_loss_dropped():
    sigmas = np.array([0.01, 0.1, 1.0, 10.0])
    low, high, share = ladder_loss.dropped(sigmas, np.array([1.0, 0.5, 0.5, 1.0]))
    assert low == pytest.approx(0.0159, rel=0.05)  # 0.9 is a fifth of the way from 1 to 0.5
    assert high == pytest.approx(6.3, rel=0.05)
    norm = stats.norm(-1.2, 1.2)
    assert share == pytest.approx(norm.cdf(math.log(high)) - norm.cdf(math.log(low)), abs=0.01)
    assert math.isnan(ladder_loss.dropped(sigmas, np.ones(4))[0])


def rungs(suspected):
    rows = {name: [Row({"seed": 0}, {"suspected": share, "frechet": share})] for name, share in suspected.items()}
    return training_ladder.Ladder(rows, Row({}), {"suspected": {"untouched": 0.1, "augmented": 0.9}}, 100)


def test_a_leak_is_0_for_what_looks_untouched_and_1_for_what_looks_augmented():
    found = rungs({"E": 0.1, "F": 0.5, "F, always": 0.9})
    assert found.corrected_mean("E")[0] == pytest.approx(0)
    assert found.leak == pytest.approx(0.5)
    assert found.leak_always == pytest.approx(1)
    low, high = found.corrected_mean("F")[1]
    spread = math.sqrt(0.25 / 100 + 2 * 0.25 * 0.09 / 100) / 0.8  # of its rate, and of both real ones by a half
    assert (high - low) / 2 == pytest.approx(1.96 * spread)


def test_pictures_are_counted_from_their_shares():
    assert training_ladder.counted([0.25, 0.1, 0.0]) == 20
    with pytest.raises(ValueError, match="not shares of one number"):
        training_ladder.counted([1 / 9973, 0.5])


def test_transforms_move_a_picture_and_flips_are_exact():
    one = garments().compose(torch.tensor([1]), torch.tensor([0.3]))
    shown = draw.transforms(one)
    assert len(shown) == 7
    _, x_flip, y_flip, *others = shown.values()
    assert x_flip.flip(-1).equal(one)
    assert not x_flip.equal(one)
    assert y_flip.flip(-2).equal(one)
    assert not any(x.allclose(one, atol=0.05) for x in others)
