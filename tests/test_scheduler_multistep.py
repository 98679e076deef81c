"""What the drop-in scheduler remembers between calls with eab: the sampler's rows, whatever a pipeline does with it."""

import gc
import math
import weakref

import pytest
import torch

import zsnr
from lab.models import tiny
from zsnr import ZeroSNRScheduler
from zsnr.diffusers.config import say_once

ZERO = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
EXACT = {torch.float64: {"rtol": 0, "atol": 1e-12}, torch.float32: {"rtol": 0, "atol": 1e-5}}
GAUSSIAN = zsnr.Gaussian(torch.full((4, 4, 4), 0.3), torch.linspace(0.1, 4, 64).view(4, 4, 4))
N = 12


def drop_in(**changes):
    return ZeroSNRScheduler.from_config(tiny.STABLE_DIFFUSION_1 | ZERO | {"solver": "eab"} | changes)


def normal(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


NOISE = normal(2, 4, 4, 4)


def network(ours, x, phi):
    """The exact answer, as a model of this prediction type gives it; v is its own estimate of everything."""
    v, (c, s) = GAUSSIAN(x, phi), (math.cos(phi), math.sin(phi))
    return {"v": v, "x0": c * x - s * v, "eps": s * x + c * v}[ours.prediction]


def run(ours, x, begin=0, stop=None):
    """The calls of a pipeline that begins and stops where it likes."""
    for k, t in list(enumerate(ours.timesteps))[begin:stop]:
        x = ours.step(network(ours, x, ours._calls[k].phi), t, x).prev_sample
    return x


def grid_of(ours, begin=0):
    return torch.tensor([*(call.phi for call in ours._calls[begin:]), 0.0], dtype=torch.float64)


@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("levels", [None, "skewed"])
@pytest.mark.parametrize(
    "model",
    [{}, {"prediction_type": "sample"}, {"prediction_type": "epsilon", "rescale_betas_zero_snr": False}],
    ids=["v", "x0", "eps"],
)
def test_it_steps_the_samplers_rows(model, levels, dtype):
    ours, noise = drop_in(levels=levels, **model), NOISE.to(dtype)
    top = ours.schedule.angle[-1].item()
    ours.set_timesteps(N)
    want = zsnr.eab(GAUSSIAN, noise, zsnr.grid(ours.schedule, N) if levels is None else zsnr.skewed(N, phi_max=top))
    torch.testing.assert_close(run(ours, noise), want, **EXACT[dtype])
    assert ours.schedule.zero_snr == (ours._calls[0].phi == math.pi / 2)


@pytest.mark.parametrize("levels", [None, "skewed"])
@pytest.mark.parametrize("told", [True, False])
def test_a_run_that_begins_in_the_middle_is_the_samplers_on_the_grid_from_there(told, levels):
    ours = drop_in(levels=levels)
    for k in range(N):
        ours.set_timesteps(N)
        if told:
            ours.set_begin_index(k)
        want = zsnr.eab(GAUSSIAN, NOISE, grid_of(ours, k))
        torch.testing.assert_close(run(ours, NOISE, k), want, **EXACT[torch.float64])
        assert ours.step_index == N


def test_runs_one_after_the_other_know_nothing_of_each_other():
    """One scheduler in several pipelines: other sizes, other counts, in the middle, and some that are broken off."""
    ours, other = drop_in(), normal(3, 4, 4, 4)

    def whole(n, x, begin=0):
        ours.set_timesteps(n)
        ours.set_begin_index(begin)
        want = zsnr.eab(GAUSSIAN, x, grid_of(ours, begin))
        torch.testing.assert_close(run(ours, x, begin), want, **EXACT[torch.float64])

    whole(N, NOISE)
    whole(7, other, 3)
    ours.set_timesteps(N)
    run(ours, NOISE, stop=5)
    whole(N, other)
    whole(N, NOISE, 5)
    ours.set_begin_index(0)  # the same timesteps, from the beginning once more
    torch.testing.assert_close(run(ours, NOISE), zsnr.eab(GAUSSIAN, NOISE, grid_of(ours)), **EXACT[torch.float64])


def test_a_reset_counter_begins_anew_and_a_timestep_out_of_turn_is_refused():
    ours = drop_in()
    ours.set_timesteps(N)
    x = run(ours, NOISE, stop=5)
    with pytest.raises(ValueError, match=r"timestep 999, but 582 is due, and eab looks back: .*_step_index = None"):
        ours.step(x, 999, x)
    with pytest.raises(ValueError, match="but 582 is due"):
        ours.step(x, 3, x)
    for anew in (None, 5, 3):  # forgotten; set by hand, where a run goes on, and elsewhere
        ours.set_timesteps(N)
        x = run(ours, NOISE, stop=5)
        ours._step_index = anew
        begin = 5 if anew is None else anew
        parts = (NOISE, grid_of(ours)) if anew == 5 else (x, grid_of(ours, begin))
        torch.testing.assert_close(run(ours, x, begin), zsnr.eab(GAUSSIAN, *parts), **EXACT[torch.float64])
    with pytest.raises(ValueError, match="all steps are done"):
        ours.step(x, 999, x)
    ours.set_timesteps(N)
    with pytest.raises(ValueError, match=r"timestep 3\.0 is not one of"):
        ours.step(x, 3, x)


def test_the_last_step_leaves_no_tensor_behind_and_no_step_more_than_five():
    ours, alive = drop_in(), []
    ours.set_timesteps(30)
    x, most = NOISE.clone(), []
    for t, call in zip(ours.timesteps, ours._calls, strict=True):
        v = GAUSSIAN(x, call.phi)
        alive += [weakref.ref(x), weakref.ref(v)]
        x = ours.step(v, t, x).prev_sample
        del v
        gc.collect()
        most.append(sum(tensor() is not None for tensor in alive))
    assert max(most) == 8, "states and answers of four calls: the fifth is the one at hand"
    assert most[-1] == 0


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.5), (-0.3, 2.0), (0.2, 8.0)])
def test_ten_calls_from_exactly_zero_snr_reach_the_true_mean_and_std(mean, std):
    """Of Gaussian data, as near as its grid promises for any variance from 1/64 to 64."""
    ours, data = drop_in(levels="skewed"), zsnr.Gaussian(torch.tensor([mean]), torch.tensor([std**2]))
    ours.set_timesteps(10)
    x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)  # affine in the noise: its mean, and mean + std
    for t, call in zip(ours.timesteps, ours._calls, strict=True):
        x = ours.step(data(x, call.phi), t, x).prev_sample
    assert x[0].item() == pytest.approx(mean, abs=0.0055 * std)
    assert (x[1] - x[0]).item() == pytest.approx(std, rel=0.0055)


def test_trained_steps_are_taken_with_a_word_on_what_they_cost(caplog):
    """As near as ddim there; on the grid that is proposed, a hundred times nearer."""
    data, unit = zsnr.Gaussian(torch.zeros(1), torch.tensor([1 / 64])), torch.ones(1, 1, dtype=torch.float64)
    say_once.cache_clear()
    trained = zsnr.grid(drop_in().schedule, 20)
    assert "pass levels='skewed'" in caplog.text
    caplog.clear()
    say_once.cache_clear()
    drop_in(levels="skewed")
    assert not caplog.text
    runs = (zsnr.ddim, trained), (zsnr.eab, trained), (zsnr.eab, zsnr.skewed(20))
    ddim, eab, proposed = (abs(8 * run(data, unit, grid).item() - 1) for run, grid in runs)
    assert eab == pytest.approx(ddim, rel=0.05)
    assert proposed < eab / 100


def test_two_pipelines_share_a_run():
    """The first stops where the second begins (XL's base and refiner)."""
    base, refiner = drop_in(), drop_in()
    base.set_timesteps(N)
    refiner.set_timesteps(N)
    states = []
    zsnr.eab(GAUSSIAN, NOISE, grid_of(base), callback=lambda i, phi, x, v: states.append(x))
    middle = run(base, NOISE, stop=8)
    torch.testing.assert_close(middle, states[8], **EXACT[torch.float64])
    refiner.timesteps = refiner.timesteps[8:]  # as its pipeline does
    x = middle
    for t, phi in zip(refiner.timesteps, grid_of(refiner)[8:], strict=False):
        x = refiner.step(network(refiner, x, phi.item()), t, x).prev_sample
    torch.testing.assert_close(x, zsnr.eab(GAUSSIAN, middle, grid_of(base, 8)), **EXACT[torch.float64])
