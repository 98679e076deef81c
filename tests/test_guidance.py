"""Guidance against Algorithm 2 on each kind of prediction, its limit at zero SNR, and closed forms for Gaussians."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers.guiders.guider_utils import rescale_noise_cfg
from sampling import RIGHT, never, seeded

import zsnr
from lab.measure.laws import Counted, amplification
from lab.models.mixture import Mixture
from zsnr.denoisers import Gaussian
from zsnr.guidance import factor, guided, rescaled, std
from zsnr.noise import generators
from zsnr.prediction import PREDICTIONS, to_eps, to_v, to_x0

BELOW = [0.05, 0.4, 1.0, 1.5]
SAY = {"eps": to_eps, "x0": to_x0, "v": to_v}
W = 7.5
G, normal = seeded()
SHAPE = (2, 4, 4)

every_space = pytest.mark.parametrize("space", PREDICTIONS)
every_strength = pytest.mark.parametrize("rescale", [0.25, 0.7, 1.0])


def a_class() -> Gaussian:
    root = normal(32, 32) / 6
    return Gaussian(normal(*SHAPE), root @ root.T)


POS, NEG = a_class(), a_class()
X = normal(5, *SHAPE)


def algorithm_2(pos: torch.Tensor, neg: torch.Tensor, guidance_weight: float, guidance_rescale: float) -> torch.Tensor:
    """The paper's listing, word by word, on any kind of prediction."""
    cfg = neg + guidance_weight * (pos - neg)
    std_pos = pos.std([1, 2, 3], keepdim=True)
    std_cfg = cfg.std([1, 2, 3], keepdim=True)
    factor = std_pos / std_cfg
    factor = guidance_rescale * factor + (1 - guidance_rescale)
    return cfg * factor


def by_listing(x: torch.Tensor, phi: float, scale: float, rescale: float, space: str) -> torch.Tensor:
    """v from the listing on predictions of that kind, for POS and NEG."""
    pos, neg = (SAY[space](d(x, phi), x, phi, "v") for d in (POS, NEG))
    return to_v(algorithm_2(pos, neg, scale, rescale), x, phi, space)


# against the listing


@pytest.mark.parametrize("phi", BELOW)
@every_strength
@every_space
def test_each_space_is_algorithm_2_on_its_predictions(space, rescale, phi):
    for scale in (0.0, 2.0, W, -1.0):
        v = guided(POS, NEG, scale, rescale, space)(X, phi)
        torch.testing.assert_close(v, by_listing(X, phi, scale, rescale, space), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("phi", [*BELOW, RIGHT])
def test_without_rescaling_all_spaces_are_the_same(phi):
    pos, neg = POS(X, phi), NEG(X, phi)
    for space in PREDICTIONS:
        assert torch.equal(guided(POS, NEG, W, 0.0, space)(X, phi), neg + W * (pos - neg))


@every_space
def test_a_scale_of_1_is_the_positive_itself_in_one_evaluation(space):
    denoiser = guided(POS, never, 1.0, 0.7, space)
    for phi in (*BELOW, RIGHT):
        assert torch.equal(denoiser(X, phi), POS(X, phi))


def test_a_scale_of_0_is_the_negative_and_the_rest_lies_on_a_line():
    at = {scale: guided(POS, NEG, scale, 0.0)(X, 1.0) for scale in (0.0, 1.0, 3.0, W)}
    assert torch.equal(at[0.0], NEG(X, 1.0))
    torch.testing.assert_close((at[W] - at[0.0]) / W, (at[3.0] - at[0.0]) / 3.0)


@pytest.mark.parametrize("phi", [*BELOW, RIGHT])
@pytest.mark.parametrize("rescale", [0.0, 0.25, 0.7, 1.0])
def test_in_v_the_std_is_between_the_guided_and_the_positives(rescale, phi):
    """All of the positive's at 1, all of the guided at 0; the direction is that of plain guidance."""
    pos, cfg, final = POS(X, phi), guided(POS, NEG, W, 0.0)(X, phi), guided(POS, NEG, W, rescale)(X, phi)
    expected = rescale * pos.flatten(1).std(1) + (1 - rescale) * cfg.flatten(1).std(1)
    torch.testing.assert_close(final.flatten(1).std(1), expected, rtol=1e-12, atol=0)
    cosine = torch.cosine_similarity(final.flatten(1), cfg.flatten(1), dim=1)
    torch.testing.assert_close(cosine, torch.ones(5, dtype=cosine.dtype), rtol=0, atol=1e-14)


@pytest.mark.parametrize("phi", BELOW)
@every_space
def test_at_full_strength_what_is_rescaled_has_the_positives_std(space, phi):
    said = SAY[space](guided(POS, NEG, W, 1.0, space)(X, phi), X, phi, "v")
    torch.testing.assert_close(std(said), std(SAY[space](POS(X, phi), X, phi, "v")), rtol=1e-9, atol=0)


def test_std_is_that_of_each_samples_own_values():
    expected = X.flatten(1).std(1, unbiased=False).view(5, 1, 1, 1)
    torch.testing.assert_close(std(X), expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("strength", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("shape", [(4, 3, 8, 8), (4, 6), (1, 2, 5, 5, 5)], ids=str)
def test_diffusers_rescale_noise_cfg(shape, strength, dtype, rtol):
    pos, cfg = normal(*shape).to(dtype), (3 * normal(*shape) + 0.5).to(dtype)
    theirs = rescale_noise_cfg(cfg, pos, guidance_rescale=strength)
    torch.testing.assert_close(rescaled(cfg, pos, strength), theirs, rtol=rtol, atol=rtol)


def test_diffusers_answers_no_number_where_ours_leaves_the_prediction():
    flat = torch.full((1, 1, 4, 4), 0.5)
    assert rescale_noise_cfg(flat, flat, guidance_rescale=0.7).isnan().all()
    torch.testing.assert_close(rescaled(flat, flat, 0.7), flat)


@every_space
def test_a_sample_does_not_depend_on_its_batch(space):
    denoiser = guided(POS, NEG, W, 0.7, space)
    for phi in (0.05, 1.0, RIGHT):
        alone = torch.cat([denoiser(x[None], phi) for x in X])
        torch.testing.assert_close(denoiser(X, phi), alone, rtol=0, atol=1e-11)
        loud = torch.cat([X[:1], 100 * X[1:]])
        torch.testing.assert_close(denoiser(loud, phi)[:1], alone[:1], rtol=0, atol=1e-11)


# zero SNR


@every_strength
def test_eps_at_zero_snr_is_the_limit_of_the_listing(rescale):
    """The listing divides by cos(phi); the limit is approached as fast as the angle."""
    limit = guided(POS, NEG, W, rescale, "eps")(X, RIGHT)
    errors = [(by_listing(X, RIGHT - h, W, rescale, "eps") - limit).abs().max().item() for h in (1e-3, 1e-4, 1e-5)]
    assert errors[-1] < 1e-2
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(10, rel=0.05)


def test_eps_at_zero_snr_is_the_closed_form():
    """(k - 1) / cos -> phi Cov(x, pos - cfg) / Var(x): v moves by a multiple of the noise."""
    pos, cfg = -POS.mean, -(NEG.mean + W * (POS.mean - NEG.mean))
    for x in X:
        joint = torch.cov(torch.stack([x.flatten(), (pos - cfg).flatten()]))
        for rescale in (0.0, 0.7, 1.0):
            v = guided(POS, NEG, W, rescale, "eps")(x[None], RIGHT)[0]
            torch.testing.assert_close(v, cfg + rescale * joint[0, 1] / joint[0, 0] * x, rtol=1e-12, atol=1e-12)


def test_rescaling_eps_itself_at_zero_snr_does_nothing():
    """It is the input, with and without the condition; just below, it moves by as much as the angle."""
    pos, cfg = (to_eps(d(X, RIGHT), X, RIGHT, "v") for d in (POS, guided(POS, NEG, W, 0.0)))
    assert torch.equal(rescaled(cfg, pos, 1.0), X)
    moved = []
    for h in (1e-3, 1e-4):
        final, plain = (guided(POS, NEG, W, r, "eps")(X, RIGHT - h) for r in (1.0, 0.0))
        moved.append((to_eps(final, X, RIGHT - h, "v") - to_eps(plain, X, RIGHT - h, "v")).abs().max().item())
    assert moved[0] / moved[1] == pytest.approx(10, rel=0.05)


@pytest.mark.parametrize("h", [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-12, 0.0])
def test_eps_towards_zero_snr_loses_nothing_in_float32(h):
    exact = guided(POS, NEG, W, 1.0, "eps")(X, RIGHT - h)
    v = guided(POS, NEG, W, 1.0, "eps")(X.float(), RIGHT - h)
    assert v.dtype == torch.float32
    torch.testing.assert_close(v.double(), exact, rtol=0, atol=2e-5 * exact.abs().max().item())
    if 0 < h < 1e-5:  # the listing does lose it
        assert (by_listing(X.float(), RIGHT - h, W, 1.0, "eps") - exact).abs().max() > 1e-2 * exact.abs().max()


@every_strength
def test_v_and_x0_are_one_space_at_zero_snr_and_nowhere_else(rescale):
    for phi in (RIGHT, RIGHT - 1e-7, 1.0):
        in_v, in_x0 = (guided(POS, NEG, W, rescale, space)(X, phi) for space in ("v", "x0"))
        distance = (in_v - in_x0).abs().max().item()
        assert distance < 1e-5 if phi > 1.5 else distance > 0.1
    torch.testing.assert_close(
        guided(POS, NEG, W, rescale, "x0")(X, RIGHT), guided(POS, NEG, W, rescale)(X, RIGHT), rtol=1e-13, atol=1e-13
    )


# without contrast


def plain(level: float, space: str):
    """A denoiser whose prediction of that kind is one level everywhere, up to rounding; v = -level at zero SNR."""

    def denoiser(x: torch.Tensor, phi: float) -> torch.Tensor:
        flat = torch.full_like(x, level)
        return -flat if phi == RIGHT else to_v(flat, x, phi, space)

    return denoiser


@pytest.mark.parametrize("phi", [*BELOW, RIGHT])
@pytest.mark.parametrize("levels", [(0.5, -0.3), (0.02, 0.01), (0.5, 0.55), (0.9, -0.9), (0.0, 0.0)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@every_space
def test_a_constant_prediction_is_left_as_it_is(space, dtype, levels, phi):
    x = X.to(dtype)
    pos, neg = (plain(level, space) for level in levels)
    for scale in (W, 20.0):
        before, after = (guided(pos, neg, scale, rescale, space)(x, phi) for rescale in (0.0, 1.0))
        atol = 64 * torch.finfo(dtype).eps * before.abs().max().item()
        torch.testing.assert_close(after, before, rtol=0, atol=atol)


@pytest.mark.parametrize("levels", [(0.5, -0.3), (0.5, 0.55), (0.9, -0.9)], ids=str)
def test_so_is_one_that_is_constant_up_to_its_own_rounding(levels):
    def rough(level: float, seed: int) -> torch.Tensor:
        noise = torch.randn(5, 64, generator=torch.Generator().manual_seed(seed))
        return level * (1 + 6e-8 * noise)

    pos, neg = rough(levels[0], 1), rough(levels[1], 2)
    cfg = neg + W * (pos - neg)
    assert (std(cfg) > 0).all()
    assert torch.equal(factor(pos, cfg, 1.0), torch.ones(5, 1))


@pytest.mark.parametrize("phi", [0.4, 1.0])
@every_space
def test_one_constant_sample_leaves_the_others_to_the_listing(space, phi):
    flat = plain(0.2, space)

    def mixed(denoiser):
        return lambda x, phi: torch.cat([flat(x[:1], phi), denoiser(x[1:], phi)])

    v = guided(mixed(POS), mixed(NEG), W, 0.7, space)(X, phi)
    torch.testing.assert_close(v[:1], flat(X[:1], phi), rtol=0, atol=1e-12)
    torch.testing.assert_close(v[1:], by_listing(X[1:], phi, W, 0.7, space), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("x", [torch.zeros(2, 1, 3, 3), torch.full((2, 1, 3, 3), 0.7), torch.randn(3, 1)], ids=str)
@every_space
def test_a_state_without_contrast_gives_numbers(space, x):
    """An empty picture, a plain one, and pictures of one value, of which none has a std."""
    pos, neg = (Gaussian(m * torch.ones(x.shape[1:]), torch.ones(x.shape[1:]) / 2) for m in (0.5, -0.5))
    for phi in (0.05, 1.0, RIGHT):
        before, after = (guided(pos, neg, W, rescale, space)(x, phi) for rescale in (0.0, 1.0))
        torch.testing.assert_close(after, before, rtol=0, atol=1e-5)


# closed forms


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0, W, 20.0])
@pytest.mark.parametrize("correlation", [-1.0, -0.3, 0.0, 0.5, 0.9, 0.99, 1.0])
def test_the_amplification_of_branches_of_equal_std(scale, correlation):
    z = normal(2, 50)
    a, b = torch.linalg.qr((z - z.mean(1, keepdim=True)).T).Q.T  # without mean, orthogonal, of one std
    pos, neg = a + 0.3, correlation * a + math.sqrt(1 - correlation**2) * b - 0.1
    assert torch.corrcoef(torch.stack([pos, neg]))[0, 1].item() == pytest.approx(correlation, abs=1e-12)
    cfg = neg + scale * (pos - neg)
    expected = amplification(scale, correlation)
    assert (std(cfg[None]) / std(pos[None])).item() == pytest.approx(expected, rel=1e-7, abs=1e-7)
    if expected > 0:
        assert factor(pos[None], cfg[None], 1.0).item() == pytest.approx(1 / expected, rel=1e-7)


def test_some_amplifications():
    assert amplification(W, 1.0) == pytest.approx(1)
    assert amplification(W, 0.9) == pytest.approx(math.sqrt(10.75))
    assert amplification(W, 0.0) == pytest.approx(math.sqrt(98.5))
    assert amplification(W, -1.0) == pytest.approx(14)
    assert amplification(1.0, -0.4) == 1


ROOT = normal(32, 32) / 6
ALIKE = [Gaussian(normal(*SHAPE), ROOT @ ROOT.T) for _ in range(2)]
MOVED = Gaussian(ALIKE[1].mean + 3.0 * (ALIKE[0].mean - ALIKE[1].mean), ROOT @ ROOT.T)


@pytest.mark.parametrize("phi", [*BELOW, RIGHT])
def test_classes_of_one_covariance_are_guided_to_a_gaussian_at_the_moved_mean(phi):
    torch.testing.assert_close(guided(*ALIKE, 3.0, 0.0)(X, phi), MOVED(X, phi), rtol=1e-10, atol=1e-10)


def test_and_samples_land_on_it_from_zero_snr():
    x = zsnr.heun(guided(*ALIKE, 3.0, 0.0), X, zsnr.power(64))
    torch.testing.assert_close(x, MOVED.solve(X, RIGHT), rtol=0, atol=1e-2)
    one = zsnr.ddim(guided(*ALIKE, 3.0, 0.0), X, zsnr.uniform(1))
    torch.testing.assert_close(one, MOVED.mean.expand_as(X), rtol=0, atol=1e-14)


@pytest.mark.parametrize("space", ["v", "x0"])
def test_at_zero_snr_the_mean_is_rescaled(space):
    share = 0.7 * ALIKE[0].mean.std() / MOVED.mean.std() + 0.3
    v = guided(*ALIKE, 3.0, 0.7, space)(X, RIGHT)
    torch.testing.assert_close(v, -share * MOVED.mean.expand_as(X), rtol=1e-12, atol=1e-12)


# samplers

CLASSES = [a_class() for _ in range(4)]
CONDITION, EVERYTHING = Mixture(CLASSES[:2], [1.0, 3.0]), Mixture(CLASSES)
SAMPLERS = {
    "ddim": (zsnr.ddim, 8),
    "heun": (zsnr.heun, 15),
    "rk2": (lambda *a: zsnr.rk2(*a, alpha=0.5), 15),
    "churn": (lambda *a: zsnr.churn(*a, S_churn=4.0, generators=generators(range(5))), 15),
    "dpmpp_2m": (zsnr.dpmpp_2m, 8),
}


@pytest.mark.parametrize(("sampler", "evaluations"), SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@every_space
def test_every_sampler_from_zero_snr(space, dtype, sampler, evaluations):
    pos, neg = Counted(CONDITION), Counted(EVERYTHING)
    grid = zsnr.geometric(8) if sampler is zsnr.dpmpp_2m else zsnr.power(8)
    assert grid[0] == RIGHT
    x = sampler(guided(pos, neg, W, 0.7, space), X.to(dtype), grid)
    assert x.shape == X.shape
    assert x.dtype == dtype
    assert x.isfinite().all()
    assert (pos.calls, neg.calls) == (evaluations, evaluations)
    unguided = sampler(guided(pos, neg, 1.0), X.to(dtype), grid)
    assert neg.calls == evaluations
    assert (x - unguided).abs().max() > 0.1


# refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": math.nan}, r"scale = nan: give a finite guidance scale, such as 7\.5, or 1 for no guidance"),
        ({"scale": math.inf}, r"scale = inf: give a finite guidance scale"),
        ({"rescale": 1.2}, r"rescale = 1\.2: its strength lies in \[0, 1\]; 0 is none, 0\.7 the paper's"),
        ({"rescale": -0.1}, r"rescale = -0\.1: its strength"),
        ({"rescale": math.nan}, r"rescale = nan: its strength"),
        ({"space": "velocity"}, r"'velocity'; choose one of eps, x0, v"),
        ({"scale": 1.0, "space": "velocity"}, r"'velocity'; choose one of eps, x0, v"),
    ],
    ids=str,
)
def test_what_is_no_guidance_is_refused_before_any_evaluation(arguments, message):
    with pytest.raises(ValueError, match=message):
        guided(never, never, **arguments)


def test_nothing_that_was_passed_in_is_changed():
    x, keep = X.clone(), X.clone()
    answers = {d: d(X, 1.0) for d in (POS, NEG)}
    kept = {d: v.clone() for d, v in answers.items()}
    for space in PREDICTIONS:
        guided(lambda x, phi: answers[POS], lambda x, phi: answers[NEG], W, 0.7, space)(x, 1.0)
    assert torch.equal(x, keep)
    assert all(torch.equal(answers[d], kept[d]) for d in kept)
