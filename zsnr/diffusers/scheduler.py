r"""A diffusers scheduler that is exact from zero terminal SNR: DDIM, Heun, Adams-Bashforth (`eab`), EDM's churn.

    pipe.scheduler = zsnr.ZeroSNRScheduler.from_config(pipe.scheduler.config, solver="heun")

The state is x_phi = cos(phi) x0 + sin(phi) eps at every call, so nothing is scaled, and the coefficients are those of
`zsnr.samplers`. diffusers asks for one noise level a network call and returns one state for each:

    calls of a step     Euler, DDIM, eab   phi_i               Heun, rk2      phi_i, then phi' = phi(t_i + alpha h)
    state after it      the input of the next call, at that call's level, so that `add_noise` at the next timestep fits
    churn               raises the state at the end of the step before, where Algorithm 2 raises it at the start of its
                        own; the first raise belongs to the initial noise, which has its law already

`timesteps` are trained steps counted from 0, fractions between them (linear in the angle) where a grid wants it. ddim
and euler are functions of the timestep that is given, on the grid or beside it. The two calls of a step of heun and rk2
belong together, and eab looks back, so there a timestep out of turn is refused until `_step_index = None` begins anew.
eab's rows depend on their place in the grid: a run that begins with call k is the sampler's on the grid from there.

A pipeline that was saved with this scheduler is loaded by DiffusionPipeline.from_pretrained after `import zsnr`.

Source: Lin et al. 2023, Secs. 3.3, 3.4; Karras et al. 2022, Algorithms 1 to 3. That a scheduler can express Algorithm 2
is derived for this project.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils import logging
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from zsnr.diffusers.config import LEVELS, check_types, config_grid, config_prediction, config_schedule, read_config
from zsnr.diffusers.solvers import SOLVERS, calls, check_solver, step_rows, table
from zsnr.grids import SPACINGS, check_grid
from zsnr.path import PATHS
from zsnr.prediction import cos_sin, to_v
from zsnr.rows import Row, advance
from zsnr.samplers import ddim, rotation

logger = logging.get_logger(__name__)

CHOICES = {"timestep_spacing": SPACINGS, "solver": SOLVERS, "path": tuple(PATHS), "levels": (None, *LEVELS)}
BELOW = 1e-6
"""Levels below the first trained step are published as step 0, less so little that the network is asked as at 0."""


class ZeroSNRScheduler(SchedulerMixin, ConfigMixin):
    """DDIM, Euler, Heun, alpha family, eab and churn for eps-, x0- and v-models, from exactly zero terminal SNR.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, snr_shift_scale,
            rescale_betas_zero_snr: the schedule that the model was trained on, as in diffusers' schedulers.
        prediction_type: epsilon, sample or v_prediction.
        timestep_spacing: leading, linspace or trailing (Lin et al., Table 2); on a zero-SNR schedule, trailing.
        solver: ddim, euler or eab (`zsnr.eab`), one call a step; heun or rk2 (with `alpha`), two, but for the last.
        alpha: of rk2: 1/2 midpoint, 2/3 Ralston, 1 Heun.
        path: along which rk2 and euler integrate; angle and flow reach zero SNR (`zsnr.path`).
        levels: a grid in place of timestep_spacing: karras (rho steps, from sigma_max), power (the one for Heun from
            zero SNR), skewed (for eab), uniform or geometric, see `zsnr.grids`. On a zero-SNR schedule karras is one
            step from T to sigma_max, 80 if none is given, and rho steps from there.
        use_karras_sigmas: the same as levels="karras", as other schedulers' configs say it; `levels` decides.
        rho, sigma_min, sigma_max: of karras; the schedule's own first and last sigma if none are given.
        S_churn, S_tmin, S_tmax, S_noise: EDM's stochasticity, in units of sigma = tan(phi); 0 for none, as eab wants
            it. S_tmax has no bound where it is None.
        clip_sample, clip_sample_range: clamp every estimate of x0, for models of pixels, and take eps from the clamped
            one (DDIM's use_clipped_model_output).

    A pipeline that stops in the middle (XL's denoising_end) cuts between two calls: for it, take no heun or rk2. The
    strength of image to image counts calls, not noise: with `levels`, or timesteps of one's own, the log says where it
    begins. The state is x_phi, so there are no `sigmas`, which pipelines would scale it by.

    Raises:
        ValueError: at construction, with the remedy: eps on a zero-SNR schedule above all.
    """

    __module__ = "zsnr"  # what a saved pipeline names: diffusers loads from modules that are imported already
    _compatibles = [e.name for e in KarrasDiffusionSchedulers]  # noqa: RUF012 (diffusers' own convention)

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | np.ndarray | Tensor | None = None,
        prediction_type: str = "epsilon",
        rescale_betas_zero_snr: bool = False,
        timestep_spacing: str = "trailing",
        solver: str = "ddim",
        alpha: float = 1.0,
        path: str = "angle",
        levels: str | None = None,
        use_karras_sigmas: bool = False,
        rho: float = 7.0,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        S_churn: float = 0.0,
        S_tmin: float = 0.0,
        S_tmax: float | None = None,
        S_noise: float = 1.0,
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
        snr_shift_scale: float = 1.0,
    ) -> None:
        check_types(self.config)
        for name, known in CHOICES.items():
            if (value := self.config[name]) not in known:
                raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(map(str, known))}")
        if clip_sample and not 0 < clip_sample_range < math.inf:
            raise ValueError(f"clip_sample_range = {clip_sample_range}: a finite bound above 0, or clip_sample=False")
        check_solver(self.config)
        if isinstance(trained_betas, Tensor):
            self.register_to_config(trained_betas=trained_betas.tolist())
        if S_tmax == math.inf:
            self.register_to_config(S_tmax=None)  # JSON knows no infinity
        self.schedule = schedule = config_schedule(self.config)
        self.prediction = config_prediction(self.config, schedule)
        if levels or use_karras_sigmas:
            config_grid(self.config, schedule, 2)  # what is wrong with them, before the first sampling
        self.betas, self.alphas_cumprod = schedule.betas.float(), schedule.alpha_bar.float()
        self.alphas = 1 - self.betas  # for pipelines and callbacks that read these three
        self.order = calls(self.config)
        self.init_noise_sigma = torch.ones(())  # raised by churn's first raise: more only where S_noise is not 1
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(schedule.T - 1, -1, -1)
        self._calls: list[Row] = []
        self._published: list[float] = []
        self._even = True  # calls, in the timestep
        self._begin_index: int | None = None
        self._step_index: int | None = None
        self._last: int | None = None  # number of the last call
        self._past: tuple[tuple[Tensor, Tensor], ...] = ()  # what the next one looks back on, newest first

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """The scheduler with another's configuration, and with the changes given as keyword arguments.

        What is kept of it, and what is said in the log: see `zsnr.diffusers.config.read_config`.

        Raises:
            ValueError: the config has no betas (EDM's and flow matching's have not), or predicts what cannot be used.
        """
        config = getattr(config, "config", config)  # of a scheduler itself
        if isinstance(config, str | os.PathLike):
            raise ValueError(f"{config} is a path: ZeroSNRScheduler.from_pretrained reads those")
        given = read_config(config or {}, kwargs)
        given = {name: value for name, value in given.items() if name in (config or ()) or name not in kwargs}
        return super().from_config(given, return_unused_kwargs, **kwargs)

    def __len__(self) -> int:
        return self.schedule.T

    # --- the grid

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
    ) -> None:
        """Choose the noise levels: so many by the config's rule, or just these.

        Args:
            num_inference_steps: N steps; calls of the network are N, or 2 N - 1 for second order.
            timesteps: falling trained steps, counted from 0; fractions are levels between them.
            sigmas: falling tan(phi), inf for zero SNR; a 0 at the end may be given or left out.

        Raises:
            ValueError: none or several of these, or levels that the model was not trained for.
        """
        if self._step_index and self._step_index < len(self._calls) and self._calls[self._step_index].stage:
            logger.warning(
                "the last sampling stopped between the two calls of a step, and its state is not a step's: for a "
                "pipeline that stops in the middle (XL's denoising_end), take solver='ddim', 'euler' or 'eab'"
            )
        if sum(given is not None for given in (num_inference_steps, timesteps, sigmas)) != 1:
            raise ValueError("give one of num_inference_steps, timesteps and sigmas")
        if timesteps is not None:
            angles = [self.angle_at(float(t)) for t in timesteps]
        elif sigmas is not None:
            angles = [math.atan(s) for s in sigmas if s != 0]
        else:
            angles = config_grid(self.config, self.schedule, num_inference_steps).tolist()[:-1]
        top = self.schedule.angle[-1].item()
        angles = [min(a, top) if a < top * (1 + 1e-7) else a for a in angles]  # by rounding, of float32 too
        angles = check_grid(torch.tensor([*angles, 0.0], dtype=torch.float64))
        rows = table(self.config, angles)
        if angles[0] <= top < (high := max(row.phi for row in rows)):
            raise ValueError(
                f"churn raises a level to sigma = {math.tan(high):.6g}, above the model's last trained one, "
                f"{math.tan(top):.6g}: set S_tmax to {math.tan(top) / math.sqrt(2):.4g} at most, or start lower"
            )
        raised = rows.pop(0) if rows[0].stage < 0 else Row(angles[0], 1.0, 0.0)
        self.init_noise_sigma = torch.tensor(math.hypot(raised.a, raised.e))
        self._calls, self.num_inference_steps = rows, len(angles) - 1
        at = [self.schedule.step_at(call.phi) for call in rows]
        steps = torch.tensor([max(step, step * BELOW) for step in at], dtype=torch.float64)
        steps = steps.to(torch.int64 if all(map(float.is_integer, at)) else torch.float32)
        self._published, self.timesteps = steps.tolist(), steps.to(device)
        self._even = num_inference_steps is not None and not (self.config.levels or self.config.use_karras_sigmas)
        self.set_begin_index(None)

    # --- one call

    @property
    def truncates(self) -> bool:
        """Has the solver an error of its own even where x0 and eps do not change? (For `zsnr.audit`.)"""
        # flow and EDM are straight there
        return self.config.solver not in ("ddim", "eab") and self.config.path not in ("flow", "EDM")

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The state as it is: it is x_phi at every call."""
        return sample

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> DDIMSchedulerOutput | tuple[Tensor, Tensor]:
        """The state at the next call's level, from the network's answer at this one's, and D, its estimate of x0.

        Args:
            model_output: what the network predicts (guided, where the pipeline guides), (B, ...).
            timestep: this call's. From it, ddim and euler go to the next lower level of the grid.
            sample: the state that the network was given, (B, ...).
            eta: DDIM's amount of noise, 0 to 1.
            generator: of the fresh noise of churn and eta: one, or a list of one a sample.

        Raises:
            ValueError: a timestep out of turn, but for ddim and euler; eta with another solver than ddim.
        """
        call, following = self._call(float(timestep), eta)
        x = sample.to(torch.promote_types(sample.dtype, torch.float32))
        v = to_v(model_output.to(x), x, call.phi, self.prediction)
        c, s = cos_sin(call.phi)
        x0 = c * x - s * v
        if self.config.clip_sample:
            x0 = x0.clamp(-self.config.clip_sample_range, self.config.clip_sample_range)
            v = (c * x - x0) / s
        if call.stage and self._last != following - 2:
            raise ValueError(f"sampling begins with the second half of a step (call {following - 1}): begin with 2 k")
        kept = self._calls[following].lookback if following < len(self._calls) else 0
        x, self._past, self._last = advance(call, x, v, self._past), ((x, v), *self._past)[:kept], following - 1
        if call.e:
            x = x + call.e * randn_tensor(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        self._step_index = following
        out = x.to(sample.dtype), x0.to(sample.dtype)
        return DDIMSchedulerOutput(*out) if return_dict else out

    def _call(self, timestep: float, eta: float) -> tuple[Row, int]:
        """What is done at a timestep, and the number of the call that follows."""
        if not self._calls and self.order == 1:  # `timesteps` has been all of them so far
            self.set_timesteps(timesteps=range(self.schedule.T - 1, -1, -1))
        k = self._find(timestep)
        phi = self.angle_at(timestep) if k is None else self._calls[k].phi
        following = sum(call.phi >= phi for call in self._calls) if k is None else k + 1
        psi = self._calls[following].phi if following < len(self._calls) else 0.0
        if eta and (self.config.solver != "ddim" or self.config.S_churn):
            raise ValueError("eta is DDIM's: with another solver or with churn, leave it 0 and set S_churn")
        if eta:
            return next(iter(ddim.rows((phi, psi), eta))), following
        if k is None:
            return step_rows(self.config, phi, psi)[0] if psi else rotation(phi), following
        if self.config.solver == "eab" and (self._step_index is None or self._last != k - 1):  # a run begins
            self._past = ()
            self._calls = [*self._calls[:k], *table(self.config, [*(row.phi for row in self._calls[k:]), 0.0])]
        return self._calls[k], following

    # --- where in the grid

    @property
    def step_index(self) -> int | None:
        """Number of the next call, or None before the first; `_step_index = None` forgets it."""
        return self._step_index

    def set_begin_index(self, begin_index: int | None = 0) -> None:
        """Begin with this call (pipelines that start in the middle); None: with that of the first timestep given."""
        self._begin_index, self._step_index, self._last, self._past = begin_index, None, None, ()
        if begin_index and not self._even and begin_index < len(self._calls):
            t, phi = self._published[begin_index], self._calls[begin_index].phi
            logger.warning(
                f"sampling begins at timestep {t:g}, sigma = {math.tan(phi):.4g}: a pipeline's strength counts calls, "
                "and these are not even in the timestep"
            )

    def _find(self, timestep: float) -> int | None:
        """The number of a timestep's call; None beside the grid."""
        turn = self._begin_index if self._step_index is None else self._step_index
        if turn is not None and self._published[turn : turn + 1] == [timestep]:
            return turn
        free = self.config.solver in ("ddim", "euler")
        if not free and self._step_index is not None:
            due = [f"{t:g} is due" for t in self._published[self._step_index :]] or ["all steps are done"]
            why = "eab looks back" if self.order == 1 else f"a step of {self.config.solver} is two calls"
            raise ValueError(
                f"timestep {timestep:g}, but {due[0]}, and {why}: begin anew by set_timesteps(), or elsewhere by "
                "_step_index = None, or take ddim or euler; one scheduler a thread"
            )
        # a level that two halves share is begun with the later call, the first half of its own step
        found = [k for k, t in enumerate(self._published) if t == timestep]
        if not found and (not free or self.config.S_churn):
            raise ValueError(f"timestep {timestep} is not one of those that set_timesteps() chose: {self._published}")
        return found[-1] if found else None

    # --- training's view

    def angle_at(self, timestep: float) -> float:
        """The angle of a published timestep, in radians."""
        return self.schedule.angle_at(timestep / BELOW if -BELOW < timestep < 0 else timestep)

    def _cos_sin(self, like: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        steps = torch.as_tensor(timesteps).flatten().tolist()
        if not steps:
            raise ValueError(
                "no timesteps are left: the strength is too small for so few steps; raise it, or num_inference_steps. "
                "With timesteps= or sigmas= and a solver of two calls, pipelines take calls for steps: use ddim there"
            )
        both = torch.tensor([cos_sin(self.angle_at(t)) for t in steps], dtype=like.dtype).to(like.device)
        c, s = both.view(-1, 2, *[1] * (like.dim() - 1)).unbind(1)
        return c, s

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_phi = cos(phi) x0 + sin(phi) eps at timesteps (B,) or (1,), published ones or trained ones."""
        c, s = self._cos_sin(original_samples, timesteps)
        return c * original_samples + s * noise

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """v = cos(phi) eps - sin(phi) x0, the target of v-prediction."""
        c, s = self._cos_sin(sample, timesteps)
        return c * noise - s * sample
