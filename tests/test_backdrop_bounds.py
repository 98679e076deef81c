"""Backdrops whose level lies in a part of [-1, 1], as a caption word says, against sums over levels."""

import math

import pytest
import torch

from lab.models.backdrop import UniformBackdrop, truncated_normal
from zsnr.denoisers import Empirical
from zsnr.prediction import cos_sin

RIGHT = math.pi / 2
G = torch.Generator().manual_seed(0)
FOREGROUND = torch.randn(3, 2, 4, 4, generator=G, dtype=torch.float64).clamp(-1, 1)
SHARE = torch.rand(3, 1, 4, 4, generator=G, dtype=torch.float64).mul(3).sub(1).clamp(0, 1)
"""Of the backdrop in each pixel: none, all, or a part, as on a rim."""
FIFTHS = [(-1 + 0.4 * k, -1 + 0.4 * (k + 1)) for k in range(5)]
every_fifth = pytest.mark.parametrize(("low", "high"), FIFTHS, ids=["black", "dark", "grey", "light", "white"])


def pictures(levels: torch.Tensor) -> torch.Tensor:
    """Every foreground on backdrops of those levels."""
    return torch.cat([f + b * levels.view(-1, 1, 1, 1) for f, b in zip(FOREGROUND, SHARE, strict=True)])


def noised(low: float, high: float, phi: float) -> torch.Tensor:
    """Five states; the first is of a level outside the bounds."""
    level = torch.tensor([low - 0.5, low, (low + high) / 2, high, high + 0.1], dtype=torch.float64).view(-1, 1, 1, 1)
    index = torch.tensor([0, 1, 2, 0, 1])
    noise = torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return math.cos(phi) * (FOREGROUND[index] + SHARE[index] * level) + math.sin(phi) * noise


def by_quadrature(x: torch.Tensor, phi: float, low: float, high: float, nodes: int = 4001) -> torch.Tensor:
    """v summed over levels that crowd towards both bounds."""
    c, s = cos_sin(phi)
    u = torch.linspace(0, math.pi, nodes, dtype=torch.float64)
    weight = u.sin().clamp(min=1e-300).log().repeat(3)
    y = pictures((low + high) / 2 + (high - low) / 2 * u.cos())
    x0 = []
    for one in x:
        p = (weight - (one - c * y).square().sum((1, 2, 3)) / (2 * s * s)).softmax(0)
        x0.append((p.view(-1, 1, 1, 1) * y).sum(0))
    return (c * x - torch.stack(x0)) / s


@every_fifth
@pytest.mark.parametrize("phi", [0.05, 0.4, 1.2, math.atan(50), math.atan(4096)])
def test_a_fifth_is_the_posterior_mean_by_quadrature(low, high, phi):
    x = noised(low, high, phi)
    found = UniformBackdrop(FOREGROUND, SHARE, low, high)(x, phi)
    torch.testing.assert_close(found, by_quadrature(x, phi, low, high), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bounds", [(0.0, 3.0), (-0.1, 0.7), (0.3, 0.301), (-2.0, -1.5)], ids=str)
@pytest.mark.parametrize("phi", [0.3, 1.0, math.atan(100)])
def test_so_is_any_other_range(bounds, phi):
    x = noised(*bounds, phi)
    found = UniformBackdrop(FOREGROUND, SHARE, *bounds)(x, phi)
    torch.testing.assert_close(found, by_quadrature(x, phi, *bounds), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("phi", [0.3, 1.0, 1.5, RIGHT])
def test_a_range_that_shrinks_to_a_level_is_a_finite_set(phi):
    x, level = noised(0.3, 0.3, phi), torch.tensor([0.3], dtype=torch.float64)
    found = UniformBackdrop(FOREGROUND, SHARE, 0.3 - 1e-6, 0.3 + 1e-6)(x, phi)
    torch.testing.assert_close(found, Empirical(pictures(level))(x, phi), rtol=0, atol=1e-5)


@every_fifth
def test_at_zero_snr_v_is_minus_the_mean_of_that_fifth(low, high):
    x = noised(low, high, RIGHT)
    middle = pictures(torch.tensor([(low + high) / 2], dtype=torch.float64)).mean(0)
    denoiser = UniformBackdrop(FOREGROUND, SHARE, low, high)
    torch.testing.assert_close(denoiser(x, RIGHT), -middle.expand_as(x), rtol=0, atol=1e-14)
    torch.testing.assert_close(denoiser(x, math.atan(4096)), -middle.expand_as(x), rtol=0, atol=3e-3)


def test_the_fifths_have_the_mean_of_them_all():
    x = noised(-1, 1, RIGHT)
    parts = torch.stack([UniformBackdrop(FOREGROUND, SHARE, *bounds)(x, RIGHT) for bounds in FIFTHS])
    torch.testing.assert_close(parts.mean(0), UniformBackdrop(FOREGROUND, SHARE)(x, RIGHT), rtol=0, atol=1e-14)


@pytest.mark.parametrize("phi", [0.05, 0.3, 1.0, 1.5, RIGHT])
def test_the_levels_are_minus_1_to_1_where_left_out(phi):
    x = noised(-1, 1, phi)
    assert torch.equal(UniformBackdrop(FOREGROUND, SHARE)(x, phi), UniformBackdrop(FOREGROUND, SHARE, -1, 1)(x, phi))


@every_fifth
def test_no_backdrop_leaves_the_bounds(low, high):
    """Whatever the state, pixels that are backdrop in every foreground lie between them."""
    foreground, share = FOREGROUND.clone(), SHARE.clone()
    foreground[..., 0, :], share[..., 0, :] = 0, 1
    for phi in (0.05, 0.4, 1.2, math.atan(50)):
        c, s = cos_sin(phi)
        x = 3 * noised(low, high, phi)
        x0 = c * x - s * UniformBackdrop(foreground, share, low, high)(x, phi)
        row = x0[..., 0, :]
        assert (row > low - 1e-9).all()
        assert (row < high + 1e-9).all()


@pytest.mark.parametrize(("mu", "tau"), [(0.0, 0.5), (0.9, 0.1), (-3.0, 0.7), (40.0, 2.0), (-0.2, 30.0)])
def test_the_truncated_normal_is_a_sum(mu, tau):
    u = torch.linspace(-1, 1, 200_001, dtype=torch.float64)
    log = -(((u - mu) / tau) ** 2) / 2
    weight = torch.ones_like(u)
    weight[[0, -1]] = 0.5
    p = weight * (log - log.max()).exp()
    mean, log_mass = truncated_normal(*torch.tensor([mu, tau], dtype=torch.float64))
    assert mean.item() == pytest.approx(((p * u).sum() / p.sum()).item(), abs=1e-8)
    mass = p.sum().log() + log.max() + math.log(1e-5 / tau / math.sqrt(2 * math.pi))
    assert log_mass.item() == pytest.approx(mass.item(), abs=1e-6)


@pytest.mark.parametrize("bounds", [(0.5, 0.5), (1.0, -1.0), (math.nan, 1.0), (0.0, math.nan)], ids=str)
def test_bounds_without_levels_between_them_are_refused(bounds):
    with pytest.raises(ValueError, match=f"levels from {bounds[0]} to {bounds[1]}: low must be below high"):
        UniformBackdrop(FOREGROUND, SHARE, *bounds)
