r"""Which noise level each step of a sampler really goes to, whatever its code: feed its `step` a perfect model.

The state is a list of coefficients, of one picture x0, one noise eps and each noise z_k that steps draw on the way:

    x = signal x0 + noise eps + fresh_1 z_1 + fresh_2 z_2 + ...

A model that knows x0 and eps answers exactly: eps, x0 or v of the state as it is (not of the level it is told). Every
consistent solver, of any order, then lands on the exact coefficients of the next level, because x0 and eps never
change; fresh noise adds its variance. So a step that lands anywhere else than on the level that the network is told
next is the scheduler's own error. The z_k are known because `torch.randn` answers with unit vectors meanwhile.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from zsnr.audit.errors import AuditError, Failed, theirs
from zsnr.audit.noise_levels import Flow, levels

X0 = 0.5
"""The picture: inside every range that a scheduler may clip to."""
HALF = 0.5
"""Training steps: schedulers may round a level to the nearest step when they tell it, but not miss it by more."""
OFF_CURVE = 0.01
"""Share by which an input may be too large or too small."""
AGAIN = 100
"""Up to this many steps are taken from the start, where a shortcut to a later one may have failed."""


class KnownNoise(TorchFunctionMode):
    """Under it, the k-th noise that is drawn in the shape of a state is a unit vector of its own."""

    drawn, size = 0, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in (torch.randn, torch.randn_like) and out.shape == (self.size, 1, 1, 1):
            out = torch.zeros_like(out)
            out[(2 + self.drawn) % self.size] = 1.0
            self.drawn += 1
        return out


@dataclass
class Landing:
    """One step, in positions: where it started, which level the network is told next, which one it reached."""

    index: int
    start: float
    expected: float
    reached: float
    size: float = math.nan  # of the next input: 1 on the curve; nan where it is unknown; at the end, of the picture
    sigma: float = math.nan  # that is left at the end

    @property
    def error(self) -> float:
        return abs(self.reached - self.expected)


class Probe:
    """A scheduler, and the perfect model that is put to it.

    Args:
        scheduler: any diffusers scheduler; a copy is worked on.
        options: further arguments of its `step` (eta, s_churn, ...).
        arguments: further arguments of its `set_timesteps` (mu, ...).
    """

    def __init__(self, scheduler: Any, options: dict[str, Any] | None = None, **arguments: Any) -> None:
        self.name, config = type(scheduler).__name__, scheduler.config
        with theirs(f"a copy of {self.name}"):
            self.scheduler = copy.deepcopy(scheduler)
        self.levels, self.options, self.arguments = levels(scheduler), dict(options or {}), arguments
        self.signature = inspect.signature(scheduler.step).parameters
        if unknown := set(self.options) - set(self.signature):
            takes = ", ".join(self.signature)
            raise AuditError(f"{self.name}.step takes no {', '.join(sorted(unknown))}; it takes {takes}")
        if "mask" in self.signature or "Inverse" in self.name:
            raise AuditError(f"{self.name} cannot be judged: it does not go from noise to a picture step by step")
        if "intermediate_timesteps" in inspect.signature(scheduler.set_timesteps).parameters:
            self.arguments = {"intermediate_timesteps": None} | arguments
        self.order = max(1, int(getattr(scheduler, "order", 1)))
        self.multistep = hasattr(scheduler, "set_begin_index") or hasattr(scheduler, "ets")
        variance = str(config.get("variance_type", ""))
        self.learned = variance.startswith("learned")
        # a variance that is not the posterior's is a choice: the level is then read from the signal alone
        self.signal_only = variance.startswith("fixed_large")
        self.noise, self.draws, self.count = KnownNoise(), 2, 0
        self.rounded: dict[int, float] = {}
        """Count of steps: how far the whole time steps that the network is told lie from the levels that are meant."""
        try:
            if steps := len(self.run(self.grid(min(10, self.levels.T)))):
                self.draws = -(-self.noise.drawn // steps)
        except Failed as error:  # of other kinds of error, this count's fault, or the finding
            if isinstance(error.__cause__, AttributeError | KeyError | RuntimeError | TypeError | ImportError):
                raise

    def grid(self, count: int) -> np.ndarray:
        """Its time steps for a count, set; where they are told as whole numbers, the levels that are meant."""
        self.count = count
        with theirs(f"{self.name}.set_timesteps({count})"):
            self.scheduler.set_timesteps(count, **self.arguments)
            told = self.scheduler.timesteps.detach().cpu()
        if hasattr(self.scheduler, "noise_sampler"):  # in place of torchsde's, whose noise is not known
            self.scheduler.noise_sampler = lambda *_: torch.randn(self.noise.size, 1, 1, 1, dtype=torch.float64)
        ts = told.double().numpy()
        if "SCM" in self.name:
            ts = ts[:-1]  # its last is the image, not a step
        if not len(ts):
            raise Failed(f"cannot be judged: {self.name}.set_timesteps({count}) makes no time steps")
        if isinstance(self.levels, Flow) and not told.is_floating_point() and hasattr(self.scheduler, "sigmas"):
            meant = self.scheduler.sigmas[: len(ts)].detach().cpu().double().numpy() * self.levels.T
            if len(meant) == len(ts) and (off := float(np.abs(meant - ts).max())) < 1.001:
                self.rounded[count] = off
                return meant
        return ts

    def ends(self, ts: np.ndarray, first: int = 2) -> list[Landing]:
        """The first steps of the grid that is set, the last, and those of the shortest and the longest way.

        The later ones are taken from copies that start there. Where that shortcut misses, which may be its own fault (a
        multistep solver has no history there), all steps of a short grid are taken, and the first alone of a long one.
        """
        n = len(ts)
        if n <= first + self.order:
            return self.run(ts)
        ways, ends = -np.diff(ts) * self.levels.falls, []
        later = {n - 1} | ({int(ways.argmin()), int(ways.argmax())} if self.order == 1 else set())
        for k in sorted(later - set(range(first))):
            k -= k % self.order
            end = copy.copy(self.scheduler)
            vars(end).update({name: list(value) for name, value in vars(end).items() if type(value) is list})
            try:
                with theirs(f"{self.name}.set_begin_index"):
                    getattr(end, "set_begin_index", int)(k)
                ends += self.run(ts, k, min(k + self.order, n), end)[-1:]
            except Failed:
                ends += [Landing(k, math.nan, math.inf, math.nan)]
        landings = self.run(ts, 0, first) + ends
        exact = [one.error < (HALF if one.index < n - 1 else 1e-2) or math.isnan(one.expected) for one in ends]
        if self.multistep and not all(exact):
            self.grid(self.count)
            return self.run(ts, 0, n if n <= AGAIN else first)
        return landings

    def run(self, ts: np.ndarray, begin: int = 0, stop: int | None = None, scheduler: Any = None) -> list[Landing]:
        """The steps begin .. stop - 1 of the grid that is set, up to the first that is no number."""
        scheduler, levels, out = self.scheduler if scheduler is None else scheduler, self.levels, []
        stop = len(ts) if stop is None else stop
        x, memory, rounding = None, None, 0.0
        self.noise.drawn, self.noise.size = 0, 2 + self.draws * (stop - begin)
        for i in range(begin, stop):
            phi, last = levels.angle_of(float(ts[i])), i + 1 == len(ts)
            if math.isnan(phi):
                break  # no such level: the grid's fault
            factor = self.factor(scheduler, i)
            if x is None:
                # float32, in which schedulers compute, makes so much of 80 - (80 - 0.0002)
                rounding = 1e-6 * levels.sigma(phi) if levels.sigma(phi) < 1e4 else 0.0
            else:
                size = levels.measure(x * factor)[1]
                out[-1].size = math.nan if self.signal_only else size
            if x is None or not (out[-1].error < HALF and abs(size - 1) < OFF_CURVE):
                x = torch.zeros(self.noise.size, dtype=torch.float64)  # each step is judged by itself
                x[:2] = torch.tensor(levels.state(phi), dtype=x.dtype) / factor
            x, memory = self._step(scheduler, x, i, ts, memory)
            angle = math.acos(min(1.0, x[0].item())) if self.signal_only else levels.measure(x)[0]
            goals = levels.final_angles if last else (levels.angle_of(float(ts[i + 1])),)
            goal = min(goals, key=lambda goal: abs(levels.position(goal) - levels.position(angle)))
            if abs(levels.sigma(angle) - levels.sigma(goal)) < rounding:
                angle = goal
            out.append(Landing(i, *map(levels.position, (phi, goal, angle))))
            if last:  # the picture itself, not less of it
                out[-1].size, out[-1].sigma = x[0].item() / levels.scale, levels.sigma(angle)
            if math.isnan(angle):
                break
        return out

    def factor(self, scheduler: Any, i: int) -> float:
        """By how much the model's input is smaller than the state, at step i of the grid that is set."""
        if not self.levels.scales_input or not hasattr(scheduler, "scale_model_input"):
            return 1.0
        with theirs(f"{self.name}.scale_model_input"):
            one = torch.ones(1, dtype=torch.float64)
            return float(scheduler.scale_model_input(one, scheduler.timesteps[i]).item())

    def _step(self, scheduler: Any, x: Tensor, i: int, ts: np.ndarray, memory: Any) -> tuple[Tensor, Any]:
        unit = torch.ones_like(x)
        unit[0] = X0
        noise = x[1:].norm().item()
        x0, eps = torch.zeros_like(x), x / noise if noise else torch.zeros_like(x)
        x0[0], eps[0] = 1.0, 0.0
        sample, output = ((y * unit).view(-1, 1, 1, 1) for y in (x, self.levels.output(x, x0, eps)))
        if self.learned:
            output = torch.cat([output, torch.full_like(output, -1.0)], 1)  # the smallest variance, the posterior's
        arguments = {"model_output": output, "timestep": scheduler.timesteps[i], "sample": sample} | self.options
        if "timestep_back" in self.signature:
            before = scheduler.timesteps[i - 1] if i else None
            arguments |= {"timestep_back": before, "old_pred_original_sample": memory}
        if "prev_timestep" in self.signature:
            arguments["prev_timestep"] = scheduler.timesteps[i + 1] if i + 1 < len(ts) else None
        with theirs(f"{self.name}.step"), self.noise if self.draws else contextlib.nullcontext():
            out = scheduler.step(**arguments, return_dict=False)
            return out[0].double().flatten() / unit, out[1] if len(out) > 1 else None
