"""Other people's networks on EDM's samplers, and EDM's networks in diffusers' pipelines."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, EulerDiscreteScheduler

import zsnr
from lab.models import tiny
from zsnr import NetworkDenoiser, ZeroSNRScheduler
from zsnr.diffusers import denoiser
from zsnr.diffusers.wrap import EDMAsV, schedule_up_to
from zsnr.edm import EDMDenoiser, Preconditioned, column

SIGMA_DATA = 0.5


class Raw(torch.nn.Module):
    """F of a perfect EDM network for pixels ~ N(mean, 1/4) of sigma_data 1/2: F = -mean shifted, in closed form."""

    def __init__(self, mean, std, dtype=torch.float64):
        super().__init__()
        self.mean, self.std = mean, std
        self.weight = torch.nn.Parameter(torch.zeros(1, dtype=dtype))

    def forward(self, x, c_noise, **_):
        s = (4 * c_noise).exp().view(-1, 1, 1, 1)
        c_skip, c_out, c_in, _ = (c.to(x) for c in column("edm", sigma_data=SIGMA_DATA).precondition(s))
        noisy, d2 = x / c_in, self.std**2
        best = (d2 * noisy + s**2 * self.mean) / (d2 + s**2)
        return (best - c_skip * noisy) / c_out


NETWORK = Preconditioned(Raw(0.3, 0.8), column("edm", sigma_data=SIGMA_DATA))
EXACT = zsnr.Gaussian(torch.full((1, 4, 4), 0.3), torch.full((1, 4, 4), 0.64))


def test_v_is_that_of_the_data_at_every_level():
    schedule = schedule_up_to(80.0)
    model = EDMAsV(NETWORK, schedule, channels=1, size=4)
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for step in (0, 1, 500, 700.25, 999):
        got, want = model(x, torch.tensor(step)).sample, EXACT(x, schedule.angle_at(step))
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-9)
    assert model(x, torch.tensor([3, 3]), return_dict=False)[0].shape == x.shape


@pytest.mark.parametrize("theirs", [DDIMScheduler, EulerDiscreteScheduler, ZeroSNRScheduler])
def test_an_edm_network_in_a_diffusers_pipeline_reaches_the_datas_mean_and_std(theirs):
    schedule = schedule_up_to(80.0)
    model = EDMAsV(NETWORK, schedule, channels=1, size=4)
    config = {"trained_betas": schedule.betas.tolist(), "prediction_type": "v_prediction"}
    scheduler = theirs.from_config({**config, "clip_sample": False, "timestep_spacing": "linspace"})
    pipe = tiny.quiet(DDPMPipeline(unet=model, scheduler=scheduler))
    assert pipe.unet.dtype == torch.float64
    scheduler.set_timesteps(200)
    x = noise = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(pipe.unet(scheduler.scale_model_input(x, t), t).sample, t, x).prev_sample
    slope = ((x - x.mean()) * (noise - noise.mean())).mean() / noise.var(correction=0)
    assert slope.item() == pytest.approx(0.8, rel=0.02)
    assert (x.mean() - slope * noise.mean()).item() == pytest.approx(0.3, abs=0.02)
    drawn = pipe(batch_size=1, num_inference_steps=3, output_type="pt").images
    assert torch.isfinite(torch.as_tensor(drawn)).all()


def test_it_samples_as_the_edm_denoiser_does():
    schedule = schedule_up_to(80.0)
    ours = ZeroSNRScheduler(
        trained_betas=schedule.betas.tolist(), prediction_type="v_prediction", solver="heun", levels="karras",
        sigma_min=0.002, sigma_max=79.9,
    )  # fmt: skip
    model, grid = EDMAsV(NETWORK, ours.schedule, 1, 4), zsnr.karras(18, sigma_max=79.9)
    noise = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours.set_timesteps(18)
    x = noise
    for t in ours.timesteps:
        x = ours.step(model(x, t).sample, t, x).prev_sample
    torch.testing.assert_close(x, zsnr.heun(EDMDenoiser(NETWORK), noise, grid), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_a_discrete_time_network_runs_on_rho_steps_and_heun(prediction):
    """Exact at its trained steps only, and between them interpolated: Heun on rho steps reaches the data's std."""
    schedule, seen = zsnr.schedule.stable_diffusion(), set()

    class Trained(torch.nn.Module):
        def forward(self, x, step):
            seen.add(step.dtype)
            phi = schedule.angle_at(step[0].item())
            v = EXACT(x, phi)
            sample = v if prediction == "v" else math.sin(phi) * x + math.cos(phi) * v
            return type("Output", (), {"sample": sample})

    grid = zsnr.karras(40, schedule.sigma[0].item(), schedule.sigma[-1].item()).clamp(max=schedule.angle[-1])
    noise = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def run(**options):
        model = Trained().double()
        model.register_parameter("dtype", torch.nn.Parameter(torch.zeros(1, dtype=torch.float64)))
        return zsnr.heun(NetworkDenoiser(model, schedule, prediction, **options), noise, grid)

    whole = run(whole_steps=True)
    assert seen == {torch.int64}, "as a network with a table of its steps needs them"
    assert (run() - EXACT.solve(noise, grid[0].item())).abs().max() < 2e-3
    # the nearest step is a little beside the level
    assert 1e-6 < (whole - run()).abs().max() < 3e-2


@pytest.mark.parametrize(
    ("change", "message"),
    [({"timestep_type": "continuous"}, "EDMDenoiser"), ({"use_flow_sigmas": True}, "this is flow matching")],
)
def test_a_network_that_takes_no_steps_is_not_run_by_a_schedules(change, message):
    theirs = EulerDiscreteScheduler()
    theirs.register_to_config(**change)
    with pytest.raises(ValueError, match=message):
        denoiser(torch.nn.Identity(), theirs)


def test_beyond_sigma_max_is_refused():
    with pytest.raises(ValueError, match=r"sigma_max = 113\.137: take wrap\.schedule_up_to"):
        EDMAsV(NETWORK, schedule_up_to(200.0))
    with pytest.raises(ValueError, match="zero SNR needs a model trained there"):
        EDMAsV(NETWORK, zsnr.rescale_zero_terminal_snr(zsnr.schedule.stable_diffusion()))
    with pytest.raises(ValueError, match="0 < sigma_min < sigma_max"):
        schedule_up_to(math.inf)
    with pytest.raises(ValueError, match="one noise level for the whole batch"):
        EDMAsV(NETWORK, schedule_up_to(80.0))(torch.randn(2, 1, 4, 4), torch.tensor([1, 2]))
