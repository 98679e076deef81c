"""Flow-matching networks in the angle: against closed forms, and against diffusers' own scheduler."""

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from sampling import seeded
from torch import nn

import zsnr
from zsnr.flow import FlowDenoiser, shift

G, normal = seeded()
MEAN, VARIANCES = normal(6), torch.tensor([0.02, 0.1, 0.5, 1.0, 2.0, 9.0], dtype=torch.float64)
GAUSSIAN, NOISE = zsnr.Gaussian(MEAN, VARIANCES), normal(3, 6)


class Exact(nn.Module):
    """E[eps - x0 | x_t] of the Gaussian, which is linear regression in t alone."""

    def forward(self, x, time):
        t = (time / 1000)[:, None].double()
        slope = (t - (1 - t) * VARIANCES) / ((1 - t) ** 2 * VARIANCES + t**2)
        return slope * (x.double() - (1 - t) * MEAN) - MEAN


def denoiser():
    network = Exact()
    network.register_parameter("weight", nn.Parameter(torch.zeros((), dtype=torch.float64)))
    return FlowDenoiser(network)


@pytest.mark.parametrize("phi", [math.pi / 2, 1.57, 1.2, 0.5, 0.01, 1e-6])
def test_its_v_is_that_of_the_data(phi):
    torch.testing.assert_close(denoiser()(NOISE, phi), GAUSSIAN(NOISE, phi), rtol=1e-6, atol=1e-6)  # time is float32


@pytest.mark.parametrize("run", [zsnr.heun, zsnr.eab, zsnr.ddim])
def test_samplers_run_from_pure_noise(run):
    grid = zsnr.skewed(20)
    torch.testing.assert_close(run(denoiser(), NOISE, grid), run(GAUSSIAN, NOISE, grid), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("k", [1.0, 3.0, 0.5])
def test_euler_on_the_shifted_grid_is_diffusers_loop(k):
    """Equal steps of t from 1, shifted by them and by us."""
    theirs = FlowMatchEulerDiscreteScheduler(shift=k)
    theirs.set_timesteps(sigmas=[1 - i / 8 for i in range(8)])
    x = NOISE.clone()
    for t in theirs.timesteps:
        x = theirs.step(Exact()(x, t.expand(3)), t, x).prev_sample
    t = torch.linspace(1, 0, 9, dtype=torch.float64)
    grid = shift(torch.atan2(t, 1 - t), k)
    assert grid[0] == math.pi / 2
    assert grid[-1] == 0
    torch.testing.assert_close(grid.tan()[1:], (theirs.sigmas / (1 - theirs.sigmas))[1:].double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(zsnr.euler(denoiser(), NOISE, grid, path=zsnr.FLOW), x, rtol=1e-4, atol=1e-5)


def test_the_schedules_shift_is_its_square():
    schedule = zsnr.schedule.stable_diffusion()
    moved = schedule.shifted(9.0).angle
    falling = torch.cat([schedule.angle.flip(0), torch.zeros(1, dtype=torch.float64)])
    torch.testing.assert_close(shift(falling, 3.0)[:-1].flip(0), moved, rtol=1e-12, atol=0)


@pytest.mark.parametrize("k", [0.0, -1.0, math.inf, math.nan])
def test_a_factor_or_a_scale_that_is_none(k):
    with pytest.raises(ValueError, match=f"above 0; got {k}"):
        shift(zsnr.uniform(3), k)
    with pytest.raises(ValueError, match=f"scale = {k}"):
        FlowDenoiser(Exact(), scale=k)
