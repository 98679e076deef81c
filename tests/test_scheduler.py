"""The drop-in scheduler inside real diffusers pipelines, against the package's own samplers and exact Gaussian data."""

import copy
import functools
import json
import math
import subprocess
import sys

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from diffusers.schedulers.scheduling_utils import AysSchedules
from sampling import with_generators

import zsnr
from lab.models import tiny
from zsnr import NetworkDenoiser, ZeroSNRScheduler, rows, samplers
from zsnr.audit import audit
from zsnr.diffusers import scheduler
from zsnr.diffusers.config import say_once
from zsnr.diffusers.wrap import VModel
from zsnr.path import PATHS

ZERO = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
CLOSE = {"rtol": 0, "atol": 1e-5}
SOLVERS = {
    "ddim": ({"solver": "ddim"}, zsnr.ddim),
    "euler": ({"solver": "euler"}, zsnr.euler),
    "heun": ({"solver": "heun"}, zsnr.heun),
    "heun, flow": ({"solver": "heun", "path": "flow"}, functools.partial(zsnr.heun, path=PATHS["flow"])),
    "midpoint": ({"solver": "rk2", "alpha": 0.5}, functools.partial(zsnr.rk2, alpha=0.5)),
    "eab": ({"solver": "eab"}, zsnr.eab),
    "alpha 1.1": ({"solver": "rk2", "alpha": 1.1}, functools.partial(zsnr.rk2, alpha=1.1)),
    "churn": (
        {"solver": "heun", "S_churn": 3.0, "S_tmin": 0.05, "S_tmax": 50.0, "S_noise": 1.01},
        functools.partial(zsnr.churn, S_churn=3.0, S_tmin=0.05, S_tmax=50.0, S_noise=1.01),
    ),
    "churn, Euler": ({"solver": "euler", "S_churn": 3.0}, functools.partial(zsnr.churn, S_churn=3.0, order=1)),
}


def grids(schedule, N):
    """Every rule for choosing N levels, as the config says it and as the package does."""
    karras = zsnr.karras(N - 1, schedule.sigma[0].item(), 80.0)
    yield {}, zsnr.grid(schedule, N)
    yield {"timestep_spacing": "linspace"}, zsnr.grid(schedule, N, "linspace")
    yield {"levels": "power"}, zsnr.power(N)
    yield {"levels": "skewed"}, zsnr.skewed(N)
    yield {"levels": "uniform"}, zsnr.uniform(N)
    yield {"levels": "geometric"}, zsnr.geometric(N)
    yield {"use_karras_sigmas": True}, torch.cat([schedule.angle[-1:], karras])


@functools.cache
def pipeline(kind="sd", **config):
    build = {"sd": tiny.stable_diffusion, "xl": tiny.stable_diffusion_xl, "unconditional": tiny.unconditional}[kind]
    pipe = tiny.quiet(build())
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, **config)
    return pipe


def generators(n):
    return [torch.Generator().manual_seed(k) for k in range(n)]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def drop_in(**changes):
    """On Stable Diffusion's schedule, with zero SNR."""
    return ZeroSNRScheduler.from_config(tiny.STABLE_DIFFUSION_1 | ZERO, **changes)


def swap(pipe, **changes):
    """The same pipeline with the drop-in."""
    ours = ZeroSNRScheduler.from_config(pipe.scheduler.config, **changes)
    return tiny.quiet(type(pipe).from_pipe(pipe, scheduler=ours))


# equal to the package's own samplers, for the same noise


@pytest.mark.parametrize("config", [ZERO, ZERO | {"prediction_type": "sample"}], ids=["v", "x0"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_and_grid_in_an_unconditional_pipeline(solver, config):
    options, sampler = SOLVERS[solver]
    pipe = pipeline("unconditional", **config)
    for changes, grid in grids(swap(pipe).scheduler.schedule, 7):
        ours = swap(pipe, **options, **changes)
        seeds = torch.Generator().manual_seed(5)
        got = ours(batch_size=2, num_inference_steps=7, generator=seeds, output_type="np").images
        seeds = torch.Generator().manual_seed(5)
        noise = torch.randn(2, 3, 16, 16, generator=seeds)
        denoiser = NetworkDenoiser(ours.unet, ours.scheduler.schedule, ours.scheduler.prediction)
        want = (with_generators(sampler)(denoiser, noise, grid, generators=seeds) / 2 + 0.5).clamp(0, 1)
        torch.testing.assert_close(torch.as_tensor(got).permute(0, 3, 1, 2), want, **CLOSE)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("solver", ["ddim", "heun", "midpoint", "eab", "churn"])
def test_a_schedule_that_ends_at_a_finite_level(solver, prediction):
    options, sampler = SOLVERS[solver]
    if "S_churn" in options:  # no churn at the first level: there it is equal in law only
        options = options | {"S_tmax": 5.0}
        sampler = functools.partial(sampler, S_tmax=5.0)
    # eps is divided by cos(phi) = .07 at the start, and the images are up to 30 large: in double nothing hides in that
    pipe = pipeline("unconditional", prediction_type=prediction)
    unet, schedule = copy.deepcopy(pipe.unet).double(), swap(pipe).scheduler.schedule
    for changes, grid in (
        ({"timestep_spacing": "leading"}, zsnr.grid(schedule, 7, "leading")),
        ({"levels": "power"}, zsnr.power(7, phi_max=schedule.angle[-1].item())),
        ({"levels": "karras"}, zsnr.karras(7, schedule.sigma[0].item(), schedule.sigma[-1].item())),
    ):
        ours = swap(pipe, **options, **changes).scheduler
        denoiser = NetworkDenoiser(unet, ours.schedule, ours.prediction)
        noise = normal(2, 3, 16, 16, seed=1).double()
        got = loop(ours, unet, noise, 7, generators(2))
        want = with_generators(sampler)(denoiser, noise, grid.clamp(max=schedule.angle[-1]), generators=generators(2))
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def loop(ours, network, x, N=None, generator=None, sigmas=None, **options):
    """The calls of a pipeline, and nothing else."""
    ours.set_timesteps(**({"sigmas": sigmas} if sigmas else {"num_inference_steps": N}))
    options |= {"generator": generator} if generator else {}
    with torch.no_grad():
        for t in ours.timesteps:
            x = ours.step(network(ours.scale_model_input(x, t), t).sample, t, x, **options).prev_sample
    return x


@pytest.mark.parametrize("kind", ["sd", "xl"])
@pytest.mark.parametrize("solver", ["ddim", "heun", "eab", "churn"])
def test_text_to_image_with_guidance_and_its_rescaling(kind, solver):
    options, sampler = SOLVERS[solver]
    pipe = swap(pipeline(kind, **ZERO), **options, levels="power")
    noise = normal(2, 4, 16, 16, seed=2)
    said = ["a black square", "white"]
    got = pipe(
        said, num_inference_steps=6, guidance_scale=7.5, guidance_rescale=0.7, latents=noise, height=32, width=32,
        output_type="latent", generator=generators(2),
    ).images  # fmt: skip
    if kind == "sd":
        conditions = [{"encoder_hidden_states": e} for e in pipe.encode_prompt(said, "cpu", 1, True)]
    else:
        pos, neg, pooled, no_pooled = pipe.encode_prompt(said, device="cpu", num_images_per_prompt=1)
        ids = torch.tensor([[32.0, 32, 0, 0, 32, 32]] * 2)
        conditions = [
            {"encoder_hidden_states": e, "added_cond_kwargs": {"text_embeds": p, "time_ids": ids}}
            for e, p in ((pos, pooled), (neg, no_pooled))
        ]
    both = [NetworkDenoiser(pipe.unet, pipe.scheduler.schedule, "v", **c) for c in conditions]
    want = with_generators(sampler)(zsnr.guided(*both, 7.5, 0.7), noise, zsnr.power(6), generators=generators(2))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("solver", ["ddim", "heun", "alpha 1.1", "eab", "churn"])
def test_image_to_image_starts_in_the_middle_at_the_level_it_should(solver):
    options, sampler = SOLVERS[solver]
    pipe = StableDiffusionImg2ImgPipeline.from_pipe(swap(pipeline("sd", **ZERO), **options))
    latents = normal(1, 4, 16, 16, seed=3)
    seeds = torch.Generator().manual_seed(4)
    got = tiny.quiet(pipe)(
        "a", image=latents, strength=0.5, num_inference_steps=8, guidance_scale=1.0, output_type="latent",
        generator=seeds,
    ).images  # fmt: skip
    seeds = torch.Generator().manual_seed(4)
    noise = torch.randn(1, 4, 16, 16, generator=seeds)
    encoded = pipe.encode_prompt("a", "cpu", 1, False)[0]
    ours = pipe.scheduler
    denoiser = NetworkDenoiser(pipe.unet, ours.schedule, "v", encoder_hidden_states=encoded)
    grid = zsnr.grid(ours.schedule, 8)[4:]
    if solver != "churn":
        start = math.cos(grid[0]) * latents + math.sin(grid[0]) * noise
        want = sampler(denoiser, start, grid)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    else:  # the picture is noised at the raised level: one with Algorithm 2 in law
        assert torch.isfinite(got).all()
        top = samplers.raised(grid[0].item(), samplers.gamma(grid[0].item(), 8, 3.0, 0.05, 50.0))
        noised = ours.add_noise(latents, noise, ours.timesteps[8:9])
        torch.testing.assert_close(noised, math.cos(top) * latents + math.sin(top) * noise, **CLOSE)


@pytest.mark.parametrize("solver", SOLVERS)
def test_inpainting_keeps_what_is_not_masked(solver):
    pipe = StableDiffusionInpaintPipeline.from_pipe(swap(pipeline("sd", **ZERO), **SOLVERS[solver][0]))
    picture, nothing = torch.rand(1, 3, 32, 32), torch.zeros(1, 1, 32, 32)
    right = torch.cat([nothing[..., :16], nothing[..., 16:] + 1], -1)
    kept, painted, all_painted = (
        tiny.quiet(pipe)(
            "a", image=picture, mask_image=mask, num_inference_steps=5, height=32, width=32, strength=0.8,
            output_type="latent", generator=torch.Generator().manual_seed(0),
        ).images
        for mask in (nothing, right, nothing + 1)
    )  # fmt: skip
    torch.testing.assert_close(painted[..., :8], kept[..., :8], **CLOSE)
    assert (painted[..., 8:] - kept[..., 8:]).abs().max() > 1e-2
    assert torch.isfinite(all_painted).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_control_net(solver):
    pipe = swap(pipeline("sd", **ZERO), **SOLVERS[solver][0])
    control = StableDiffusionControlNetPipeline.from_pipe(pipe, controlnet=tiny.control_net(pipe))
    arguments = {"num_inference_steps": 4, "height": 32, "width": 32, "output_type": "latent"}
    noise = normal(1, 4, 16, 16, seed=2)
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    got = tiny.quiet(control)("a", image=picture, latents=noise, generator=generators(1), **arguments).images
    # a new ControlNet's outputs are zero: what the pipeline gives without it
    want = pipe("a", latents=noise, generator=generators(1), **arguments).images
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


# equal to diffusers, where it is right


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize(("config", "prediction"), [(ZERO, "v_prediction"), (ZERO, "sample"), ({}, "epsilon")])
def test_ddim_is_matched_where_the_steps_divide_T(config, prediction, eta, clip):
    config = config | {"prediction_type": prediction, "set_alpha_to_one": True, "clip_sample": clip}
    if eta and config.get("rescale_betas_zero_snr"):
        config = config | {"rescale_betas_zero_snr": False}  # there diffusers divides zero by zero
    pipe = pipeline("unconditional", **config)
    theirs = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    ours = ZeroSNRScheduler.from_config(theirs.config)
    assert ours.config.clip_sample == clip
    # by default, the eps of theirs is not the clipped x0's
    x, g = normal(2, 3, 16, 16), torch.Generator().manual_seed(1)
    want = loop(theirs, pipe.unet, x, 10, g, eta=eta, use_clipped_model_output=clip)
    got = loop(ours, pipe.unet, x, 10, torch.Generator().manual_seed(1), eta=eta)
    assert theirs.timesteps.tolist() == ours.timesteps.tolist()
    # theirs is float32 from the betas on
    torch.testing.assert_close(got, want, rtol=0 if clip else 2e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("theirs", "changes"),
    [(EulerDiscreteScheduler, {"solver": "ddim"}), (HeunDiscreteScheduler, {"solver": "heun", "path": "EDM"})],
)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("karras", [False, True])
def test_euler_and_heun_are_matched_in_sigma(theirs, changes, prediction, karras):
    pipe = pipeline("unconditional", prediction_type=prediction)
    theirs = theirs.from_config(pipe.scheduler.config, timestep_spacing="linspace", use_karras_sigmas=karras)
    theirs.set_timesteps(10)  # 999 / 9 is whole: no level between two steps, where theirs is linear in sigma
    ours = ZeroSNRScheduler.from_config(theirs.config, **changes)
    # their float32 top is above the table's by rounding
    levels = theirs.sigmas.unique().flip(0).double().clamp(max=ours.schedule.sigma[-1].item()).tolist()
    noise = normal(2, 3, 16, 16).double()
    top = math.atan(theirs.sigmas[0])

    def network(x, t):  # takes any level, whatever the step's rounding
        return type("Output", (), {"sample": torch.tanh(x)})

    want = loop(theirs, network, noise * math.tan(top), 10)
    got = loop(ours, network, noise * math.sin(top), sigmas=levels)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)  # their sigmas are float32


# what pipelines rely on


def cases():
    for options, _ in SOLVERS.values():
        for changes in ({}, {"levels": "power"}, {"levels": "geometric"}, {"levels": "karras", "sigma_min": 0.002}):
            yield options | changes


@pytest.mark.parametrize("options", cases(), ids=str)
@pytest.mark.parametrize("N", [1, 2, 3, 25, 61, 100])
def test_each_published_timestep_has_the_level_of_its_call(options, N):
    ours = drop_in(**options)
    ours.set_timesteps(N)
    second = sum(call.stage for call in ours._calls)
    assert len(ours.timesteps) == len(ours._calls) == N + second
    assert second == (N - 1 if ours.order == 2 else 0)
    one, none = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for t, call in zip(ours.timesteps, ours._calls, strict=True):
        reached = torch.atan2(ours.add_noise(none, one, t[None]), ours.add_noise(one, none, t[None])).item()
        assert reached == pytest.approx(call.phi, rel=2e-6)
        assert -1e-6 < t <= 999
        if call.phi == math.pi / 2:
            assert ours.add_noise(one, none, t[None]).item() == 0.0
    for k in range(N):  # step k begins at call order * k
        assert ours._calls[ours.order * k].stage == 0
    assert ours.init_noise_sigma == 1.0


def test_a_step_that_alpha_would_carry_beyond_the_image_is_eulers_and_still_takes_two_calls():
    pipe = pipeline("unconditional", **ZERO)
    ours = swap(pipe, solver="rk2", alpha=1.5).scheduler
    levels = [math.inf, 2.0, 0.3, 0.1]
    angles = [math.atan(s) for s in levels]
    ours.set_timesteps(sigmas=levels)
    assert [call.stage for call in ours._calls] == [0, 1, 0, 1, 0, 1, 0]
    assert ours._calls[3][1:6] == (1, 0, 0, 0, 0), "changes nothing"
    assert [ours._calls[k].phi for k in (0, 2, 3, 4, 6)] == [*angles[:2], angles[2], *angles[2:]]
    noise = normal(2, 3, 16, 16)
    denoiser, grid = NetworkDenoiser(pipe.unet, ours.schedule, "v"), torch.tensor([*angles, 0.0], dtype=torch.float64)
    got = loop(ours, pipe.unet, noise, sigmas=levels)
    torch.testing.assert_close(got, zsnr.rk2(denoiser, noise, grid, alpha=1.5), **CLOSE)


@pytest.mark.parametrize("solver", SOLVERS)
def test_noise_as_it_was_trained_is_what_add_noise_and_get_velocity_give(solver):
    ours = drop_in(**SOLVERS[solver][0])
    theirs = DDIMScheduler.from_config(tiny.STABLE_DIFFUSION_1 | ZERO)
    x0, eps = normal(2, 3, 4, 8, 8)
    t = torch.tensor([0, 500, 999])
    torch.testing.assert_close(ours.add_noise(x0, eps, t), theirs.add_noise(x0, eps, t), rtol=0, atol=1e-4)
    torch.testing.assert_close(ours.get_velocity(x0, eps, t), theirs.get_velocity(x0, eps, t), rtol=0, atol=1e-4)
    assert torch.equal(ours.add_noise(x0, eps, t)[2], eps[2])
    assert torch.equal(ours.get_velocity(x0, eps, t)[2], -x0[2])


def test_sampling_can_begin_at_any_step_with_or_without_an_index():
    pipe = pipeline("unconditional", **ZERO)
    ours = swap(pipe, solver="heun").scheduler
    noise = normal(1, 3, 16, 16)
    denoiser = NetworkDenoiser(pipe.unet, ours.schedule, "v")
    for k in range(6):
        want = zsnr.heun(denoiser, noise, zsnr.grid(ours.schedule, 6)[k:])
        for told in (True, False):
            ours.set_timesteps(6)
            if told:
                ours.set_begin_index(2 * k)
            x = noise
            with torch.no_grad():
                for t in ours.timesteps[2 * k :]:
                    x = ours.step(pipe.unet(x, t).sample, t, x).prev_sample
            torch.testing.assert_close(x, want, **CLOSE)
            assert ours.step_index == 11
    ours.set_timesteps(6)
    ours.set_begin_index(3)
    with pytest.raises(ValueError, match="second half of a step"):
        ours.step(noise, ours.timesteps[3], noise)


@pytest.mark.parametrize("solver", ["ddim", "euler"])
def test_solvers_of_one_call_go_where_the_timestep_says(solver):
    ours, (x, v) = drop_in(solver=solver), normal(2, 1, 4, 8, 8)
    every = ours.step(v, 500, x).prev_sample  # before set_timesteps(): of all trained steps
    first, second = ours.timesteps[499:501]
    assert (first, second) == (500, 499)
    ours.set_timesteps(timesteps=[500, 499])
    torch.testing.assert_close(every, ours.step(v, 500, x).prev_sample)
    ours.set_timesteps(10)
    told = [ours.step(v, t, x).prev_sample for t in ours.timesteps]
    for k in (0, 0, 9, 3, 9):  # a second sampling, or a jump back, whatever the counter says
        assert torch.equal(ours.step(v, ours.timesteps[k], x).prev_sample, told[k])
    between = ours.step(v, 650.5, x).prev_sample, ours.step(v, 20, x).prev_sample
    ours.set_timesteps(timesteps=[650.5, 599, 20])
    assert torch.equal(between[0], ours.step(v, 650.5, x).prev_sample)
    torch.testing.assert_close(between[1], ours.step(v, 20, x).prev_sample)


def test_the_two_calls_of_a_step_belong_together_and_a_reset_counter_begins_anew(caplog):
    ours, (x, v) = drop_in(solver="rk2", alpha=0.5), normal(2, 1, 4, 8, 8)
    ours.set_timesteps(5)
    told = [ours.step(v, t, x).prev_sample for t in ours.timesteps]
    with pytest.raises(ValueError, match=r"timestep 999, but all steps are done.*one scheduler a thread"):
        ours.step(v, 999, x)
    for _ in range(2):
        ours._step_index = None
        assert torch.equal(ours.step(v, ours.timesteps[2], x).prev_sample, told[2])
        with pytest.raises(ValueError, match=f"timestep {ours.timesteps[2]:g}, but {ours.timesteps[3]:g} is due.*ddim"):
            ours.step(v, ours.timesteps[2], x)
    ours._step_index = 5
    with pytest.raises(ValueError, match="second half of a step"):
        ours.step(v, ours.timesteps[5], x)
    ours._step_index = 3
    assert torch.equal(ours.step(v, ours.timesteps[3], x).prev_sample, told[3])
    ours.set_timesteps(5)
    assert not caplog.text, "the last step was whole"
    ours.step(v, 999, x)
    ours.set_timesteps(5)
    assert "stopped between the two calls of a step" in caplog.text


def test_where_a_strength_begins_is_said_where_calls_are_not_even_in_the_timestep(caplog):
    ours = drop_in(solver="heun")
    ours.set_timesteps(10)
    ours.set_begin_index(10)
    assert not caplog.text
    ours.set_timesteps(timesteps=AysSchedules["StableDiffusionTimesteps"])
    ours.set_begin_index(16)  # of 19 calls, strength .6 as a pipeline counts
    assert "sampling begins at timestep 124, sigma = 0.41" in caplog.text
    ours = drop_in(levels="power")
    ours.set_timesteps(10)
    ours.set_begin_index(5)
    assert "sampling begins at timestep 336.762, sigma = 1:" in caplog.text


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_calls_are_the_samplers_rows(solver):
    ours = drop_in(**SOLVERS[solver][0])
    sampler, levels = functools.partial(SOLVERS[solver][1]), [20.0, 5.0, 0.5, 0.1]
    for given, grid in (
        ({"num_inference_steps": 7}, zsnr.grid(ours.schedule, 7).tolist()),
        ({"sigmas": levels}, [*map(math.atan, levels), 0.0]),
    ):
        ours.set_timesteps(**given)
        want = list(sampler.func.rows(grid, **sampler.keywords))
        first = want.pop(0) if want[0].stage < 0 else rows.Row(grid[0], 1.0, 0.0)
        assert ours._calls == want
        assert ours.init_noise_sigma.item() == pytest.approx(math.hypot(first.a, first.e), rel=1e-7)


def test_levels_of_ones_own():
    ours = drop_in()
    ours.set_timesteps(sigmas=[math.inf, 5.0, 0.5, 0.01, 0.0])
    assert [call.phi for call in ours._calls] == [math.pi / 2, math.atan(5), math.atan(0.5), math.atan(0.01)]
    ours.set_timesteps(timesteps=[999, 700.5, 20])
    assert ours.timesteps.tolist() == [999, 700.5, 20]
    ours.set_timesteps(timesteps=[999, 700, 20])
    assert ours.timesteps.dtype == torch.int64
    assert ours.num_inference_steps == 3
    ZeroSNRScheduler.from_config(tiny.STABLE_DIFFUSION_1, S_churn=99.0, S_tmax=10.33).set_timesteps(100)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_states_type_is_kept(dtype):
    ours = drop_in(solver="heun")
    x = torch.randn(1, 4, 8, 8).to(dtype)
    ours.set_timesteps(5)
    for t in ours.timesteps:
        x, x0 = ours.step(torch.randn(1, 4, 8, 8).to(dtype), t, x, return_dict=False)
        assert x.dtype == x0.dtype == dtype
        assert torch.isfinite(x).all()
    with pytest.raises(ValueError, match="all steps are done"):
        ours.step(x, 0, x)


@pytest.mark.parametrize(
    "options",
    [{}, {"solver": "heun", "path": "flow"}, {"solver": "heun"}, {"levels": "karras"}, {"solver": "eab"}],
)
def test_the_audit_finds_nothing_to_mend(options):
    ours = drop_in(**options)
    report = audit(ours, counts=[1, 2, 3, 7, 29, 61, 100, 121, 501, 1000])
    assert report.ok, report
    # off the angle, a step is exact where x0 and eps do not change; on it, Heun's has an error that the audit calls so
    assert bool([one for one in report.findings if one.name == "solver error"]) == (options == {"solver": "heun"})


def test_every_compatible_scheduler_can_be_swapped_and_swapped_back():
    names = [name for name in ZeroSNRScheduler._compatibles if name != "DPMSolverSDEScheduler"]  # wants torchsde
    assert len(names) > 10
    config = tiny.STABLE_DIFFUSION_1 | {"prediction_type": "v_prediction"}
    for name in names:
        theirs = getattr(diffusers, name).from_config(config)
        ours = ZeroSNRScheduler.from_config(theirs.config)
        assert ours.config.beta_schedule == "scaled_linear"
        assert ours.config.prediction_type == theirs.config.get("prediction_type", "epsilon")
        assert getattr(diffusers, name) in ours.compatibles
        back = type(theirs).from_config(ours.config)
        if name != "EDMEulerScheduler":  # which has none
            torch.testing.assert_close(back.betas, theirs.betas)


BETAS = zsnr.schedule.cosine().betas.tolist()
OVER = {"trained_betas": BETAS, "prediction_type": "v_prediction"}


@pytest.mark.parametrize(
    ("theirs", "config"),
    [
        (diffusers.HeunDiscreteScheduler(), {}),
        (diffusers.LCMScheduler(), {}),
        *[
            (
                diffusers.CogVideoXDDIMScheduler(
                    snr_shift_scale=k, rescale_betas_zero_snr=zero, prediction_type="sample"
                ),
                {},
            )
            for k in (3.0, 4.0)
            for zero in (False, True)
        ],
        (DDIMScheduler(**OVER), {**DDIMScheduler().config, **OVER}),
        (DDIMScheduler(**ZERO), {**DDIMScheduler().config, **ZERO}),
        (
            diffusers.CogVideoXDDIMScheduler(),
            {"_class_name": "CogVideoXDDIMScheduler", "beta_schedule": "scaled_linear"},
        ),
    ],
)
def test_what_a_config_says_of_the_model_is_kept(theirs, config):
    """Defaults of its class and what was written over a live config, too; diffusers' own from_config drops both."""
    ours = ZeroSNRScheduler.from_config(config or theirs.config)
    torch.testing.assert_close(ours.alphas_cumprod, theirs.alphas_cumprod.float(), rtol=0, atol=1e-6)
    assert ours.config.prediction_type == theirs.config.prediction_type
    torch.testing.assert_close(ours.alphas, 1 - ours.betas)
    assert not hasattr(ours, "sigmas"), "the state is x_phi: pipelines would scale it"


def test_a_pipeline_is_saved_and_loaded_with_it(tmp_path):
    pipe = swap(pipeline("sd", **ZERO), solver="rk2", alpha=0.5, levels="power", S_churn=2.0, S_tmax=math.inf)
    pipe.save_pretrained(tmp_path)
    again = StableDiffusionPipeline.from_pretrained(tmp_path)
    assert isinstance(again.scheduler, ZeroSNRScheduler)
    assert {k: v for k, v in again.scheduler.config.items() if k[0] != "_"} == {
        k: v for k, v in pipe.scheduler.config.items() if k[0] != "_"
    }
    noise = normal(1, 4, 16, 16)
    arguments = {"num_inference_steps": 3, "latents": noise, "output_type": "latent", "height": 32, "width": 32}
    one, two = (tiny.quiet(p)("a", generator=generators(1), **arguments).images for p in (pipe, again))
    assert torch.equal(one, two)
    loaded = ZeroSNRScheduler.from_pretrained(tmp_path, subfolder="scheduler", solver="ddim")
    assert loaded.config.solver == "ddim"
    saved = (tmp_path / "scheduler/scheduler_config.json").read_text()
    assert json.loads(saved, parse_constant=pytest.fail)["S_tmax"] is None, "JSON has no Infinity"
    within = "import zsnr; config = d.DiffusionPipeline.from_pretrained(sys.argv[1]).scheduler.config"
    without = "config = d.DDIMScheduler.from_pretrained(sys.argv[1] + '/scheduler').config"
    for config in (within, without):
        code = f"import sys, diffusers as d; {config}; print(config['solver'])"
        done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
        assert done.stdout == "rk2\n", done.stderr
    betas = zsnr.rescale_zero_terminal_snr(zsnr.schedule.cosine()).betas.numpy()
    ZeroSNRScheduler(trained_betas=betas, prediction_type="v_prediction").save_pretrained(tmp_path / "betas")
    assert ZeroSNRScheduler.from_pretrained(tmp_path / "betas").schedule.zero_snr


# what is refused

FINITE = {"rescale_betas_zero_snr": False}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction_type": "epsilon"}, "finding 11.*fine-tune it to v-prediction"),
        (
            {"prediction_type": "flow_prediction"},
            "unknown prediction_type 'flow_prediction': this is flow matching.*keep",
        ),
        ({"use_flow_sigmas": True}, "this is flow matching.*keep its own scheduler"),
        ({"timestep_type": "continuous", "levels": "power"}, "takes ln.* in place of steps.*EDMAsV"),
        ({"sigma_data": 0.5, "prediction_type": "epsilon", "levels": "power"}, "is preconditioned.*EDMAsV"),
        (FINITE | {"use_karras_sigmas": True, "sigma_max": 700.0}, r"sigma_max = 700 is above .* 14\.6146: pass None"),
        (FINITE | {"levels": "geometric"}, "geometric levels start at zero SNR"),
        ({"trained_betas": [0.9] * 20 + [1 - 1e-16] * 2}, "step 21.*alpha_bar underflows"),
        ({"trained_betas": [0.0, 0.1]}, "step 0, .* its beta is 0"),
        ({"clip_sample": True, "clip_sample_range": math.nan}, "clip_sample_range = nan"),
        ({"snr_shift_scale": 0.0}, "a finite number above 0; got 0"),
        ({"solver": "unipc"}, "unknown solver 'unipc'; choose one of ddim"),
        ({"levels": "exponential"}, "unknown levels"),
        ({"path": "sigma"}, "unknown path"),
        ({"timestep_spacing": "even"}, "unknown timestep_spacing"),
        ({"beta_schedule": "laplace"}, "unknown beta_schedule 'laplace'.*trained_betas"),
        ({"alpha": 0.0}, "alpha = 0.0"),
        ({"alpha": 1e-8}, "alpha = 1e-08.*001 at least"),  # as the sampler
        ({"S_churn": -1.0}, "S_churn = -1.0"),
        ({"S_churn": 3.0, "solver": "eab"}, "S_churn = 3.0: eab .* take heun, or S_churn=0"),
        ({"S_churn": None}, "S_churn = None: give a number"),
        ({"beta_end": 10**400}, "beta_end = 10+.*: give a number"),
        ({"alpha": "1"}, "alpha = '1': give a number"),
        ({"num_train_timesteps": 10.5}, r"num_train_timesteps = 10\.5: give a whole number"),
        ({"num_train_timesteps": 10**9}, "num_train_timesteps = 1000000000: give .* to a million"),
        ({"rescale_betas_zero_snr": "False"}, "rescale_betas_zero_snr = 'False': give true or false"),
        ({"prediction_type": ["epsilon"]}, "prediction_type = .*: give a name"),
        *(({"trained_betas": odd}, "trained_betas = .*: give a list") for odd in (0, "", "x", [], ["x"], [[0.1]])),
        ({"trained_betas": [0.1, 2.0]}, "betas must lie in"),
    ],
)
def test_bad_configs_are_refused_with_a_remedy(change, message):
    with pytest.raises(ValueError, match=message):
        ZeroSNRScheduler.from_config(tiny.STABLE_DIFFUSION_1 | ZERO | change)


@pytest.mark.parametrize("theirs", [EDMEulerScheduler, FlowMatchEulerDiscreteScheduler])
def test_configs_without_betas_are_refused(theirs):
    with pytest.raises(ValueError, match=r"config has no beta_schedule.*EDMAsV"):
        ZeroSNRScheduler.from_config(theirs().config)


@pytest.mark.parametrize(
    ("config", "given", "message"),
    [
        ({}, {}, "one of num_inference_steps, timesteps and sigmas"),
        ({}, {"num_inference_steps": 0}, "num_inference_steps"),
        ({}, {"num_inference_steps": 2.5}, "num_inference_steps"),
        ({}, {"num_inference_steps": 1001}, "1001 sampling steps"),
        ({}, {"timesteps": [20, 700]}, "must fall"),
        ({}, {"timesteps": [1000, 700]}, "counted from 0 to 999"),
        (FINITE, {"sigmas": [80.0, 1.0]}, "above the last trained step"),
        (FINITE | {"S_churn": 10.0}, {"num_inference_steps": 10}, r"to sigma = 20\.6.*set S_tmax to 10\.33 at most"),
        # the first level is left as it is, and the second would be raised above it
        (FINITE | {"S_churn": 99.0, "S_tmax": 14.0}, {"num_inference_steps": 100}, "churn raises a level"),
    ],
)
def test_bad_levels_are_refused(config, given, message):
    with pytest.raises(ValueError, match=message):
        drop_in(**config).set_timesteps(**given)


def test_bad_calls_are_refused():
    ours, x = drop_in(solver="heun"), torch.zeros(1, 4, 8, 8)
    with pytest.raises(ValueError, match="set_timesteps"):
        ours.step(x, 999, x)
    ours.set_timesteps(5)
    with pytest.raises(ValueError, match=r"timestep 3\.0 is not one of"):
        ours.step(x, 3, x)
    with pytest.raises(ValueError, match="eta is DDIM's"):
        ours.step(x, 999, x, eta=0.5)
    churned = drop_in(S_churn=3.0)
    churned.set_timesteps(5)
    with pytest.raises(ValueError, match=r"timestep 3\.0 is not one of"):
        churned.step(x, 3, x)


def test_leading_steps_are_replaced_aloud_on_a_zero_snr_schedule(caplog, tmp_path):
    config = tiny.STABLE_DIFFUSION_1 | ZERO | {"timestep_spacing": "leading"}
    ours = ZeroSNRScheduler.from_config(config)
    assert ours.config.timestep_spacing == "trailing"
    assert "taking trailing" in caplog.text
    kept = ZeroSNRScheduler.from_config(config, timestep_spacing="leading")
    kept.save_pretrained(tmp_path)
    kept = ZeroSNRScheduler.from_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="leading spacing"):
        kept.set_timesteps(10)


def test_what_is_not_taken_over_is_said_once(caplog):
    say_once.cache_clear()
    for _ in range(2):
        assert ZeroSNRScheduler.from_config(tiny.STABLE_DIFFUSION_1).config.timestep_spacing == "trailing"
    assert caplog.text.count("steps_offset") == 1


# exact Gaussian data, in a real pipeline


def exact(schedule, mean, variance):
    """The best v-prediction network for latents ~ N(mean, variance)."""
    shape = (4, 16, 16)
    return VModel(zsnr.Gaussian(torch.full(shape, mean), torch.full(shape, variance)), schedule, 4, 16)


def std_of(sample, monkeypatch, *drawing):
    """The std of a pixel, exactly: what is sampled is affine in the pixel's initial and fresh noises."""
    draws = []

    def noise(shape, *_, **__):
        draws.append(len(draws) == noise.one)
        return torch.full(shape, float(draws[-1]), dtype=torch.float64)

    monkeypatch.setattr(*drawing, noise)

    def run(initial, one=-1):
        draws.clear()
        noise.one = one
        return sample(torch.full((1, 4, 16, 16), initial).double())[0, 0, 0, 0].item()

    mean, fresh = run(0.0), len(draws)
    return math.hypot(run(1.0) - mean, *(run(0.0, k) - mean for k in range(fresh)))


def latents(scheduler, network, N, batch=1):
    """Latents from a real text-to-image pipeline whose UNet is the exact one, and the noise they started from."""
    parts = pipeline("sd").components | {"unet": network, "scheduler": scheduler}
    pipe = tiny.quiet(StableDiffusionPipeline(**parts, requires_safety_checker=False))
    noise = torch.randn(batch, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    return noise, pipe(
        ["a"] * batch, num_inference_steps=N, guidance_scale=1.0, latents=noise, output_type="latent",
        generator=torch.Generator().manual_seed(1),
    ).images  # fmt: skip


def line(noise, x):
    """Offset and slope of the output over the noise, and how far from a line it is."""
    slope = ((x - x.mean()) * (noise - noise.mean())).mean() / noise.var(correction=0)
    offset = x.mean() - slope * noise.mean()
    return offset.item(), slope.item(), (x - offset - slope * noise).abs().max().item()


DATA = [(0.5, 0.25), (-0.3, 4.0), (0.2, 16.0)]


@pytest.mark.parametrize(("mean", "variance"), DATA)
def test_heun_from_exactly_zero_snr_reaches_the_true_mean_and_std(mean, variance):
    ours = drop_in(solver="heun", levels="power")
    network, std, errors = exact(ours.schedule, mean, variance), math.sqrt(variance), []
    for N in (10, 25, 50):
        offset, slope, bent = line(*latents(ours, network, N))
        assert bent < 1e-4 * std
        errors.append(max(abs(offset - mean) / std, abs(slope / std - 1)))
    # what the grid promises for any variance from 1/64 to 64
    assert all(error < most for error, most in zip(errors, (0.08, 0.015, 0.004), strict=True)), errors


@pytest.mark.parametrize(("mean", "variance"), DATA)
def test_churn_from_exactly_zero_snr_reaches_the_true_mean_and_std(mean, variance):
    ours = drop_in(solver="heun", levels="power", S_churn=30.0)
    x = latents(ours, exact(ours.schedule, mean, variance), 100, batch=32)[1]
    std, n = math.sqrt(variance), x.numel()
    # 4 standard errors of a sample of n, and one per cent for the steps
    assert x.mean().item() == pytest.approx(mean, abs=std * (4 / math.sqrt(n) + 0.01))
    assert x.std().item() == pytest.approx(std, rel=4 / math.sqrt(2 * n) + 0.01)


def test_churn_from_a_finite_start_is_that_of_the_package_in_law(monkeypatch):
    config = tiny.STABLE_DIFFUSION_1 | {"prediction_type": "v_prediction"}
    ours = ZeroSNRScheduler.from_config(config, solver="heun", S_churn=4.0, S_noise=1.03)
    network = exact(ours.schedule, 0.3, 4.0)
    grid = zsnr.karras(12, sigma_min=0.05, sigma_max=9.0)  # above the first trained level
    levels, churn = grid.tan().tolist(), {"S_churn": 4.0, "S_noise": 1.03, "generators": torch.Generator()}
    ours.set_timesteps(sigmas=levels)
    assert ours.init_noise_sigma > 1

    def dropped_in(noise):
        return loop(ours, network, noise * ours.init_noise_sigma, sigmas=levels)

    got = std_of(dropped_in, monkeypatch, scheduler, "randn_tensor")
    want = std_of(lambda noise: zsnr.churn(network.denoiser, noise, grid, **churn), monkeypatch, rows, "randn")
    assert got == pytest.approx(want, rel=1e-6)


def test_diffusers_own_schedulers_in_the_same_pipeline_miss_what_the_drop_in_reaches():
    config = tiny.STABLE_DIFFUSION_1 | ZERO
    ours = ZeroSNRScheduler.from_config(config, solver="heun")
    network = exact(ours.schedule, 0.5, 16.0)

    def errors(scheduler, N):
        offset, slope, _ = line(*latents(scheduler, network, N))
        return abs(offset - 0.5) / 4, abs(slope / 4 - 1)

    at_61 = errors(DDIMScheduler.from_config(config), 61)
    assert at_61[1] > 0.9, "nearly every seed gives the mean"
    assert max(errors(ours, 61)) < 0.02
    table = config | {"trained_betas": ours.schedule.betas.float().numpy(), "rescale_betas_zero_snr": False}
    assert not np.isfinite(errors(HeunDiscreteScheduler.from_config(table), 10)).any()
    assert max(errors(ours, 10)) < 0.2
