"""Churn where the truth is known: the laws, their exact denoisers, the distance, planted errors, and the training."""

import math

import numpy as np
import pytest
import torch

from lab.measure import known_truth as truth
from lab.measure.store import Results, Row
from lab.models import toy
from lab.models.edm_training import EDMRecipe, fit
from lab.studies import churn, churn_toy
from lab.studies.churn_toy import NAMES, OUTSIDE, Toys
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


def churned(data, training, setting, energies):
    """Rows of one setting, a seed each."""
    columns = {"study": "churn", "data": data, "training": training, "N": 8, "excess": 0.0, **setting._asdict()}
    return [Row(columns | {"seed": seed}, {"energy": energy / 1000}) for seed, energy in enumerate(energies)]


def in_place(data, training, sigma, S_noise, *energies):
    """Rows of churn at one level, a seed each, kept every tenth of 50 iterations or fewer."""
    columns = {"study": "in_place", "data": data, "training": training, "sigma": sigma, "S_noise": S_noise}
    return [
        Row(columns | {"seed": seed}, {"energy": [e / 1000 for e in energy], "iterations": 50})
        for seed, energy in enumerate(energies)
    ]


def by_noise(of):
    """Of three seeds without churn 10, 20 and 30, and at each S_noise less by what `of` says."""
    plain = np.array([10.0, 20.0, 30.0])
    rows = churned("ring", "edm", truth.NONE, plain)
    for S_noise in (1.007, 1.0, 1.01):  # in no order
        rows += churned("ring", "edm", truth.VP._replace(S_noise=S_noise), plain - of[S_noise])
    rows += churned("ring", "edm", truth.PRETRAINED, plain - 99)  # another setting, of S_noise = 1.003
    return Toys(Results(rows)).noise("ring", "edm")


def test_the_gain_by_S_noise_is_that_of_one_setting_and_what_is_added_is_paired():
    """Gains of 1 to 9 differ much between the seeds; what 1.007 adds, 1 +- .1, does not."""
    first = np.array([1.0, 5.0, 9.0])
    found = by_noise({1.0: first, 1.007: first + np.array([0.9, 1.0, 1.1]), 1.01: first - 2})
    assert list(found) == [1.0, 1.007, 1.01]
    assert found[1.007] == pytest.approx([1.9, 6.0, 10.1])
    every = {("ring", "edm"): found, ("digits", "edm"): {S: 0 * gain for S, gain in found.items()}}
    shown = churn_toy.noise_table(every)
    assert shown.columns == ("data", "training", "gain at S_noise = 1", "1.007 adds", "1.01 adds")
    assert shown.rows[0] == ("ring", "edm", "5.000 [-4.937, 14.937]", "1.000 [0.752, 1.248]", "-2.000 [-2.000, -2.000]")
    note = churn_toy.noise_note(every)
    assert "are 1.007, 1, 1.01 (ring edm); 1, 1.007, 1.01 (digits edm)." in note
    assert "above 0 for ring edm; below 0 for none; undecided for digits edm." in note
    assert "in none of 2 cases" in note
    sure = np.array([1.0, 1.1, 0.9])
    note = churn_toy.noise_note({("ring", "edm"): by_noise({1.0: sure, 1.007: -sure, 1.01: 2 * sure})})
    assert "are 1.01, 1, 1.007 (ring edm)" in note
    assert "above 0 for none; below 0 for ring edm; undecided for none" in note
    assert "in all 1 cases" in note


def test_outside_the_law_is_farther_from_it_than_its_samples_are_apart(ring):
    """(2a - b - w) / w > 1 needs a > w, and a / w is at least half of it and a half."""
    judge = truth.Judge(ring, 500)
    for scale, shift in ((0.0, 4.0), (1.0, 1.0), (3.0, 0.0), (5.0, 9.0)):
        x = scale * ring.draw(300, generator(1, 0))[0] + shift
        energy, apart = judge.energy(x), (torch.cdist(x.flatten(1), judge.real).mean() / judge.within).item()
        assert apart >= (energy + 1) / 2 - 1e-4
        assert energy * 1000 <= OUTSIDE or apart > 1


def beside(edm, exact):
    """Networks of two seeds at sigma .1 on the digits: original ones stay, others and the exact one are given."""
    rows = in_place("digits", "original", 0.1, 1.0, [0, 5, 3], [0, 6, 7]) + in_place("digits", "edm", 0.1, 1.0, *edm)
    rows += [row for t in ("original", "edm") for row in in_place("digits", t, 0.1, 1.007, [0, 0, 4], [0, 0, 8])]
    return Toys(Results(rows + in_place("digits", "exact", 0.1, 1.0, exact)))


def test_it_is_said_which_networks_diverge_in_place():
    toys = beside([[0, 50, 3000], [0, 90, 5000]], [-1, 2, 0])
    note = churn_toy.in_place_note(toys, "digits", 0.1)
    assert "**Digits, σ = 0.1**, 20 iterations." in note
    original, edm, exact = note.split("Of the networks ")[1], *note.split("Of the networks ")[2].split("The exact ")
    assert "**none of 2** leave the law: the mean distance goes from 0 to 5, and to 6 with" in original
    assert "**all 2** diverge: the mean distance goes from 0 to 4e+03, and to 6 with" in edm
    assert "ends at 3e+03 to 5e+03, and it rises from each kept time to the next in all 2" in edm
    assert "at least about 2.5 times as far" in edm  # (4 + 1) / 2
    assert exact == "denoiser does not leave it: its distance is between -1.00 and 2.00."
    note = churn_toy.in_place_note(beside([[0, 50, 30], [0, 9000, 5000]], [0, 1, 2000]), "digits", 0.1)
    assert "**1 of 2** diverge" in note
    assert "to the next in none of 2" in note
    assert "The exact denoiser diverges, too" in note


def test_a_planted_turn_is_judged_by_what_the_exact_denoiser_does_itself():
    """It changes by 2 at most; the turn's rise is its own less that one's."""

    def toys(*turned):
        return Toys(
            Results(in_place("ring", "exact", 2.0, 1.0, [1, 3, 2, 0]) + in_place("ring", "turning", 2.0, 1.0, turned))
        )

    much, some, none = toys(5, 10, 9, 11), toys(5, 10, 9, 5), toys(5, 6, 4, 6)
    assert much.moved(2.0) == pytest.approx(2)
    assert much.turned(2.0) == pytest.approx([3, 3, 7])
    note = churn_toy.turned_note(much, 2.0)
    assert (
        "**σ = 2: the planted turn raises the distance.** After 10, 20, 30 iterations it has added 3.00, 3.00, 7.00."
        in note
    )
    assert "above 0 at all 3 times, and above 2.00, the largest change" in note
    assert "at all 3. From one time to the next it grows in 1 of 2." in note
    assert "raises the distance at some times only.**" in churn_toy.turned_note(some, 2.0)
    note = churn_toy.turned_note(none, 2.0)
    assert "adds no more than the exact denoiser changes.**" in note
    assert "above 0 at 1 of 3 times" in note
    assert "distance, at none of 3" in note


@pytest.mark.parametrize(
    ("q", "errs", "ends"),
    [
        (-0.4, "**too little** noise", "MLPs that leave noise"),
        (0.01, "**too much** noise", "the premise of both claims is met here."),
        (0.0, "**neither clearly too much nor clearly too little** noise", "it is open whether"),
    ],
)
def test_the_limit_of_the_verdicts_follows_the_noise_that_is_removed(q, errs, ends, monkeypatch):
    near = np.array([-1e-3, 0.0, 1e-3])
    monkeypatch.setattr(Toys, "too_much", lambda self, data, training: (near + q, near + q + 0.1))
    monkeypatch.setattr(Toys, "at", lambda self, data, training, setting, measure: near - 3)
    pictures = dict.fromkeys(("original", "edm", "short"), (0.002, (0.001, 0.003)))
    verdicts = {"E-37": "contradicted", "E-38": "direction"}
    note = churn_toy.limit_note(Toys(Results([])), pictures, verdicts)
    assert "**A limit of E-37 (contradicted) and E-38 (direction) on trained networks.**" in note
    assert errs in note
    assert f"a mean over [.05, 1], is {100 * q:.1f} [" in note
    assert ends in note
    assert "0.20 [0.10, 0.30] % (original), 0.20 [0.10, 0.30] % (edm)." in note
    assert f"Of the MLPs it is {100 * q + 10:.2f} [" in note
    assert ", both farther from 0 than theirs." in note
    far = dict.fromkeys(pictures, (-0.5, (-0.6, -0.4)))
    assert ", not both farther from 0 than theirs." in churn_toy.limit_note(Toys(Results([])), far, verdicts)
