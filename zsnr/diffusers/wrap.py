r"""EDM's samplers for networks that were not trained as EDM's, and EDM's networks where v-models are expected.

    a discrete-time eps-, x0- or v-network     `zsnr.NetworkDenoiser`: any angle, a fraction of a step in between;
                                               `denoiser`: the same, from a UNet and its scheduler, checked
    an EDM-preconditioned network              `EDMAsV`: steps of a schedule in, v out, as diffusers calls a UNet
    a denoiser known exactly                   `VModel`: the same

With sigma = tan(phi), D(x; sigma) of Karras et al. 2022, Eq. 7, is v = (cos(phi) x_phi - D(x_phi / cos(phi); sigma)) /
sin(phi): up to the sigma_max that the network was trained for, and an error above it.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from zsnr.denoisers import Denoiser, NetworkDenoiser
from zsnr.diffusers.card import of as card_of
from zsnr.diffusers.config import check_config, from_scheduler, prediction_of
from zsnr.edm import EDMDenoiser, Preconditioned
from zsnr.schedule import Schedule


def schedule_up_to(sigma_max: float, T: int = 1000, sigma_min: float = 0.002) -> Schedule:
    """T steps from sigma_min to sigma_max, evenly spaced in the angle: a table to sample an EDM model by.

    Its `betas` are what a diffusers scheduler takes as `trained_betas`, with prediction_type="v_prediction".
    """
    if not 0 < sigma_min < sigma_max < math.inf or T < 2:
        raise ValueError(f"give 0 < sigma_min < sigma_max < inf and T > 1; got {sigma_min}, {sigma_max} and T = {T}")
    return Schedule(torch.linspace(math.atan(sigma_min), math.atan(sigma_max), T, dtype=torch.float64).cos())


def denoiser(unet: nn.Module, scheduler: Any, *, whole_steps: bool = False, **conditions: Any) -> NetworkDenoiser:
    """A UNet of diffusers as a denoiser, by the schedule and the prediction type of its scheduler.

    Args:
        unet: as `zsnr.NetworkDenoiser`'s network, with its whole_steps and conditions.
        scheduler: that of the UNet's pipeline; only its config and its table are read.

    Raises:
        ValueError: eps at zero SNR; a scheduler without a table, of flow matching or of EDM; or one that is not what
            the card in the weights, which the UNet was loaded from, says that they were trained for.
    """
    check_config(scheduler.config)
    if (card := card_of(unet)) is not None:
        card.check_scheduler(scheduler)
    schedule, prediction = from_scheduler(scheduler), prediction_of(scheduler.config)
    return NetworkDenoiser(unet, schedule, prediction, whole_steps=whole_steps, **conditions)


class VModel(nn.Module):
    """Any denoiser (x_phi, phi) -> v as a v-prediction UNet of diffusers: (sample, timestep) -> v.

    Exact denoisers too (`zsnr.Gaussian`), so that a pipeline can be tried on data whose answer is known.

    Args:
        denoiser: see `zsnr.denoisers`.
        schedule: what the timesteps mean: that of the scheduler that asks.
        channels, size: of the pictures, for pipelines that ask the UNet's config.
    """

    def __init__(self, denoiser: Denoiser, schedule: Schedule, channels: int = 3, size: int = 32) -> None:
        super().__init__()
        self.denoiser, self.schedule = denoiser, schedule
        self.config = SimpleNamespace(
            in_channels=channels, out_channels=channels, sample_size=size, prediction_type="v", time_cond_proj_dim=None
        )

    @property
    def dtype(self) -> torch.dtype:
        """The weights' type."""
        return next((p.dtype for p in self.parameters()), torch.float32)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    def velocity(self, x: Tensor, phi: float, **conditions: Any) -> Tensor:
        """v at x_phi (B, ...); a denoiser has no use for conditions."""
        return self.denoiser(x, phi)

    def forward(self, sample: Tensor, timestep: Any, *args: Any, return_dict: bool = True, **conditions: Any) -> Any:
        """v at x_phi (B, ...) and one timestep for the batch, counted from 0; fractions lie between steps."""
        steps = torch.as_tensor(timestep).flatten().unique()
        if len(steps) != 1:
            raise ValueError(f"timesteps {steps.tolist()}: one noise level for the whole batch, please")
        v = self.velocity(sample, self.schedule.angle_at(max(float(steps), 0.0)), **conditions)
        return SimpleNamespace(sample=v) if return_dict else (v,)


class EDMAsV(VModel):
    """An EDM network, D with its preconditioning, as a v-prediction UNet of diffusers; conditions are passed on.

    Args:
        network: its column says up to which sigma it was trained.
        schedule, channels, size: see `VModel`; for the schedule, `schedule_up_to`.

    Raises:
        ValueError: the schedule goes beyond the network's sigma_max: there it would be an extrapolation.
    """

    def __init__(self, network: Preconditioned, schedule: Schedule, channels: int = 3, size: int = 32) -> None:
        super().__init__(EDMDenoiser(network), schedule, channels, size)
        sigma_max, top = network.column.sigma_max, schedule.sigma[-1].item()
        if top > sigma_max * (1 + 1e-9):
            raise ValueError(
                f"the schedule goes up to sigma = {top:.6g}, the network to sigma_max = "
                f"{sigma_max:.6g}: take wrap.schedule_up_to({sigma_max:.6g}); zero SNR needs a model trained there"
            )
        self.network = network

    def velocity(self, x: Tensor, phi: float, **conditions: Any) -> Tensor:
        """v at x_phi (B, ...)."""
        return EDMDenoiser(self.network, **conditions)(x, phi)
