"""The known truth that guidance is judged by: its pictures, its flawed models, and its measures."""

import math

import pytest
import torch
from sampling import RIGHT, seeded

import zsnr
from lab.measure import guiding
from lab.measure.guiding import Model, noisy
from zsnr.denoisers import Gaussian

G, normal = seeded()
REPEATS, EACH = 3, 64
X = guiding.noises(REPEATS, EACH, G)


def averages(x):
    return {what: sum(values) / REPEATS for what, values in guiding.measures(x, REPEATS).items()}


@pytest.mark.parametrize("phi", [1e-3, 0.1, 1.0, 1.5, RIGHT - 1e-6, RIGHT - 1e-9, RIGHT])
def test_a_gaussian_with_noise_is_a_wider_gaussian(phi):
    mean, variance, x = normal(2, 3), normal(2, 3).exp(), normal(4, 2, 3)
    want = Gaussian(mean, variance + 0.3**2)(x, phi)
    torch.testing.assert_close(noisy(Gaussian(mean, variance), 0.3)(x, phi), want, rtol=0, atol=1e-10)


def test_the_noises_are_normal_and_their_means_are_spread_as_the_law_is():
    means = X.view(REPEATS, EACH, -1).mean(2) * guiding.SIZE
    assert torch.allclose(means, means[0].expand_as(means))
    assert means[0].std().item() == pytest.approx(1, abs=0.05)
    assert X.std().item() == pytest.approx(1, abs=0.02)


def test_real_pictures_have_the_truths_measures():
    found = averages(guiding.drawn(X))
    assert abs(found["shift"]) < 5e-3
    assert found["spread"] == pytest.approx(1, abs=0.02)
    assert found["off"] == pytest.approx(guiding.TEXTURE, rel=0.02)


def test_so_has_what_the_exact_model_draws():
    found = averages(zsnr.heun(guiding.asked(0.0, 1.0, "CFG", 1.0), X, zsnr.power(40)))
    assert abs(found["shift"]) < 0.02
    assert found["spread"] == pytest.approx(1, abs=0.08)
    assert found["off"] == pytest.approx(guiding.TEXTURE, rel=0.05)


@pytest.mark.parametrize("flaw", [0.5, 1.0])
def test_a_flawed_models_levels_and_texture_are_wider(flaw):
    found = averages(zsnr.heun(guiding.asked(flaw, 1.0, "CFG", 1.0), X, zsnr.power(40)))
    assert found["spread"] == pytest.approx(1 + flaw, rel=0.08)
    level = torch.linspace(-1, 1, 1001) * (1 + flaw) * 0.2  # about the word's middle, of which 0.2 are the word's
    beyond = (level.abs() - 0.2).clamp(min=0) ** 2 * (1 - guiding.shapes()[1][:9].double().mean())
    want = ((guiding.TEXTURE + 0.15 * flaw) ** 2 + beyond).sqrt().mean().item()
    assert found["off"] == pytest.approx(want, rel=0.03)


def test_the_distance_is_that_to_the_nearest_shape_and_to_the_nearest_level_of_the_word():
    foreground, mask, label = guiding.shapes()
    for level, beyond in ((-0.7, 0.0), (-1.5, 0.5), (0.0, 0.6)):
        x = foreground + level * ~mask
        own = guiding.off(x, 0)[label == 0]
        share = (~mask[label == 0]).double().mean((1, 2, 3)).sqrt()
        torch.testing.assert_close(own, beyond * share, rtol=0, atol=1e-9)
        assert (guiding.off(x, 0)[label != 0] > own.max() + 0.1).all() or level == 0


@pytest.mark.parametrize("method", guiding.METHODS)
def test_a_scale_of_1_is_no_guidance(method):
    given = Model(0.5).denoiser(0, *guiding.BLACK)
    for phi in (0.2, 1.0, RIGHT):
        assert torch.equal(guiding.asked(0.5, 1.0, method, 1.0)(X, phi), given(X, phi))


def test_at_zero_snr_a_model_predicts_the_mean():
    v = Model(1.0).denoiser(0, *guiding.BLACK)(X[:1], RIGHT)
    assert guiding.data.level(-v).item() == pytest.approx(-0.8)
    level = guiding.data.level(-Model(1.0).denoiser()(X[:1], RIGHT)).item()
    assert math.isclose(level, 0.0, abs_tol=1e-12)
