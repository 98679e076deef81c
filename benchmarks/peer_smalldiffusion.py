"""smalldiffusion's one sampler without its noise (mu = 0), on its schedules; only flow matching's reaches zero SNR."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from benchmarks.solver import Network, Run, Solver
from benchmarks.stubs import load


class _Model:
    """What the sampler calls: eps at sigma, or a flow's velocity."""

    def __init__(self, network: Network, flow: bool) -> None:
        self.network, self.flow = network, flow

    def eval(self) -> None:
        pass

    def rand_input(self, batchsize: int) -> Tensor:
        return torch.zeros(())  # its weight is 0

    def predict_eps_cfg(self, x: Tensor, sigma: Tensor, cond: None, cfg_scale: float) -> Tensor:
        if self.network.output is not None:
            return self.network.output
        at = float(sigma)
        return self.network.flow(x, at) if self.flow else (x - self.network.x0(x, 1.0, at)) / at


def solvers() -> list[Solver]:
    """Its "accelerated" sampling is gam = 2, DDIM is gam = 1."""
    (library,) = load("smalldiffusion", "diffusion")
    schedules = {"DDPM": library.ScheduleDDPM(), "LDM": library.ScheduleLDM(), "cosine": library.ScheduleCosine(1000)}
    schedules |= {"flow": library.ScheduleFlow(t_min=1e-3), "flow, .01": library.ScheduleFlow(t_min=1e-2)}
    for low, high in product((0.002, 0.01, 0.03, 0.1), (10.0, 25.0, 80.0, 250.0)):
        schedules[f"log-linear {low:g} to {high:g}"] = library.ScheduleLogLinear(1000, low, high)
    gams = (1.0, 1.25, 1.4, 1.5, 1.6, 1.75, 2.0)
    settings = {f"gam {g:g}, {k}": (g, s) for g, (k, s) in product(gams, schedules.items())}

    def prepare(network: Network, noise: Tensor, setting: tuple[float, Any], N: int) -> Run:
        gam, schedule = setting
        sigmas = schedule.sample_sigmas(N).to(noise.dtype)
        model = _Model(network, isinstance(schedule, library.ScheduleFlow))
        here = SimpleNamespace(device=noise.device)  # instead of an Accelerator, which is made anew at each call

        def run() -> Tensor:
            x = noise
            for x in library.samples(model, sigmas, gam, xt=noise * sigmas[0], accelerator=here):  # noqa: B007
                pass
            return x

        return run

    return [Solver("smalldiffusion", "samples", settings, prepare)]
