"""Samplers against the exact solution for Gaussian data, the papers' formulas, and their promises about state."""

import functools
import math
import re
import time

import pytest
import torch
from sampling import ALL, DETERMINISTIC, FIXED_STEP, RIGHT, STOCHASTIC, never, seeded, slope, variances, with_generators

import zsnr
from zsnr.denoisers import Gaussian
from zsnr.grids import geometric, grid, power, uniform
from zsnr.noise import generators, randn
from zsnr.path import FLOW
from zsnr.prediction import cos_sin
from zsnr.samplers import SAMPLERS, churn, ddim, ddpm, euler, euler_maruyama, heun, rk2, rk45
from zsnr.schedule import rescale_zero_terminal_snr, stable_diffusion

SD = stable_diffusion()
ZERO_SNR = rescale_zero_terminal_snr(SD)
G, normal = seeded()
STEPS = [40, 80, 160, 320, 640]
ORDER = {"ddim": 1, "euler": 1, "heun": 2}

VARIANCES = torch.tensor([1 / 64, 1 / 16, 1 / 4, 1, 2, 8, 16, 64], dtype=torch.float64)
ROTATION = torch.linalg.qr(normal(8, 8))[0]
GAUSSIAN = Gaussian(normal(8), ROTATION @ VARIANCES.diag() @ ROTATION.T)
NOISE = normal(4, 8)


@pytest.mark.parametrize("phi_max", [RIGHT, 1.4])
@pytest.mark.parametrize("make", [uniform, power])
@pytest.mark.parametrize("name", ORDER)
def test_deterministic_samplers_reach_the_exact_solution_at_their_order(name, make, phi_max):
    exact = GAUSSIAN.solve(NOISE, phi_max)
    errors = [(FIXED_STEP[name](GAUSSIAN, NOISE, make(N, phi_max=phi_max)) - exact).norm().item() for N in STEPS]
    assert slope(STEPS, errors) == pytest.approx(ORDER[name], abs=0.1)
    assert errors[-1] < 0.05 * exact.norm()


@pytest.mark.parametrize("name", ["ddpm", "ddim, eta 1", "ddim, eta .5"])
def test_stochastic_samplers_reach_the_datas_variance_at_first_order(name, monkeypatch):
    coarse = VARIANCES[2:]  # finer detail comes later
    errors = [(variances(STOCHASTIC[name], uniform(N), coarse, monkeypatch) / coarse - 1).norm().item() for N in STEPS]
    assert slope(STEPS, errors) == pytest.approx(1, abs=0.1)


def test_ddpm_with_all_1000_steps_from_zero_snr_has_the_datas_variance(monkeypatch):
    """Each step's variance by Eqs. 9 and 20 written in alpha_bar, and close to the truth but for the finest detail."""
    bar, expected = [1.0, *ZERO_SNR.alpha_bar.tolist()], torch.ones_like(VARIANCES)
    for t in range(1000, 0, -1):
        beta = 1 - bar[t] / bar[t - 1]
        x0 = math.sqrt(bar[t]) * VARIANCES / (bar[t] * VARIANCES + 1 - bar[t])
        step = math.sqrt(bar[t - 1]) * beta / (1 - bar[t]) * x0
        step = step + math.sqrt(bar[t] / bar[t - 1]) * (1 - bar[t - 1]) / (1 - bar[t])
        expected = step**2 * expected + (1 - bar[t - 1]) / (1 - bar[t]) * beta
    found = variances(ddpm, grid(ZERO_SNR, 1000), VARIANCES, monkeypatch)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    assert ((found / VARIANCES).sqrt() - 1).abs()[2:].max() < 0.02


@pytest.mark.parametrize(("N", "limit"), [(10, 0.08), (50, 0.005)])
def test_heun_from_zero_snr_keeps_the_brightness_that_a_huge_finite_sigma_loses(N, limit, monkeypatch):
    found = variances(heun, grid(ZERO_SNR, N), [64.0], monkeypatch)
    assert abs(math.sqrt(found.item() / 64) - 1) < limit


@pytest.mark.parametrize("phi", [0.3, 1.2, RIGHT])
@pytest.mark.parametrize("name", [name for name in FIXED_STEP if "churn" not in name])
def test_one_step_to_the_image_is_the_denoised_image(name, phi):
    """E-12, and no evaluation without noise."""
    asked = []
    c, s = cos_sin(phi)
    x = FIXED_STEP[name](lambda x, psi: asked.append(psi) or GAUSSIAN(x, psi), NOISE, [phi, 0.0])
    torch.testing.assert_close(x, c * NOISE - s * GAUSSIAN(NOISE, phi), rtol=0, atol=1e-14)
    assert asked == [phi]


@pytest.mark.parametrize("N", [1, 2, 10])
@pytest.mark.parametrize("name", FIXED_STEP)
def test_evaluations_of_the_network(name, N):
    asked = []
    FIXED_STEP[name](lambda x, phi: asked.append(phi) or GAUSSIAN(x, phi), NOISE, uniform(N), generators=G)
    assert len(asked) == (2 * N - 1 if name in ("heun", "rk2", "churn") else N)
    assert min(asked) > 0


def x0_and_eps(x, v, bar_t):
    """Eqs. 19, 17."""
    c, s = math.sqrt(bar_t), math.sqrt(1 - bar_t)
    return c * x - s * v, c * v + s * x


def ddim_in_alpha_bar(x, v, bar_t, bar_s, eta, z):
    """Eqs. 22, 21."""
    x0, eps = x0_and_eps(x, v, bar_t)
    variance = eta**2 * (1 - bar_s) / (1 - bar_t) * (1 - bar_t / bar_s)
    return math.sqrt(bar_s) * x0 + math.sqrt(1 - bar_s - variance) * eps + math.sqrt(variance) * z


def ddpm_in_alpha_bar(x, v, bar_t, bar_s, z, from_eps=False):
    """Eqs. 20, 9, or with the mean by Eq. 18, which needs alpha_t = bar_t / bar_s above 0."""
    x0, eps = x0_and_eps(x, v, bar_t)
    beta = 1 - bar_t / bar_s
    mean = math.sqrt(bar_s) * beta / (1 - bar_t) * x0
    mean = mean + math.sqrt(bar_t / bar_s) * (1 - bar_s) / (1 - bar_t) * x
    if from_eps:
        mean = (x - beta / math.sqrt(1 - bar_t) * eps) / math.sqrt(1 - beta)
    return mean + math.sqrt((1 - bar_s) / (1 - bar_t) * beta) * z


def one_step(run, t: int, s: int) -> torch.Tensor:
    """The state after the step from t to s (counted from 1) of the zero-SNR schedule."""
    states = []
    angles = [*ZERO_SNR.angle[[t - 1, s - 1]].tolist(), 0.0]
    run(GAUSSIAN, NOISE, angles, generators=generators(range(4)), callback=lambda i, phi, x, v: states.append(x))
    return states[1]


def ingredients(t: int, s: int):
    v = GAUSSIAN(NOISE, ZERO_SNR.angle[t - 1].item())
    return NOISE, v, *ZERO_SNR.alpha_bar[[t - 1, s - 1]].tolist()


Z = randn((4, 8), generators(range(4)), torch.float64)
some_steps = pytest.mark.parametrize(("t", "s"), [(1000, 999), (1000, 750), (999, 998), (700, 300), (2, 1)])


@some_steps
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_is_equations_21_and_22(t, s, eta):
    expected = ddim_in_alpha_bar(*ingredients(t, s), eta, Z)
    torch.testing.assert_close(one_step(functools.partial(ddim, eta=eta), t, s), expected, rtol=0, atol=1e-11)


@some_steps
def test_ddpm_is_equations_9_and_20(t, s):
    torch.testing.assert_close(one_step(ddpm, t, s), ddpm_in_alpha_bar(*ingredients(t, s), Z), rtol=0, atol=1e-11)


@pytest.mark.parametrize(("t", "s"), [(999, 998), (900, 899), (700, 300), (2, 1)])
def test_ddpms_eps_form_is_its_x0_form_below_zero_snr(t, s):
    x, v, bar_t, bar_s = ingredients(t, s)
    left, right = (ddpm_in_alpha_bar(x, v, bar_t, bar_s, Z, from_eps) for from_eps in (True, False))
    torch.testing.assert_close(left, right, rtol=0, atol=1e-12)
    torch.testing.assert_close(one_step(ddpm, t, s), left, rtol=0, atol=1e-11)


def test_ddpm_at_zero_snr_is_the_limit_of_equation_20():
    bar = ZERO_SNR.alpha_bar[998].item()
    expected = math.sqrt(bar) * -GAUSSIAN(NOISE, RIGHT) + math.sqrt(1 - bar) * Z
    torch.testing.assert_close(one_step(ddpm, 1000, 999), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "angles", [grid(ZERO_SNR, 1000), grid(ZERO_SNR, 7), uniform(13)], ids=["all", "some", "uniform"]
)
def test_ddim_with_eta_1_is_ddpm(angles):
    left = ddim(GAUSSIAN, NOISE, angles, eta=1.0, generators=generators(range(4)))
    right = ddpm(GAUSSIAN, NOISE, angles, generators=generators(range(4)))
    torch.testing.assert_close(left, right, rtol=0, atol=1e-10)


WITH_PATH = ("churn", "churn, Euler", "euler_maruyama")
ON_PATHS = FIXED_STEP | {f"{name}, flow": functools.partial(STOCHASTIC[name], path=FLOW) for name in WITH_PATH}


@pytest.mark.parametrize("name", ON_PATHS)
def test_a_sample_does_not_depend_on_its_batch(name):
    run = ON_PATHS[name]
    together = run(GAUSSIAN, NOISE, uniform(9), generators=generators(range(4)))
    for i in range(4):
        alone = run(GAUSSIAN, NOISE[i : i + 1], uniform(9), generators=generators([i]))
        torch.testing.assert_close(alone, together[i : i + 1], rtol=0, atol=1e-12)
    other = run(GAUSSIAN, NOISE, uniform(9), generators=generators(range(1, 5)))
    assert torch.equal(together, other) == (name in DETERMINISTIC)


def test_noise_of_a_sample_is_its_generators():
    together = randn((3, 2, 2), generators([5, 6, 7]))
    assert torch.equal(together[1:2], randn((1, 2, 2), generators([6])))
    assert together.dtype == torch.float32
    assert not torch.equal(together[0], together[1])
    with pytest.raises(ValueError, match="2 generators for a batch of 3: give one a sample"):
        randn((3, 2), generators([1, 2]))


@pytest.mark.parametrize("run", STOCHASTIC.values(), ids=STOCHASTIC)
def test_generators_are_needed_where_there_is_noise(run):
    with pytest.raises(ValueError, match="needs `generators`"):
        run(never, NOISE, uniform(3))
    for k in (3, 5):
        with pytest.raises(ValueError, match=f"{k} generators for a batch of 4"):
            run(never, NOISE, uniform(3), generators=generators(range(k)))
    one = [run(GAUSSIAN, NOISE, uniform(3), generators=torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(*one)


NOTHING = {
    ddim: {"eta": [-0.1, 1.5, math.nan]},
    rk2: {"alpha": [0.0, -1.0, 1e-8, 9e-4, math.nan, math.inf]},
    rk45: {"rtol": [0.0, -1e-5, math.nan], "atol": [0.0, -1e-5, math.nan]},
    churn: {
        "S_churn": [-1.0, math.nan, math.inf],
        "S_noise": [-0.5, math.nan, 1e300],  # by which rounding errors grow, too
        "S_tmin": [-1.0, 2.0],
        "S_tmax": [math.nan],
        "order": [3],
    },
    euler_maruyama: {"rate": [-1.0, math.nan, math.inf], "S_tmin": [2.0]},
}
REMEDY = {
    "eta": r"lies in \[0, 1\]", "alpha": "above 0, and .001 at least, to keep digits", 
    "rtol": "must be above 0", "atol": "must be above 0",
    "rate": "give rate >= 0", "order": "2 for Heun steps, 1 for Euler steps",
}  # fmt: skip


@pytest.mark.parametrize(
    ("run", "option", "value"),
    [(run, option, value) for run, options in NOTHING.items() for option in options for value in options[option]],
)
def test_options_that_mean_nothing_are_refused_before_any_evaluation(run, option, value):
    others = {churn: {"S_churn": 1.0, "S_tmax": 1.0}, euler_maruyama: {"S_tmax": 1.0}}.get(run, {})
    message = f"{option} = {re.escape(str(value))}(.|\n)*{REMEDY.get(option, 'S_tmin <= S_tmax')}"
    with pytest.raises(ValueError, match=message):
        with_generators(run)(never, NOISE, uniform(3), generators=G, **others | {option: value})


@pytest.mark.parametrize(
    ("angles", "message"),
    [
        ([], "got 0"),
        ([1.0], "two angles; got 1"),
        ([0.5, 1.0, 0.0], "got 0.5 then 1.0 at step 0"),
        ([1.0, 0.5, 0.5, 0.0], "must fall; got 0.5 then 0.5 at step 1"),
        ([1.0, math.nan, 0.0], "nan"),
        ([math.nan, 0.0], "nan"),
        ([80.0, 1.0, 0.0], r"got 80.0(.|\n)*take their atan"),
        ([math.inf, 1.0, 0.0], "got inf"),
        ([float(torch.tensor(RIGHT)), 0.0], "by rounding: make it float64"),
        ([1.0, 0.5], "append a 0"),
        ([1.0, 0.0, -0.5], "append a 0"),
    ],
)
@pytest.mark.parametrize("name", ALL)
def test_what_is_not_a_grid_is_refused_before_any_evaluation(name, angles, message):
    with pytest.raises(ValueError, match=message):
        ALL[name](never, NOISE, torch.tensor(angles), generators=G)


every_sampler = pytest.mark.parametrize("run", ALL.values(), ids=ALL)


@every_sampler
@pytest.mark.parametrize("bad", [math.nan, math.inf, torch.int64, torch.bool])
def test_noise_that_is_no_noise_is_refused_before_any_evaluation(run, bad):
    noise, number = NOISE.clone(), isinstance(bad, float)
    noise[2, 3] = bad if number else 0
    message = "noise to start from holds NaN or inf" if number else f"noise to start from is {bad}(.|\n)*noise.float"
    with pytest.raises(ValueError, match=message):
        run(never, noise if number else noise.to(bad), uniform(3), generators=G)


WRONG = {"one": lambda v: v[:1], "column": lambda v: v[:, :1], "twice": lambda v: v.repeat(2, 1), "scalar": torch.mean}


@every_sampler
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_an_answer_of_another_shape_is_refused(run, wrong):
    with pytest.raises(ValueError, match=r"an answer of shape \(.*\) to a state of shape \(4, 8\)"):
        run(lambda x, phi: wrong(GAUSSIAN(x, phi)), NOISE, uniform(3), generators=G)


def test_the_drop_in_refuses_it_too():
    scheduler, x = zsnr.ZeroSNRScheduler(prediction_type="v_prediction"), NOISE.view(4, 2, 2, 2)
    scheduler.set_timesteps(3)
    with pytest.raises(ValueError, match=r"an answer of shape \(1, 2, 2, 2\) to a state of shape \(4, 2, 2, 2\)"):
        scheduler.step(x[:1], scheduler.timesteps[0], x)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("when", [0, 2])
@pytest.mark.parametrize("name", ALL)
def test_a_denoiser_that_answers_no_number_is_named_with_its_sampler(name, when, bad):
    calls, message = iter(range(99)), f"NaN or inf (from|in) {name.split(',')[0]}(.|\n)*check weights and dtype"
    with pytest.raises(FloatingPointError, match=message):
        ALL[name](lambda x, phi: x * (bad if next(calls) == when else 1), NOISE, uniform(3), generators=G)


def test_what_overflows_is_named_with_its_dtype():
    with pytest.raises(FloatingPointError, match=r"from dpmpp_2m(.|\n)*float16 ends at 65504"):
        SAMPLERS["dpmpp_2m"](GAUSSIAN, (1e4 * NOISE).half(), geometric(20))


@pytest.mark.parametrize("run", [*ALL.values(), functools.partial(churn, S_churn=1e-15)], ids=[*ALL, "least churn"])
def test_nothing_that_was_passed_in_is_changed(run):
    noise, angles = NOISE.clone(), uniform(5)
    seen = []
    run(GAUSSIAN, noise, angles, generators=G, callback=lambda i, phi, x, v: seen.append((x, x.clone(), v, v.clone())))
    assert torch.equal(noise, NOISE)
    assert torch.equal(angles, uniform(5))
    assert all(torch.equal(x, x_then) and torch.equal(v, v_then) for x, x_then, v, v_then in seen)


@pytest.mark.parametrize("name", [name for name in FIXED_STEP if "churn" not in name])
def test_the_callback_sees_what_each_step_starts_from(name):
    seen = []
    final = FIXED_STEP[name](GAUSSIAN, NOISE, uniform(5), generators=G, callback=lambda *step: seen.append(step))
    assert [i for i, *_ in seen] == [0, 1, 2, 3, 4]
    assert [phi for _, phi, *_ in seen] == uniform(5)[:-1].tolist()
    assert torch.equal(seen[0][2], NOISE)
    for _, phi, x, v in seen:
        assert torch.equal(v, GAUSSIAN(x, phi))
    torch.testing.assert_close(final, math.cos(phi) * x - math.sin(phi) * v, rtol=0, atol=1e-14)


@every_sampler
@pytest.mark.parametrize("angles", [uniform(20), power(20), grid(ZERO_SNR, 20)], ids=["uniform", "power", "trailing"])
def test_float32_noise_stays_float32_and_finite_from_zero_snr(run, angles):
    x = run(GAUSSIAN, NOISE.float(), angles, generators=generators(range(4)))
    assert x.dtype == torch.float32
    assert x.isfinite().all()
    if run not in STOCHASTIC.values():  # whose float32 noise is other noise
        torch.testing.assert_close(x.double(), run(GAUSSIAN, NOISE, angles), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("run", FIXED_STEP.values(), ids=FIXED_STEP)
def test_progress_goes_to_stderr(run, capsys):
    plain = run(GAUSSIAN, NOISE, uniform(5), generators=generators(range(4)))
    assert capsys.readouterr() == ("", "")
    shown = run(GAUSSIAN, NOISE, uniform(5), generators=generators(range(4)), progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "5/5" in err
    assert torch.equal(shown, plain)


@pytest.mark.parametrize("run", [ddim, euler, heun], ids=["ddim", "euler", "heun"])
def test_a_step_costs_little_beside_its_network(run):
    noise, angles, times = torch.zeros(1, 1, 8, 8), uniform(200), []
    for _ in range(5):
        start = time.perf_counter()
        run(lambda x, phi: x, noise, angles)
        times.append(time.perf_counter() - start)
    assert min(times) / 200 < 60e-6
