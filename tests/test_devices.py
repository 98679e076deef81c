"""Every public path on a device that has no float64, see `strict`."""

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from interrupted import Interrupted
from sampling import ALL
from strict import DEVICE, Strict
from torch import nn

import zsnr
from lab.models import backdrop, edm_training, mixture, training
from zsnr import Gaussian, NetworkDenoiser, edm, guidance, prediction
from zsnr.diffusers import Card
from zsnr.diffusers.wrap import EDMAsV, schedule_up_to
from zsnr.finetune import loop, tune
from zsnr.flow import FlowDenoiser


class Network(nn.Linear):
    """It is called as diffusers' UNets are, and as raw networks of EDM."""

    def forward(self, x, step, class_labels=None, return_dict=True):
        out = super().forward(x) + step.view(-1, 1, 1, 1)
        return out if return_dict else (out,)


LEAKY = zsnr.schedule.stable_diffusion()
GRIDS = {name: getattr(zsnr, name)(9) for name in ("uniform", "power", "geometric", "skewed")}
GRIDS |= {"trailing": zsnr.grid(LEAKY, 9)} | {name: make().steps(18) for name, make in edm.COLUMNS.items()}
POINTS = torch.linspace(0, 1, 96).view(2, 3, 4, 4)
GAUSSIANS = [Gaussian(POINTS[0], torch.eye(48)), Gaussian(POINTS[1], POINTS[0])]
MIXTURE = mixture.Mixture(GAUSSIANS)


def there():
    return POINTS.to(DEVICE)


def network():
    return Network(4, 4, device=DEVICE)


def raw(name="edm"):
    return edm.Preconditioned(network(), edm.column(name))


def sample(make, name="heun", grid="trailing", start=there):
    noise = start()
    x = ALL[name](make(), noise, GRIDS[grid], generators=zsnr.generators([1, 2]), callback=lambda *_: None)
    assert (x.device, x.dtype, x.shape) == (noise.device, noise.dtype, noise.shape)


def convert(kind):
    for to in (prediction.to_v, prediction.to_x0, prediction.to_eps):
        assert to(POINTS, there(), 1.0, kind).device.type == DEVICE
    for loss in prediction.X0_WEIGHTS if kind != "eps" else [kind]:
        prediction.loss_weight(loss, kind, there(), prediction.target(kind, *[there()] * 4))


def drop_in(**options):
    scheduler, x = zsnr.ZeroSNRScheduler(prediction_type="v_prediction", **options), there()
    scheduler.set_timesteps(5)
    for t in scheduler.timesteps:
        x = scheduler.step(x, t, x, generator=zsnr.generators([1, 2])).prev_sample
    scheduler.set_timesteps(5, device=DEVICE)
    for make in (scheduler.add_noise, scheduler.get_velocity):
        assert make(x, x, scheduler.timesteps[:2]).device.type == DEVICE


def train(objective, *options):
    """A loss step with its gradient, without autocast, which knows no meta device."""
    net, t = network(), torch.arange(2, device=DEVICE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
        objective(net, there(), there(), t, *options).backward()
    assert net.weight.grad.device.type == DEVICE


def on_edm(net, y, eps, t, recipe):
    sigma = recipe.column(recipe.loss).p_train(2, torch.Generator().manual_seed(0))
    return edm_training.objective(net, y, sigma, eps, None, None, recipe)


def loop_step():
    """A training's first step, up to its gradient, with the noise levels of EDM, which are float64."""
    sigma = edm.column("edm").p_train(2, torch.Generator().manual_seed(0))

    def loss(net, y, sigma):
        assert (y.device.type, sigma.device.type) == (DEVICE, "cpu")
        edm_training.objective(net, y, sigma, y, None, None, recipe).backward()
        raise Interrupted

    recipe = edm_training.EDMRecipe(batch=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
        patch.setattr(loop.Accelerator, "device", torch.device(DEVICE))
        patch.setattr(loop.Accelerator, "gather", lambda _, step: torch.zeros(1))
        with pytest.raises(Interrupted):
            loop.train(Network(4, 4), lambda _: (POINTS, sigma), loss, recipe, Path("none"), {})


def table():
    """The schedule of a scheduler whose table was moved there; of one step, as a meta tensor reads as zeros."""
    assert zsnr.from_scheduler(SimpleNamespace(alphas_cumprod=torch.zeros(1, device=DEVICE))).zero_snr


NETWORKS = {k: lambda k=k: NetworkDenoiser(network(), LEAKY, k) for k in prediction.PREDICTIONS}
NETWORKS |= {f"EDM {name}": lambda name=name: edm.EDMDenoiser(raw(name)) for name in edm.COLUMNS}
NETWORKS["flow"] = lambda: FlowDenoiser(network())
NETWORKS["whole steps"] = lambda: NetworkDenoiser(network(), LEAKY, "v", whole_steps=True)
NETWORKS["EDMAsV"] = lambda: lambda x, phi: EDMAsV(raw(), schedule_up_to(80))(x, 500).sample
DENOISERS = NETWORKS | {f"guided {k}": partial(guidance.guided, *GAUSSIANS, space=k) for k in prediction.PREDICTIONS}
DENOISERS |= {
    "Gaussian": lambda: Gaussian(there()[0], there()[0]),
    "Empirical": lambda: zsnr.Empirical(there()),
    "Mixture": lambda: MIXTURE,
    "backdrop": lambda: backdrop.UniformBackdrop(there(), POINTS[:, :1] * 9 % 1),
}
PATHS = {f"{name}, {grid}": partial(sample, lambda: GAUSSIANS[0], name, grid) for name in ALL for grid in GRIDS}
PATHS |= {f"noise there, {name}": partial(sample, make) for name, make in DENOISERS.items()}
PATHS |= {f"noise here, {name}": partial(sample, make, start=POINTS.double) for name, make in NETWORKS.items()}
for k in prediction.PREDICTIONS:
    recipe = training.ScheduleRecipe(k)
    PATHS |= {k: partial(convert, k), f"train {k}": partial(train, training.objective, None, LEAKY, recipe)}
for k in edm.COLUMNS:
    PATHS[f"train {k}"] = partial(train, on_edm, edm_training.EDMRecipe(precondition=k, loss=k))
PATHS |= {
    "fine-tune": partial(train, tune._objective, {}, Card("v", LEAKY), "fp32"),
    "drop-in": partial(drop_in, solver="ddim"),
    "drop-in, churn": partial(drop_in, solver="rk2", S_churn=1.0, S_tmax=1.0),
    "training loop": loop_step,
    "a scheduler's table": table,
    "solve": lambda: GAUSSIANS[0].solve(there(), 1.0),
    "draw": lambda: MIXTURE.sample(there(), torch.Generator()),
    "rescaled": lambda: guidance.rescaled(there(), there()),
    "schedule": lambda: zsnr.from_betas(there().flatten() * 0 + 0.1),
}


@pytest.mark.parametrize("name", PATHS)
def test_the_device_meets_no_float64_and_no_tensor_of_the_cpu(name):
    with Strict():
        PATHS[name]()
