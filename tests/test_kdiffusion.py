"""k-diffusion's signature: plain functions D(x, sigma), and the package itself, where it is installed."""

import math
from functools import partial

import pytest
import torch
from sampling import RIGHT, by_algebra, never, seeded

import zsnr
from benchmarks.stubs import load
from zsnr.denoisers import Gaussian
from zsnr.kdiffusion import sample

G, normal = seeded()
MEAN, ROOT = normal(6), normal(6, 6) / 2
COVARIANCE = ROOT @ ROOT.T
EXACT, BY_ALGEBRA = Gaussian(MEAN, COVARIANCE), by_algebra(MEAN, COVARIANCE)
NOISE = normal(4, 6)
FINITE = zsnr.karras(10).tan()
FROM_ZERO_SNR = zsnr.power(10).tan()
FROM_ZERO_SNR[0] = math.inf
LAST = 4518.0


def D(x, sigma, **extra):
    """A wrapped model: float, in k-diffusion's scale, at one sigma for the batch; not to be asked at infinity."""
    assert sigma.shape == (len(x),)
    assert sigma.unique().numel() == 1
    assert sigma.isfinite().all()
    return BY_ALGEBRA(x, sigma[0].item())


def v_model(x, sigma):
    """As wrappers of v networks do it, for a network whose last trained step, at the stand-in, was zero SNR."""
    c = 1 / (1 + sigma[:, None] ** 2).sqrt()
    v = EXACT(c * x, RIGHT if sigma[0] > LAST * (1 - 1e-6) else math.atan(sigma[0]))
    return c**2 * x - (1 - c**2).sqrt() * v


SAMPLERS = [zsnr.ddim, zsnr.euler, zsnr.heun, zsnr.dpmpp_2m, zsnr.eab]
each_sampler = pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: s.__name__)


@each_sampler
def test_a_finite_start_is_that_of_the_denoiser(sampler):
    x = NOISE * FINITE[0]
    want = sampler(EXACT, x * FINITE[0].atan().cos(), FINITE.atan())
    torch.testing.assert_close(sample(D, x, FINITE, sampler=sampler), want, rtol=1e-9, atol=1e-9)


@each_sampler
def test_from_zero_snr_a_v_network_is_asked_as_it_was_trained(sampler):
    """To rounding, with the stand-in of web interfaces."""
    want = sampler(EXACT, NOISE, FROM_ZERO_SNR.atan())
    x = sample(v_model, NOISE, FROM_ZERO_SNR, sampler=sampler, sigma_max=LAST)
    torch.testing.assert_close(x, want, rtol=1e-8, atol=1e-8)


def test_from_zero_snr_an_exact_denoiser_is_off_by_as_much_as_the_stand_in():
    want = zsnr.heun(EXACT, NOISE, FROM_ZERO_SNR.atan())
    off = [(sample(D, NOISE, FROM_ZERO_SNR, sigma_max=top) - want).abs().max().item() for top in (1e3, 1e4, 1e5)]
    assert off[0] / off[1] == pytest.approx(10, rel=0.05)
    assert off[1] / off[2] == pytest.approx(10, rel=0.05)
    assert off[2] < 1e-4


def test_its_own_sigma_max_is_the_default_and_nothing_above_it_is_asked():
    asked = []

    class Model:
        sigma_max = torch.tensor(14.6)

        def __call__(self, x, sigma):
            asked.append((sigma[0].item(), x))
            return D(x, sigma)

    sample(Model(), NOISE, FROM_ZERO_SNR)
    assert asked[0][0] == max(sigma for sigma, _ in asked) == pytest.approx(14.6)
    torch.testing.assert_close(asked[0][1], NOISE * math.hypot(1, 14.6), rtol=1e-6, atol=0)
    asked.clear()
    sample(Model(), NOISE, FROM_ZERO_SNR, sigma_max=100.0)
    assert asked[0][0] == pytest.approx(100)


def test_the_callback_has_k_diffusions_keys():
    told = []
    x = sample(v_model, NOISE, FROM_ZERO_SNR, None, told.append, True, sampler=zsnr.ddim, sigma_max=LAST)
    assert [one["i"] for one in told] == list(range(10))
    assert all(set(one) == {"x", "i", "sigma", "sigma_hat", "denoised"} for one in told)
    sigmas = torch.stack([one["sigma"] for one in told])
    assert torch.equal(sigmas, FROM_ZERO_SNR[:-1])
    torch.testing.assert_close(torch.stack([one["sigma_hat"] for one in told]), sigmas)
    assert torch.equal(told[0]["x"], NOISE)
    torch.testing.assert_close(told[0]["denoised"], MEAN.expand(4, 6), rtol=0, atol=1e-9)
    for one in told[1:]:
        want = BY_ALGEBRA(one["x"], one["sigma"].item())
        torch.testing.assert_close(one["denoised"], want, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(told[-1]["denoised"], x)


def test_extra_arguments_dtype_and_options():
    """The model's come by extra_args, the sampler's by keyword; churn raises sigma_hat above sigma."""

    def scaled(x, sigma, cond, cond_scale):
        assert (cond, cond_scale, x.dtype, sigma.dtype) == ("a", 2.0, torch.float32, torch.float32)
        assert not torch.is_grad_enabled()
        return D(x.double(), sigma.double()).float()

    told, sigmas = [], FROM_ZERO_SNR.float()
    churn = partial(sample, sampler=zsnr.churn, S_churn=3.0, sigma_max=LAST, generators=torch.Generator())
    x = churn(scaled, NOISE.float(), sigmas, {"cond": "a", "cond_scale": 2.0}, told.append)
    assert x.dtype == torch.float32
    assert x.isfinite().all()
    raised = torch.stack([one["sigma_hat"] / one["sigma"] for one in told[1:]])
    torch.testing.assert_close(raised, torch.full((9,), 1.3))


@pytest.mark.parametrize(
    ("sigmas", "x", "sigma_max", "message"),
    [
        (FROM_ZERO_SNR, NOISE, None, r"sigmas\[0\] = inf, sigma_max = inf: give sigma_max, the largest finite sigma"),
        (FROM_ZERO_SNR, NOISE, math.nan, r"sigma_max = nan: give"),
        (FINITE, NOISE, -1.0, r"sigma_max = -1\.0: give"),
        (FROM_ZERO_SNR, NOISE * math.inf, LAST, r"x holds NaN or inf: from sigmas\[0\] = inf, give noise of unit std"),
        (FINITE[:-1], NOISE, None, r"append a 0"),
        (FINITE.flip(0), NOISE, None, r"must fall"),
    ],
    ids=["no sigma_max", "NaN", "negative", "noise times inf", "no image at the end", "rising"],
)
def test_what_cannot_be_is_refused_before_the_model_is_asked(sigmas, x, sigma_max, message):
    with pytest.raises(ValueError, match=message):
        sample(never, x, sigmas, sigma_max=sigma_max)


# the package itself


@pytest.fixture(scope="module")
def k():
    """Its samplers, and its wrappers."""
    pytest.importorskip("torchsde", reason="pip install --no-deps -r benchmarks/requirements.txt")
    try:
        return load("k_diffusion", "sampling", "external")
    except ImportError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("sample_euler", partial(sample, sampler=zsnr.euler, path=zsnr.EDM)),
        ("sample_heun", partial(sample, sampler=zsnr.heun, path=zsnr.EDM)),
        ("sample_dpmpp_2m", partial(sample, sampler=zsnr.dpmpp_2m)),
    ],
)
def test_the_same_images_as_its_own_samplers_from_the_same_arguments(k, theirs, ours):
    arguments = (D, NOISE * FINITE[0], FINITE)
    told = {theirs: [], "ours": []}
    x = getattr(k[0], theirs)(*arguments, callback=told[theirs].append, disable=True)
    torch.testing.assert_close(ours(*arguments, callback=told["ours"].append), x, rtol=1e-9, atol=1e-9)
    for one, other in zip(told["ours"], told[theirs], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_its_wrapper_of_a_v_network_from_zero_snr(k):
    """CompVisVDenoiser over a network trained to zero SNR, the last alpha_bar being a stand-in, as it has to be."""
    schedule = zsnr.rescale_zero_terminal_snr(zsnr.schedule.stable_diffusion())

    class Network:
        alphas_cumprod = schedule.alpha_bar.clone()

        def apply_model(self, x, t, cond):
            return EXACT(x, schedule.angle_at(t[0].item()))

    Network.alphas_cumprod[-1] = 1 / (1 + LAST**2)
    model = k[1].CompVisVDenoiser(Network())
    sigmas = model.get_sigmas(10).double()  # whole steps
    start = {"x": NOISE, "sigmas": torch.cat([torch.tensor([math.inf]).double(), sigmas[1:]])}
    x = sample(model, **start, extra_args={"cond": None})
    want = zsnr.heun(EXACT, NOISE, start["sigmas"].atan())
    torch.testing.assert_close(x, want, rtol=1e-5, atol=1e-5)
    theirs = k[0].sample_heun(model, NOISE * sigmas[0], sigmas, extra_args={"cond": None}, disable=True)
    truth = EXACT.solve(NOISE, RIGHT)  # Heun in sigma, from the stand-in, is far from it
    assert (theirs - truth).abs().max() > 100 * (x - truth).abs().max()
    assert not k[0].sample_heun(model, extra_args={"cond": None}, disable=True, **start).isfinite().all()
