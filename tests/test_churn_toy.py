"""Churn where the truth is known: the laws, their exact denoisers, the distance, planted errors, and the training."""

import math

import numpy as np
import pytest
import torch

from lab.measure import known_truth as truth
from lab.measure.store import Results, Row
from lab.models import toy
from lab.models.edm_training import EDMRecipe, fit
from lab.studies import churn
from lab.studies.churn_toy import NAMES, Toys
from zsnr import edm
from zsnr.denoisers import Gaussian
from zsnr.finetune.loop import generator
from zsnr.path import EDM
from zsnr.rows import follow
from zsnr.samplers import GAMMA_MAX, raised, rk2_step


@pytest.fixture(scope="module")
def ring():
    return toy.ring()


@pytest.fixture(scope="module")
def digits():
    return toy.digits(2)


def test_samples_have_the_moments_of_the_law(ring, digits):
    for law in (ring, digits):
        y, _ = law.draw(20_000, generator(0, 0))
        assert y.shape[1:] == law.shape
        assert y.mean().abs() < 0.01
        assert y.square().mean().sqrt() == pytest.approx(toy.SIGMA_DATA, rel=0.01)
    weights = law.exact.responsibilities(y, 1e-6).mean(0)  # which component each sample is of
    assert torch.allclose(weights, law.exact.weights, atol=0.02)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 5.0])
def test_the_exact_denoiser_is_the_score_of_the_log_density(sigma, ring, digits):
    """D = (x_phi + sin^2 grad log p) / cos, Tweedie's formula."""
    for law in (ring, digits):
        x, phi = truth.noisy(law.draw(64, generator(0, 0))[0].double(), sigma, generator(0, 1))
        x = x.double().requires_grad_()
        (score,) = torch.autograd.grad(toy.log_density(law.exact, x, phi).sum(), x)
        D = (x + math.sin(phi) ** 2 * score) / math.cos(phi)
        assert torch.allclose(truth.answers(law.exact, x, phi), D, atol=1e-9)


def test_the_exact_denoiser_is_the_posterior_mean_by_quadrature(ring):
    side = torch.linspace(-2, 2, 801, dtype=torch.float64)
    y = torch.cartesian_prod(side, side).view(-1, 1, 1, 2)
    p = toy.log_density(ring.exact, y).exp()
    assert p.sum().item() * (4 / 800) ** 2 == pytest.approx(1, abs=1e-6)
    x, phi = torch.tensor([[[[0.3, -0.2]]]], dtype=torch.float64), math.atan(0.4)
    w = p * torch.exp(-(x - math.cos(phi) * y).flatten(1).square().sum(1) / (2 * math.sin(phi) ** 2))
    mean = (w @ y.flatten(1)) / w.sum()
    assert torch.allclose(truth.answers(ring.exact, x, phi).flatten(), mean, atol=1e-8)


def test_the_energy_distance_of_equal_laws_is_0_and_of_a_shift_is_known():
    """E|N(shift, 2)| in closed form, one dimension."""
    line = toy.Law(toy.Mixture([Gaussian(torch.zeros(1, 1, 1), torch.ones(1, 1, 1))]), (1, 1, 1))
    judge, shift = truth.Judge(line, 4000), 0.5
    x = [line.draw(1000, generator(1, k))[0] for k in range(8)]
    equal = np.mean([judge.energy(part) for part in x])
    within = 2 / math.sqrt(math.pi)
    across = within * math.exp(-(shift**2) / 4) + shift * math.erf(shift / 2)
    assert equal == pytest.approx(0, abs=2e-3)
    assert np.mean([judge.energy(part + shift) for part in x]) == pytest.approx(2 * across / within - 2, rel=0.1)
    assert judge.detail(0.9 * x[0]) > judge.detail(x[0]) + 0.05  # nearer to the mode: detail is lost


@pytest.mark.parametrize("excess", [0.007, 0.014])
def test_a_planted_shrinkage_is_in_x_less_D_and_is_restored_in_closed_form(excess, ring):
    """A Gaussian churned in place settles where S_noise = sqrt(1 + excess) restores it: finding 4's closed form."""
    x, phi = truth.noisy(ring.draw(16, generator(0, 0))[0].double(), 0.5, generator(0, 1))
    planted, z = truth.removing(ring.exact, excess), x / math.cos(phi)
    right, off = (z - truth.answers(d, x, phi) for d in (ring.exact, planted))
    assert torch.allclose(off, (1 + excess) * right, atol=1e-12)
    low = math.atan(0.04)
    assert torch.equal(planted(x, low), ring.exact(x, low))
    gaussian = Gaussian(torch.zeros(1, 1, 1), torch.full((1, 1, 1), 0.25))
    wrong = truth.removing(gaussian, excess)
    right = settled(gaussian, 0.5, 0.001, 1)
    assert abs(settled(wrong, 0.5, 0.001, 1) / right - 1) > 0.9 * excess
    assert settled(wrong, 0.5, 0.001, (1 + excess) ** 0.5) == pytest.approx(right, rel=0.05 * excess)


def settled(denoiser, sigma, gamma, S_noise):
    """Variance that churn in place at one level leaves as it is, by the step's own a and b."""
    phi = math.atan(sigma)
    top = raised(phi, gamma)
    fresh = S_noise * math.cos(top) * math.sqrt(math.tan(top) ** 2 - sigma**2)
    back = follow(rk2_step(top, phi, path=EDM), denoiser, torch.ones(1, 1, 1, 1, dtype=torch.float64)).item()
    return (back * fresh) ** 2 / (1 - (back * math.cos(top) / math.cos(phi)) ** 2)


def test_a_planted_turn_is_the_gradient_of_nothing(ring):
    x, phi = truth.noisy(ring.draw(8, generator(0, 0))[0].double(), 0.5, generator(0, 1))

    def jacobian(turn):
        def D(one):
            return truth.answers(truth.turning(ring.exact, turn), one[None], phi).flatten()

        return torch.func.vmap(torch.func.jacrev(D))(x).view(8, 2, 2)

    exact, turned = jacobian(0.0), jacobian(0.05)
    assert torch.allclose(exact, exact.mT, atol=1e-9)
    assert torch.allclose(turned[:, 1, 0] - turned[:, 0, 1], 0.05 * exact.diagonal(dim1=1, dim2=2).sum(1), atol=1e-9)


def test_the_noise_removed_too_much_is_0_of_the_truth_and_the_planted_excess(ring):
    assert truth.network(ring.exact, ring, [0.3], 64)["too_much"] == [pytest.approx(0, abs=1e-6)]
    found = truth.network(truth.removing(ring.exact, 0.014), ring, [0.3], 4000)["too_much"]
    assert found == [pytest.approx(0.014, abs=1e-3)]


def test_the_settings_are_the_papers():
    assert {name: tuple(setting) for name, setting in NAMES.items()} == churn.TABLE5
    every = truth.settings([10.0, 30.0, 80.0, 106.0])
    assert len(set(every)) == len(every) == 23
    assert {*truth.TABLE5, truth.NONE} < set(every)
    assert pytest.approx(GAMMA_MAX, abs=1e-3) == 106 / 256


def test_settings_of_one_seed_start_from_the_same_noises(ring):
    none, weak, again = (
        truth.draw(ring.exact, ring.shape, setting, 16, 300, 0, batch=200)
        for setting in (truth.NONE, truth.Setting(1e-9), truth.NONE)
    )
    assert torch.equal(none, again)
    assert torch.allclose(none, weak, atol=1e-2)
    other = truth.draw(ring.exact, ring.shape, truth.NONE, 16, 300, 1)
    assert not torch.allclose(none, other, atol=0.1)


@pytest.mark.parametrize("training", toy.TRAININGS)
def test_training_reduces_the_error_of_the_network(training, ring, tmp_path):
    recipe = EDMRecipe(images=40_000, batch=200, lr=3e-3, warmup=200, ema_halflife=4000)
    recipe, start = toy.start(training, recipe, ring.shape, 32)
    trained, _ = fit(start, ring.draw, recipe, tmp_path)
    errors = []
    for network in (start, trained):
        denoiser = edm.EDMDenoiser(edm.Preconditioned(network, recipe.column(recipe.precondition)))
        errors.append(np.mean(truth.network(denoiser, ring, [0.2, 0.5, 1.0], 500)["error"]))
    assert errors[1] < 0.5 * errors[0]


def test_the_least_is_judged_by_the_other_seeds():
    """Of settings that differ by noise alone, the least by its own noise would look like an optimum."""
    g = np.random.default_rng(0)
    rows = [
        Row({"study": "churn", "data": "ring", "training": "edm", "seed": seed, "N": 8, "excess": 0.0}
            | truth.Setting(S)._asdict(), {"energy": g.normal() / 1000})
        for seed in range(400) for S in (0.0, 10.0, 20.0, 30.0)
    ]  # fmt: skip
    toys, among = Toys(Results(rows)), [truth.Setting(S) for S in (10.0, 20.0, 30.0)]
    assert toys.less_the_least("ring", "edm", truth.NONE, among).mean() == pytest.approx(0, abs=0.2)
    rows[0].measures["energy"] += 1.0
    assert toys.gain("ring", "edm", among[0])[0] > 900
