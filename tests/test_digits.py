"""The digits: centred, of full rank, split once and for all, and augmented as digits."""

import pytest
import torch

from lab.models import augment, digits
from zsnr.finetune.loop import generator


@pytest.fixture(scope="module")
def halves():
    return digits.load()


def test_the_split_is_disjoint_and_the_same_each_time(halves):
    train, test = halves
    assert (len(train), len(test)) == (1000, 797)
    assert all(a.level.equal(b.level) for a, b in zip(halves, digits.load(), strict=True))
    whole = digits.both(train, test)
    assert len(whole) == 1797
    assert whole.level.min() == 0
    assert whole.level.max() == 16


def test_the_mean_is_0_in_every_pixel_and_the_std_sigma_data(halves):
    y = torch.cat([halves[0].all(generator(seed))[0] for seed in range(20)])
    assert y.mean(0).abs().max() < 0.003
    assert y.square().mean().sqrt().item() == pytest.approx(digits.SIGMA_DATA, rel=1e-3)
    assert halves[1].all(generator(0))[0].square().mean().sqrt().item() == pytest.approx(digits.SIGMA_DATA, rel=0.03)


def test_rounding_is_undone_so_that_no_direction_is_without_variance(halves):
    train = halves[0]
    spectrum = torch.linalg.eigvalsh(train.all(generator(0))[0].flatten(1).double().T.cov())
    assert spectrum.min().item() == pytest.approx(train.scale**2 / 12, rel=0.2)
    assert (train.level.flatten(1).var(0) == 0).any(), "which the pixels that are always black would be"


def test_a_drawn_picture_is_a_digit_within_half_a_grey_level(halves):
    train = halves[0]
    y, conditions = train.draw(5, generator(1))
    assert not conditions.any()
    assert conditions.shape == (5, 2)
    level = (train.shown(y) + 1) * 8
    nearest = (level[:, None] - train.level[None]).abs().amax((2, 3, 4)).min(1).values
    assert nearest.max() <= 0.5 + 1e-4
    again = train.draw(5, generator(1))[0]
    assert again.equal(y)
    assert not train.draw(5, generator(2))[0].equal(y)


def test_the_digits_are_augmented_and_not_what_is_left_of_them(halves):
    """A flip of y itself would flip the mean picture's shadow, too."""
    train = halves[0]
    y = train.draw(64, generator(3))[0]
    moved, labels = train.augment(y, generator(4), 0.5)
    expected, same = augment.augment((train.shown(y) + 1) * 8, generator(4), 0.5)
    torch.testing.assert_close((train.shown(moved) + 1) * 8, expected, rtol=0, atol=1e-4)
    assert labels.equal(same)
    untouched = (labels == 0).all(1)
    torch.testing.assert_close(moved[untouched], y[untouched], rtol=0, atol=1e-6)
