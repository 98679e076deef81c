"""Mixtures against their special cases, and against posteriors by brute-force quadrature."""

import math

import numpy as np
import pytest
import torch
from sampling import RIGHT, seeded

from lab.models.mixture import Mixture
from zsnr.denoisers import Empirical, Gaussian
from zsnr.prediction import cos_sin

ANGLES = [0.02, 0.4, 1.0, 1.5, RIGHT]
G, normal = seeded()

ROOTS = normal(3, 6, 6)
WEIGHTS = [0.2, 0.3, 0.5]
COMPONENTS = [
    Gaussian(2 * normal(2, 3), ROOTS[0] @ ROOTS[0].T),
    Gaussian(2 * normal(2, 3), ROOTS[1].square().sum(1).view(2, 3)),
    Gaussian(2 * normal(2, 3), ROOTS[2][:, :2] @ ROOTS[2][:, :2].T),
]
MIXTURE = Mixture(COMPONENTS, WEIGHTS)
MEAN = sum(w * c.mean for w, c in zip(WEIGHTS, COMPONENTS, strict=True))
every_angle = pytest.mark.parametrize("phi", ANGLES)


def covariance(gaussian: Gaussian) -> torch.Tensor:
    if gaussian.basis is None:
        return gaussian.variance.flatten().diag()
    return gaussian.basis @ gaussian.variance.diag() @ gaussian.basis.T


@every_angle
def test_one_component_is_the_gaussian(phi):
    x = 2 * normal(5, 2, 3)
    for component in COMPONENTS:
        torch.testing.assert_close(Mixture([component])(x, phi), component(x, phi), rtol=0, atol=1e-13)
        twice = Mixture([component, component], [1.0, 3.0])
        torch.testing.assert_close(twice(x, phi), component(x, phi), rtol=0, atol=1e-13)


@every_angle
def test_components_without_variance_are_a_finite_set(phi):
    points = normal(4, 2, 3)
    weights = [1.0, 2.0, 3.0, 4.0]
    mixture = Mixture([Gaussian(y, torch.zeros(2, 3)) for y in points], weights)
    x = 2 * normal(5, 2, 3)
    expected = Empirical(points, torch.tensor(weights))(x, phi)
    torch.testing.assert_close(mixture(x, phi), expected, rtol=1e-9, atol=1e-9)


def test_v_at_zero_snr_is_finite_and_the_mean_for_any_noise():
    for scale in (1.0, 10.0):
        x = scale * normal(5, 2, 3)
        torch.testing.assert_close(MIXTURE(x, RIGHT), -MEAN.expand_as(x), rtol=0, atol=1e-11)
        expected = torch.tensor(WEIGHTS, dtype=x.dtype).expand(5, 3)
        torch.testing.assert_close(MIXTURE.responsibilities(x, RIGHT), expected, rtol=0, atol=1e-12)
        before = MIXTURE(x, RIGHT - 1e-9)
        torch.testing.assert_close(before, -MEAN.expand_as(x), rtol=0, atol=1e-6 * scale)


@pytest.mark.parametrize("phi", [0.1, 0.4, 1.0, 1.5, RIGHT])
def test_v_is_the_posterior_mean_by_quadrature(phi):
    """E[cos(phi) eps - sin(phi) x0 | x] in one dimension, summed over a fine grid of x0."""
    means, stds, weights = [-2.0, 0.5, 3.0], [0.7, 0.3, 1.5], [1.0, 2.0, 1.5]
    columns = [torch.tensor(column, dtype=torch.float64) for column in (means, stds)]
    mixture = Mixture([Gaussian(m, std**2) for m, std in zip(*(c[:, None] for c in columns), strict=True)], weights)
    c, s = cos_sin(phi)
    y = np.linspace(-20, 20, 200_001)
    prior = sum(w / std * np.exp(-(((y - m) / std) ** 2) / 2) for m, std, w in zip(means, stds, weights, strict=True))
    for x in (-4.0, -0.3, 0.0, 1.0, 2.5):
        posterior = prior * np.exp(-(((x - c * y) / s) ** 2) / 2)
        expected = (posterior * (c * (x - c * y) / s - s * y)).sum() / posterior.sum()
        found = mixture(torch.tensor([[x]], dtype=torch.float64), phi)
        assert found.item() == pytest.approx(expected, abs=1e-8)


def log_densities(x, phi: float) -> torch.Tensor:
    """(B, K), each component's weighted density at x_phi, by torch, with full covariances."""
    c, s = cos_sin(phi)
    logs = [
        math.log(w)
        + torch.distributions.MultivariateNormal(
            c * g.mean.flatten(), c * c * covariance(g) + s * s * torch.eye(6, dtype=x.dtype)
        ).log_prob(x.flatten(1))
        for w, g in zip(WEIGHTS, COMPONENTS, strict=True)
    ]
    return torch.stack(logs, 1)


@every_angle
def test_responsibilities_are_bayes_rule_in_several_dimensions(phi):
    """A singular covariance is regular with noise in it."""
    x = 2 * normal(5, 2, 3)
    expected = log_densities(x, phi).softmax(1)
    torch.testing.assert_close(MIXTURE.responsibilities(x, phi), expected, rtol=1e-8, atol=1e-10)


def test_v_is_the_derivative_of_the_score_potential():
    """eps = sin x + cos v = -sin(phi) grad log p(x_phi), by differences of the mixture's own log density."""
    phi, x, h = 0.7, normal(1, 2, 3), 1e-5
    c, s = cos_sin(phi)
    steps = h * torch.eye(6, dtype=x.dtype).view(6, 2, 3)
    above, below = (log_densities(x + sign * steps, phi).logsumexp(1) for sign in (1, -1))
    gradient = ((above - below) / (2 * h)).view(1, 2, 3)
    torch.testing.assert_close(s * x + c * MIXTURE(x, phi), -s * gradient, rtol=0, atol=1e-8)


def test_samples_have_the_mixtures_moments():
    n = 100_000
    y = MIXTURE.sample(normal(n, 2, 3), torch.Generator().manual_seed(1)).flatten(1)
    mean = MEAN.flatten()
    second = sum(
        w * (covariance(g) + torch.outer(g.mean.flatten(), g.mean.flatten()))
        for w, g in zip(WEIGHTS, COMPONENTS, strict=True)
    )
    cov = second - torch.outer(mean, mean)
    assert ((y.mean(0) - mean) / (cov.diag() / n).sqrt()).abs().max() < 4
    error = (y.T.cov() - cov).abs() / torch.outer(cov.diag(), cov.diag()).sqrt()
    assert error.max() < 4 * 2 / math.sqrt(n)


def test_samples_come_from_the_components_by_their_weights_and_repeat():
    points = torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64)
    mixture = Mixture([Gaussian(y, torch.zeros(1)) for y in points], [1.0, 2.0, 5.0])
    noise = normal(40_000, 1)
    y = mixture.sample(noise, torch.Generator().manual_seed(1))
    assert torch.equal(y, mixture.sample(noise, torch.Generator().manual_seed(1)))
    for point, p in zip(points, (1 / 8, 2 / 8, 5 / 8), strict=True):
        share = (y == point).double().mean().item()
        assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / 40_000)


def test_weights_are_up_to_a_factor_and_equal_where_left_out():
    x = normal(5, 2, 3)
    torch.testing.assert_close(Mixture(COMPONENTS, [2.0, 3.0, 5.0])(x, 0.7), MIXTURE(x, 0.7), rtol=0, atol=1e-13)
    assert Mixture(COMPONENTS, [2.0, 3.0, 5.0]).weights.tolist() == pytest.approx([0.2, 0.3, 0.5])
    assert torch.equal(Mixture(COMPONENTS)(x, 0.7), Mixture(COMPONENTS, [1.0, 1.0, 1.0])(x, 0.7))


def test_far_components_do_not_underflow():
    """Distances of thousands of stds, where densities are 0 in floats, and their logarithms are not."""
    means = [-1000.0, 1000.0]
    mixture = Mixture([Gaussian(torch.tensor([m]), torch.tensor([1.0])) for m in means])
    for side in means:
        x = torch.tensor([[0.1 * side]], dtype=torch.float64)
        r = mixture.responsibilities(x, 0.1)
        assert r.isfinite().all()
        assert r[0, means.index(side)] == 1
    middle = mixture.responsibilities(torch.zeros(1, 1, dtype=torch.float64), 0.1)
    torch.testing.assert_close(middle, torch.full((1, 2), 0.5, dtype=torch.float64))


def test_dtype_of_the_state_is_kept_and_each_row_is_its_own():
    x = normal(5, 2, 3)
    assert MIXTURE(x.float(), 0.7).dtype == torch.float32
    torch.testing.assert_close(MIXTURE(x.float(), 0.7).double(), MIXTURE(x, 0.7), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(MIXTURE(x[2:3], 0.7), MIXTURE(x, 0.7)[2:3], rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("components", "weights", "message"),
    [
        ([], None, r"shapes \[\]"),
        ([Gaussian(torch.zeros(2), torch.ones(2)), Gaussian(torch.zeros(3), torch.ones(3))], None, r"\(2,\), \(3,\)"),
        (COMPONENTS, [1.0, 2.0], "for 3 components: one each, above 0"),
        (COMPONENTS, [1.0, 2.0, 0.0], "one each, above 0"),
        (COMPONENTS, [1.0, 2.0, -1.0], "one each, above 0"),
        (COMPONENTS, [1.0, 2.0, math.nan], "one each, above 0"),
    ],
)
def test_what_is_not_a_mixture_is_refused(components, weights, message):
    with pytest.raises(ValueError, match=message):
        Mixture(components, weights)
