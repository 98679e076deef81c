"""The rules for a data set's five numbers, against data whose answer is known."""

import dataclasses
import math

import pytest
import torch

import zsnr
from lab.measure import choose
from lab.models.edm_training import loss_curve
from zsnr import brightness

CHECKER = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)


def images(n=4000, std=0.5, small=0.05, mean=0.0, channels=1):
    """2x2 pictures whose level has std 2 `std` and whose three other waves have 2 `small`: a known spectrum."""
    g = torch.Generator().manual_seed(0)
    waves = torch.stack(
        [torch.ones(2, 2), CHECKER, torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), torch.tensor([[1.0, -1.0], [1.0, -1.0]])]
    ).double()
    weight = torch.randn(n, channels, 4, generator=g, dtype=torch.float64)
    weight = weight * torch.tensor([std, small, small, small])
    return mean + torch.einsum("nck,kij->ncij", weight, waves)


def rounded(y, levels):
    step = 2 / (levels - 1)
    return ((y.clamp(-1, 1) + 1) / step).round() * step - 1


def test_the_closed_form_is_the_loss_of_the_exact_denoiser():
    spectrum = torch.tensor([4.0, 0.3, 0.01], dtype=torch.float64)
    data = zsnr.Gaussian(torch.zeros(3), spectrum)
    g = torch.Generator().manual_seed(0)
    y, eps = (torch.randn(40000, 3, generator=g, dtype=torch.float64) for _ in range(2))
    y = data.sample(y)

    def D(x, sigma):
        phi = math.atan(sigma[0].item())
        return math.cos(phi) ** 2 * x - math.sin(phi) * data(math.cos(phi) * x, phi)

    sigmas = [0.03, 0.5, 4.0]
    found = loss_curve(lambda x, sigma: D(x.flatten(1), sigma).view_as(x), y[:, None, None], eps[:, None, None], sigmas)
    exact = choose.gaussian_loss(spectrum, torch.tensor(sigmas), 0.5)
    torch.testing.assert_close(found.mean(1), exact, rtol=0.02, atol=0)


def test_the_loss_is_one_at_both_ends_and_for_equal_variances():
    ends = choose.gaussian_loss(torch.tensor([4.0, 0.3, 0.01]), torch.tensor([1e-5, 1e5]))
    torch.testing.assert_close(ends, torch.ones(2, dtype=torch.float64), rtol=1e-6, atol=0)
    flat = choose.gaussian_loss(torch.full((5,), 0.3), torch.logspace(-2, 2, 9))
    torch.testing.assert_close(flat, torch.ones(9, dtype=torch.float64))


def test_a_known_spectrum_is_found():
    found = choose.measure(images(mean=0.2))
    torch.testing.assert_close(
        found.spectrum, 4 * torch.tensor([0.25, 0.0025, 0.0025, 0.0025]).double(), rtol=0.1, atol=0
    )
    assert found.sigma_data == pytest.approx(math.sqrt(0.25 + 3 * 0.0025 + 0.04), rel=0.03)
    assert found.shift.square().sum().sqrt().item() == pytest.approx(0.4, rel=0.1)


@pytest.mark.parametrize("channels", [1, 3])
def test_variances_are_not_biased_by_the_choice_of_the_basis(channels):
    """White noise, hardly more images than values: its largest principal component looks like 3 times the truth."""
    g = torch.Generator().manual_seed(1)
    found = choose.measure(torch.randn(500, channels, 8, 8, generator=g))
    assert found.spectrum.mean().item() == pytest.approx(1, rel=0.05)
    assert choose.gaussian_loss(found.spectrum, torch.ones(1)).item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("levels", [4, 256, 4096])
def test_sigma_min_is_the_rounding(levels):
    found = choose.measure(rounded(images(), levels).float())
    assert found.step == pytest.approx(2 / (levels - 1), rel=1e-3)
    assert choose.propose(found).sigma_min == pytest.approx(found.step / math.sqrt(12))
    assert "rounding" in choose.propose(found).reasons["sigma_min"]


def test_values_that_are_not_rounded_have_no_step():
    found = choose.measure(images())
    assert found.step == 0
    assert choose.propose(found).sigma_min == pytest.approx(0.004 * found.sigma_data)
    assert choose.measure(rounded(images(), 65536)).step == 0
    mixed = rounded(images(), 256)
    mixed[0] = 0.1234567  # nearly a quarter of a step off
    assert choose.measure(mixed).step == 0


@pytest.mark.parametrize("tolerance", [0.01, 0.1])
def test_sigma_max_costs_what_the_leak_says(tolerance):
    found = choose.measure(images(mean=0.2))
    proposal = choose.propose(found, tolerance=tolerance)
    s2, variance, mean = proposal.sigma_max**2, found.spectrum[0].item(), found.shift[0].item()
    off, ratio = brightness.predicted(1 / (1 + s2), variance, mean, start=s2 / (1 + s2))
    assert ratio == pytest.approx(1 - tolerance)
    shifts = (found.shift.abs() / (found.spectrum + s2).sqrt()).max().item()
    assert abs(mean - off) / math.sqrt(variance) <= shifts * (1 + 1e-9)
    assert f"{shifts:.1%}" in proposal.reasons["sigma_max"]


def test_everything_scales_with_the_data():
    one, ten = (choose.propose(choose.measure(a * images())) for a in (1.0, 10.0))
    for name in ("sigma_data", "sigma_min", "sigma_max"):
        assert getattr(ten, name) == pytest.approx(10 * getattr(one, name))
    assert ten.P_mean == pytest.approx(one.P_mean + math.log(10))
    assert ten.P_std == pytest.approx(one.P_std)


def test_two_variances_put_the_training_between_them():
    """A few strong directions among many weak ones: the loss saved, peaks at the geometric mean of the two stds."""
    spectrum = torch.cat([torch.full((50,), 4.0), torch.full((50,), 0.0004)]).double()
    found = choose.Statistics(1.0, (1.0,), 2e-5, "its own", spectrum, torch.zeros(100))
    proposal = choose.propose(found, tolerance=1e-6)
    # with L = mean[a / (a + s^2)] (1 + s^2 / mean a), 1 - L is symmetric in ln sigma about (ab)^(1/4)
    assert proposal.P_mean == pytest.approx(math.log(2 * 0.02) / 2, abs=0.02)


def test_a_networks_curve_takes_the_place_of_the_linear_one():
    found = choose.measure(images())
    linear = choose.propose(found)
    sigmas = torch.logspace(-4, 3, 300, dtype=torch.float64)
    same = choose.propose(found, (sigmas, choose.gaussian_loss(found.spectrum, sigmas)))
    assert (same.P_mean, same.P_std) == pytest.approx((linear.P_mean, linear.P_std), abs=1e-3)
    assert "network" in same.reasons["P_mean"]
    dip = 1 - 0.5 * torch.exp(-((sigmas.log() + 1) ** 2) / 2 / 0.6**2)
    other = choose.propose(found, (sigmas, dip))
    assert (other.P_mean, other.P_std) == pytest.approx((-1, 0.6), abs=1e-2)


def test_the_table_names_all_five_with_edms_values_and_reasons():
    text = choose.propose(choose.measure(images())).text()
    assert [line.split()[0] for line in text.splitlines()[1:]] == list(choose.PUBLISHED)
    assert all(len(line.split()) > 3 for line in text.splitlines()[1:])


def test_unequal_channels_are_pointed_out():
    y = images(channels=2)
    assert "standardise" not in choose.propose(choose.measure(y)).reasons["sigma_data"]
    y[:, 1] *= 3
    assert "standardise" in choose.propose(choose.measure(y)).reasons["sigma_data"]


@pytest.mark.parametrize(
    "bad",
    [
        images()[0],
        images(n=8),
        images().mul(100).to(torch.uint8),
        images() * math.nan,
        torch.ones(32, 1, 2, 2),
    ],
)
def test_what_cannot_be_measured_is_refused(bad):
    with pytest.raises(ValueError, match="give at least 16 different"):
        choose.measure(bad)


def test_curves_that_do_not_reach_and_data_with_nothing_to_learn_are_refused():
    found = choose.measure(images())
    with pytest.raises(ValueError, match="rising sigmas from"):
        choose.propose(found, (torch.tensor([0.1, 1.0]), torch.tensor([0.9, 0.9])))
    with pytest.raises(ValueError, match="reducible"):
        choose.propose(dataclasses.replace(found, spectrum=torch.ones(4), shift=torch.zeros(4)))
