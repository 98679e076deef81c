"""Where diffusers is right, zsnr agrees with it; where it is not, the disagreement is pinned."""

import math

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
)
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr as rescale_betas

import zsnr
from zsnr import Gaussian, from_scheduler, generators, grid, timesteps
from zsnr.prediction import PREDICTIONS, to_v, to_x0

G = torch.Generator().manual_seed(0)
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
FIXED = SD | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
DDIM = FIXED | {"clip_sample": False, "set_alpha_to_one": True}
SCHEDULES = {
    "linear": (zsnr.schedule.linear(), {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}),
    "cosine": (zsnr.schedule.cosine(), {"beta_schedule": "squaredcos_cap_v2"}),
    "stable_diffusion": (zsnr.schedule.stable_diffusion(), SD),
}
NAMES = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=G, dtype=torch.float64)


ROOT = normal(6, 6)
GAUSSIAN = Gaussian(normal(6), ROOT @ ROOT.T)
NOISE = normal(4, 6)


def peer(scheduler, denoiser, noise: torch.Tensor, N: int, **arguments) -> list[torch.Tensor]:
    """The states that a diffusers scheduler goes through, with a v-prediction network."""
    angle, states, x = from_scheduler(scheduler).angle.tolist(), [], noise
    scheduler.set_timesteps(N)
    for t in scheduler.timesteps.tolist():
        x = scheduler.step(denoiser(x, angle[t]), t, x, **arguments).prev_sample
        states.append(x)
    return states


# agreement


@pytest.mark.parametrize(("schedule", "config"), SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("scheduler", [DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler])
def test_schedules_and_algorithm_1(scheduler, schedule, config):
    same = {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(from_scheduler(scheduler(**config)).sqrt_alpha_bar, schedule.sqrt_alpha_bar, **same)
    rescaled = zsnr.rescale_zero_terminal_snr(schedule)
    theirs = from_scheduler(scheduler(**config, rescale_betas_zero_snr=True))
    torch.testing.assert_close(theirs.sqrt_alpha_bar, rescaled.sqrt_alpha_bar, **same)
    assert theirs.terminal_snr == 0.0
    betas = rescale_betas(schedule.betas)
    torch.testing.assert_close(rescaled.betas, betas, rtol=0, atol=1e-12)
    torch.testing.assert_close(rescaled.betas.float(), rescale_betas(schedule.betas.float()), rtol=0, atol=1e-4)


def test_shap_es_exponential_schedule():
    theirs = HeunDiscreteScheduler(num_train_timesteps=1024, beta_schedule="exp", prediction_type="sample")
    ours = zsnr.ZeroSNRScheduler.from_config(theirs.config).schedule
    torch.testing.assert_close(from_scheduler(theirs).sqrt_alpha_bar, ours.sqrt_alpha_bar, rtol=0, atol=1e-6)
    assert ours.alpha_bar[-1].item() == pytest.approx(math.exp(-12), rel=1e-12)


@pytest.mark.parametrize("scheduler", [EulerDiscreteScheduler, DPMSolverMultistepScheduler])
def test_the_stand_in_for_zero_that_some_schedulers_hold_is_taken_as_zero(scheduler):
    theirs = scheduler(**SD, rescale_betas_zero_snr=True)
    assert from_scheduler(theirs).zero_snr
    assert theirs.alphas_cumprod[-1].item() == 2**-24, "and the scheduler is left as it is"


NO_TABLE, IGNORED = "has no table of alphas_cumprod", r"ignores rescale_betas_zero_snr(.|\n)*Use rescale_zero"


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [(EDMEulerScheduler, NO_TABLE), (FlowMatchEulerDiscreteScheduler, NO_TABLE), (HeunDiscreteScheduler, IGNORED)],
)
def test_no_table_and_a_table_without_the_rescaling_that_the_config_asks_for_are_refused(scheduler, message):
    with pytest.raises(ValueError, match=f"{scheduler.__name__} {message}"):
        from_scheduler(scheduler.from_config(DDIMScheduler(**DDIM).config))


@pytest.mark.parametrize("N", [2, 18, 100])
def test_karras_steps(N):
    theirs = EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, rho=7.0)
    theirs.set_timesteps(N)
    torch.testing.assert_close(zsnr.karras(N).tan().float(), theirs.sigmas, rtol=1e-5, atol=0)


@pytest.mark.parametrize("t", [0, 400, 998, 999])
def test_velocity(t):
    theirs, x0, eps = DDIMScheduler(**DDIM), normal(2, 3), normal(2, 3)
    angle = from_scheduler(theirs).angle[t].item()
    x = theirs.add_noise(x0, eps, torch.tensor([t]))
    velocity = theirs.get_velocity(x0, eps, torch.tensor([t]))
    torch.testing.assert_close(to_v(x0, x, angle, "x0"), velocity, rtol=1e-6, atol=1e-6 if t else 1e-5)


@pytest.mark.parametrize("t", [1, 400, 998, 999])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_image_behind_a_prediction(prediction, t):
    config = DDIM | {"prediction_type": NAMES[prediction], "rescale_betas_zero_snr": prediction != "eps"}
    theirs, x, output = DDIMScheduler(**config), normal(2, 3), normal(2, 3)
    theirs.set_timesteps(1000)
    image = theirs.step(output, t, x).pred_original_sample
    angle = from_scheduler(theirs).angle[t].item()
    torch.testing.assert_close(to_x0(output, x, angle, prediction), image, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("eta", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("N", [1, 2, 5, 10, 50, 250])
def test_ddim_where_the_steps_divide_the_schedule(N, eta):
    theirs = DDIMScheduler(**DDIM)
    angles = grid(from_scheduler(theirs), N)

    def compare(i, phi, x, v):
        torch.testing.assert_close(x, states[i], rtol=0, atol=1e-5)

    states = [NOISE, *peer(theirs, GAUSSIAN, NOISE, N, eta=eta, generator=generators(range(4)))]
    assert len(states) == N + 1
    last = zsnr.ddim(GAUSSIAN, NOISE, angles, eta=eta, generators=generators(range(4)), callback=compare)
    compare(N, 0.0, last, None)


@pytest.mark.parametrize("N", [1, 7, 10, 333])
def test_ddpm(N):
    theirs = DDPMScheduler(**FIXED, clip_sample=False)
    ours = zsnr.ddpm(GAUSSIAN, NOISE, grid(from_scheduler(theirs), N), generators=generators(range(4)))
    other = peer(theirs, GAUSSIAN, NOISE, N, generator=generators(range(4)))[-1]
    torch.testing.assert_close(ours, other, rtol=0, atol=1e-5)


# disagreement


def by_arange(T: int) -> list[int]:
    """The numbers of trailing steps for which diffusers' arithmetic yields another number of steps."""
    return [N for N in range(1, T + 1) if len(np.round(np.arange(T, 0, -T / N))) != N]


def test_trailing_has_a_step_too_many_for_some_numbers():
    assert by_arange(100) == [29, 31, 58, 62, 97]
    assert by_arange(1000)[:5] == [61, 103, 121, 122, 201]
    assert len(by_arange(1000)) == 62
    assert by_arange(1024)[:2] == [49, 98]


@pytest.mark.parametrize("N", [61, 103])
def test_the_step_too_many_takes_all_variance_from_the_result(N):
    """Its index is -1, the table's last entry, and so the result is the mean of the data."""
    theirs = DDIMScheduler(**DDIM)
    theirs.set_timesteps(N)
    assert len(theirs.timesteps) == N + 1
    assert theirs.timesteps[-1] == -1
    last = peer(theirs, GAUSSIAN, NOISE, N)[-1]
    torch.testing.assert_close(last, GAUSSIAN.mean.expand_as(last), rtol=0, atol=1e-6)
    ours = zsnr.ddim(GAUSSIAN, NOISE, grid(from_scheduler(theirs), N))
    torch.testing.assert_close(ours, GAUSSIAN.solve(NOISE, math.pi / 2), rtol=0.1, atol=0.2)


def test_trailing_elsewhere_differs_at_ties_only():
    """T - k T/S is half an integer for some k; float arithmetic misses the tie, and lands one step beside it."""
    wrong, differ = set(by_arange(1000)), 0
    for S in sorted(set(range(1, 1001)) - wrong):
        ours = np.array(timesteps("trailing", S))
        theirs = np.round(np.arange(1000, 0, -1000 / S)).astype(int)[::-1]
        tie = 2 * 1000 * np.arange(1, S + 1) % (2 * S) == S
        assert (ours == theirs)[~tie].all()
        assert (abs(ours - theirs) <= 1).all()
        differ += (ours != theirs).any()
    assert differ == 49


def test_linspace_differs_at_ties_and_for_one_step_only():
    """The paper rounds steps counted from 1, diffusers those counted from 0: half to even is then another one."""
    theirs, differ = DDIMScheduler(timestep_spacing="linspace"), 0
    for S in range(2, 1001):
        theirs.set_timesteps(S)
        off = abs(np.array(timesteps("linspace", S)) - 1 - theirs.timesteps.numpy()[::-1])
        assert (off <= (2 * 999 * np.arange(S) % (2 * (S - 1)) == S - 1)).all(), "elsewhere than at ties"
        differ += off.any()
    assert differ == 449
    theirs.set_timesteps(1)
    assert (theirs.timesteps.tolist(), timesteps("linspace", 1)) == ([0], [1000])


@pytest.mark.parametrize("offset", [0, 1])
def test_leading_is_one_step_later_with_stable_diffusions_offset(offset):
    theirs = DDIMScheduler(timestep_spacing="leading", steps_offset=offset)
    for S in (1, 3, 7, 10, 30, 999):
        theirs.set_timesteps(S)
        assert theirs.timesteps.tolist()[::-1] == [t - 1 + offset for t in timesteps("leading", S)]


@pytest.mark.parametrize(("spacing", "count"), [("trailing", 984), ("linspace", 998), ("leading", 0)])
def test_ddims_previous_step_is_not_the_next_one_visited(spacing, count):
    wrong = []
    for N in range(1, 1001):
        visited = [t - 1 for t in timesteps(spacing, N)][::-1]
        if [max(t - 1000 // N, -1) for t in visited] != [*visited[1:], -1]:
            wrong.append(N)
    assert len(wrong) == count
    assert spacing != "trailing" or all(1000 % N for N in wrong)


def test_ddim_lands_on_the_wrong_level_where_the_steps_do_not_divide_the_schedule():
    """Where all data is one point, every step of DDIM is exact, so the state shows its level."""
    theirs = DDIMScheduler(**DDIM)
    point = Gaussian(torch.ones(6), torch.zeros(6))
    angle = [*from_scheduler(theirs).angle.tolist(), 0.0]
    states = peer(theirs, point, NOISE, 7)
    visited = theirs.timesteps.tolist()
    assert visited == [999, 856, 713, 570, 428, 285, 142]

    def at(t: int) -> torch.Tensor:
        return math.cos(angle[t]) + math.sin(angle[t]) * NOISE

    torch.testing.assert_close(states[0], at(857), rtol=0, atol=1e-5)
    assert (states[0] - at(856)).abs().max() > 1e-4
    assert (states[-1] - 1).abs().max() > 0.01, "it stops at the first level, not at the image"
    ours = []
    ours.append(zsnr.ddim(point, NOISE, grid(from_scheduler(theirs), 7), callback=lambda *at: ours.append(at[2])))
    for t, x in zip([*visited, -1], ours, strict=True):
        torch.testing.assert_close(x, at(t), rtol=0, atol=1e-12)


def test_eps_prediction_at_zero_snr_is_silently_no_number():
    theirs = DDIMScheduler(**DDIM | {"prediction_type": "epsilon"})
    theirs.set_timesteps(10)
    assert not theirs.step(NOISE, 999, NOISE).prev_sample.isfinite().any()


def test_ddim_with_eta_1_at_zero_snr_is_silently_no_number_for_some_numbers_of_steps():
    """Its 1 - alpha_bar_s - sigma^2 is 0, which float32 makes a negative number, and then takes the root."""
    theirs, broken = DDIMScheduler(**DDIM), []
    for N in (N for N in range(1, 1001) if 1000 % N == 0):
        last = peer(theirs, GAUSSIAN, NOISE, N, eta=1.0, generator=generators(range(4)))[-1]
        angles = grid(from_scheduler(theirs), N)
        ours = zsnr.ddim(GAUSSIAN, NOISE, angles, eta=1.0, generators=generators(range(4)))
        assert ours.isfinite().all()
        if last.isfinite().all():
            torch.testing.assert_close(last, ours, rtol=0, atol=5e-3)
        else:
            broken.append(N)
    assert len(broken) >= 3
