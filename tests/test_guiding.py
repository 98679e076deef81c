"""What guidance may do besides Algorithm 2: an interval, a worse model, APG. Closed forms for Gaussian classes."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers.guiders.adaptive_projected_guidance import normalized_guidance
from sampling import RIGHT, never, seeded

import zsnr
from lab.measure.laws import Counted, autoguided, interval_share
from zsnr.denoisers import Gaussian
from zsnr.guidance import guided
from zsnr.prediction import to_x0

G, normal = seeded()
SHAPE, W = (2, 4, 4), 3.0
VARIANCE = normal(*SHAPE).exp()
POS, NEG = (Gaussian(normal(*SHAPE), VARIANCE) for _ in range(2))
MOVED = Gaussian(NEG.mean + W * (POS.mean - NEG.mean), VARIANCE)
X = normal(5, *SHAPE)
LEVELS = [0.05, 0.4, 1.0, 1.5, RIGHT]
INF = math.inf

each_level = pytest.mark.parametrize("phi", LEVELS)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def plain(scale=W, **options):
    return guided(POS, NEG, scale, 0.0, **options)


def dot(a, b):
    """Over a sample's values."""
    return (a * b).flatten(1).sum(1)


def update(phi, positive=POS, x=X, **options):
    """What guidance adds to the positive x0, divided by w - 1; and that x0."""
    pos, all_of_it = (to_x0(d(x, phi), x, phi, "v") for d in (positive, guided(positive, NEG, W, 0.0, **options)))
    return (all_of_it - pos) / (W - 1), pos


# a noise-level interval


@pytest.mark.parametrize(
    ("interval", "inside"),
    [
        ((0.0, INF), [True] * 5),
        ((0.0, 1.0), [True, True, False, False, False]),
        ((0.2, 5.0), [False, True, True, False, False]),
        ((5.0, INF), [False, False, False, True, True]),
        ((0.0, 1e300), [True, True, True, True, False]),
    ],
    ids=str,
)
def test_outside_the_interval_it_is_the_positive_itself_in_one_evaluation(interval, inside):
    negative = Counted(NEG)
    denoiser, everywhere = guided(POS, negative, W, interval=interval), guided(POS, NEG, W)
    for phi, guides in zip(LEVELS, inside, strict=True):
        assert torch.equal(denoiser(X, phi), (everywhere if guides else POS)(X, phi))
    assert negative.calls == sum(inside)


@pytest.mark.parametrize("sigma", [1e-3, 0.2, 0.7, 5.0, 80.0, 4518.0])
def test_the_upper_end_belongs_to_it_and_the_lower_does_not(sigma):
    phi = math.atan(sigma)
    assert torch.equal(plain(interval=(sigma / 2, sigma))(X, phi), plain()(X, phi))
    assert torch.equal(plain(interval=(sigma, sigma * 2))(X, phi), POS(X, phi))


@pytest.mark.parametrize("interval", [(0.0, INF), (0.5, 4.0), (0.0, 2.0), (1.0, INF), (2.0, 2.5)], ids=str)
def test_an_interval_leaves_a_known_share_of_the_shift(interval):
    """Classes of one covariance: from zero SNR, the mean moves by (w - 1)(m_pos - m_neg) times `interval_share`."""
    ends = [math.atan(sigma) for sigma in interval]
    moved = (W - 1) * (POS.mean - NEG.mean) * interval_share(*interval, VARIANCE)
    errors = []
    for N in (64, 128):
        nodes = torch.tensor([phi for phi in ends if 0 < phi < RIGHT], dtype=torch.float64)
        grid = torch.cat([zsnr.power(N), nodes]).unique().flip(0)
        x = zsnr.euler(plain(interval=interval), X, grid)
        errors.append((x - POS.solve(X, RIGHT) - moved).abs().max().item())
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.15)  # Euler's order: on the share itself, no error is left
    assert errors[1] < 0.12


def test_shares_of_intervals_add_up():
    ends = [0.0, 0.3, 2.0, 50.0, INF]
    parts = [interval_share(lo, hi, VARIANCE) for lo, hi in pairwise(ends)]
    torch.testing.assert_close(sum(parts), torch.ones_like(VARIANCE))
    assert all((part > 0).all() for part in parts)


# autoguidance


def wider(k):
    return Gaussian(POS.mean, k * VARIANCE)


@pytest.mark.parametrize("k", [1.5, 4.0, 0.5])
def test_a_wider_copy_narrows_the_spread_about_the_same_mean(k):
    """From zero SNR, samples are the mean + sqrt(L) `autoguided`(w, k) noise."""
    end = POS.mean + VARIANCE.sqrt() * autoguided(W, k) * X
    errors = [(zsnr.heun(guided(POS, wider(k), W, 0.0), X, zsnr.power(N)) - end).abs().max().item() for N in (32, 64)]
    assert errors[1] < 5e-2
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.2)


@each_level
def test_a_copy_of_itself_guides_nothing(phi):
    torch.testing.assert_close(guided(POS, wider(1.0), 20.0, 0.0)(X, phi), POS(X, phi), rtol=1e-12, atol=1e-12)


# adaptive projected guidance


@each_level
def test_without_projection_it_is_plain_guidance(phi):
    assert torch.equal(plain(eta=1.0, r=INF)(X, phi), plain()(X, phi))
    for near in ({"eta": 1 - 1e-15}, {"r": 1e9}):  # by the other way
        torch.testing.assert_close(plain(**near)(X, phi), plain()(X, phi), rtol=1e-12, atol=1e-12)


@each_level
@pytest.mark.parametrize("options", [{"eta": 0.0}, {"eta": 0.3, "r": 2.5}, {"r": 0.5}, {"eta": 0.0, "r": 0.5}], ids=str)
def test_against_diffusers(phi, options):
    pos, neg = (to_x0(d(X, phi), X, phi, "v") for d in (POS, NEG))
    threshold = options.get("r", 0.0)  # 0: none
    theirs = normalized_guidance(
        pos, neg, W - 1, eta=options.get("eta", 1.0), norm_threshold=threshold, use_original_formulation=True
    )
    ours = to_x0(plain(**options)(X, phi), X, phi, "v")
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@each_level
def test_at_eta_0_the_update_is_orthogonal_to_the_positive_x0(phi):
    kept, pos = update(phi, eta=0.0)
    whole, _ = update(phi)
    assert (dot(kept, pos).abs() < 1e-12 * pos.flatten(1).norm(dim=1)).all()
    assert (dot(whole, pos).abs() > 1e-6).all()
    torch.testing.assert_close(dot(kept, whole - kept), torch.zeros(5).double(), rtol=0, atol=1e-12)
    for eta in (0.5, -1.0, 2.0):
        torch.testing.assert_close(update(phi, eta=eta)[0], kept + eta * (whole - kept), rtol=1e-10, atol=1e-10)


@each_level
def test_an_update_is_no_longer_than_r_and_keeps_its_direction(phi):
    whole, _ = update(phi)
    length = whole.flatten(1).norm(dim=1)
    r = length.median().item()
    short, _ = update(phi, r=r)
    torch.testing.assert_close(short.flatten(1).norm(dim=1), length.clamp(max=r), rtol=1e-10, atol=0)
    torch.testing.assert_close(dot(short, whole), short.flatten(1).norm(dim=1) * length, rtol=1e-10, atol=0)


def test_at_zero_snr_it_is_the_projection_of_the_means():
    delta, m = POS.mean - NEG.mean, POS.mean
    along = (delta * m).sum() / m.square().sum() * m
    for eta, r in ((0.0, INF), (0.4, 1.0), (1.0, 2.0)):
        step = min(1.0, r / delta.norm().item()) * (delta - along + eta * along)
        v = plain(eta=eta, r=r)(X, RIGHT)
        torch.testing.assert_close(v, -(m + (W - 1) * step).expand_as(X), rtol=1e-12, atol=1e-12)


@each_dtype
@pytest.mark.parametrize("levels", [(0.5, -0.3), (0.0, 0.5), (0.5, 0.5), (0.0, 0.0)], ids=str)
@each_level
def test_constant_predictions_give_numbers(phi, levels, dtype):
    """A norm of 0 has no direction: all of the update is orthogonal, and one of length 0 is no longer than r."""
    x = torch.zeros_like(X, dtype=dtype)
    pos, neg = ((lambda x, phi, v=v: torch.full_like(x, v)) for v in levels)
    for options in ({"eta": 0.0}, {"r": 0.1}, {"eta": 0.0, "r": 0.1}):
        v = guided(pos, neg, W, 0.7, **options)(x, phi)
        assert v.isfinite().all()
        if levels[0] == levels[1]:
            torch.testing.assert_close(v, pos(x, phi))
    if levels == (0.0, 0.5):
        v = guided(pos, neg, W, 0.0, eta=0.0)(x, phi)
        torch.testing.assert_close(v, guided(pos, neg, W, 0.0)(x, phi))


# all of them

ALL = {
    "interval": {"interval": (0.2, INF)},
    "APG": {"eta": 0.0, "r": 2.5},
    "both, rescaled": {"interval": (0.2, 30.0), "eta": 0.3, "r": 2.5, "rescale": 0.7},
}
each_method = pytest.mark.parametrize("options", ALL.values(), ids=ALL)


@each_method
def test_a_sample_does_not_depend_on_its_batch(options):
    denoiser = guided(POS, NEG, W, **{"rescale": 0.0} | options)
    loud = torch.cat([X[:1], 100 * X[1:]])
    for phi in LEVELS:
        torch.testing.assert_close(denoiser(loud, phi)[:1], denoiser(X[:1], phi), rtol=0, atol=1e-12)


@each_method
@each_level
def test_float32_is_near_float64(phi, options):
    denoiser = guided(POS, NEG, W, **{"rescale": 0.0} | options)
    v = denoiser(X.float(), phi)
    assert v.dtype == torch.float32
    torch.testing.assert_close(v.double(), denoiser(X, phi), rtol=0, atol=3e-5)


@each_method
@each_dtype
@pytest.mark.parametrize("sampler", [zsnr.ddim, zsnr.heun, zsnr.dpmpp_2m, zsnr.eab], ids=lambda s: s.__name__)
def test_every_sampler_from_zero_snr(sampler, dtype, options):
    x = sampler(guided(POS, NEG, W, **{"rescale": 0.0} | options), X.to(dtype), zsnr.power(8))
    assert x.dtype == dtype
    assert x.isfinite().all()
    assert (x - sampler(plain(), X.to(dtype), zsnr.power(8))).abs().max() > 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval": (5.0, 0.2)}, r"interval = \(5\.0, 0\.2\): give sigmas 0 <= lo < hi, such as \(0\.2, 5\.0\)"),
        ({"interval": (1.0, 1.0)}, r"interval = \(1\.0, 1\.0\): give"),
        ({"interval": (-1.0, 1.0)}, r"interval = \(-1\.0, 1\.0\): give"),
        ({"interval": (math.nan, 1.0)}, r"interval = \(nan, 1\.0\): give"),
        ({"interval": (0.0, math.nan)}, r"interval = \(0\.0, nan\): give"),
        ({"eta": math.nan}, r"eta = nan, r = inf: give a finite eta"),
        ({"eta": INF}, r"eta = inf"),
        ({"r": 0.0}, r"r = 0\.0: .*r above 0"),
        ({"r": -1.0}, r"r = -1\.0"),
        ({"r": math.nan}, r"r = nan"),
        ({"scale": 1.0, "r": math.nan}, r"r = nan"),
    ],
    ids=str,
)
def test_what_means_nothing_is_refused_before_any_evaluation(options, message):
    with pytest.raises(ValueError, match=message):
        guided(never, never, **options)
