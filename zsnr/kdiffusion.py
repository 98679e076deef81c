r"""Samplers under k-diffusion's signature, for its wrapped models D(x, sigma), x = x0 + sigma eps, from zero SNR too.

    sample_heun(model, x, sigmas, extra_args, callback, disable)              k-diffusion's
    sample(model, x, sigmas, extra_args, callback, disable, sampler=heun)     from the same x, or from sigmas[0] = inf

    x_phi = cos(phi) x,    phi = atan(sigma),    v = (cos(phi) x_phi - D) / sin(phi)

At zero SNR sigma is infinite and x_phi the noise itself. No wrapped model can be asked there: k-diffusion's own divide
infinity by itself. They have a stand-in, the sigma of the last trained step (4.5e3 in web interfaces), and above it the
model is asked at it: with x = x_phi / cos(phi_max), from whose answer v is read as if it were there,

    v = (cos(phi_max) x_phi - D) / sin(phi_max),    phi_max = atan(sigma_max)

For a network that predicts v this is what it says of x_phi at its last step, to rounding, whatever the stand-in is. For
an exact D it differs from v at zero SNR by (1 - L) / sigma_max noise, L the data's variance.

Source: the signature is that of github.com/crowsonkb/k-diffusion, of which nothing is imported; the rest is derived for
this project.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from zsnr.prediction import cos_sin, to_v
from zsnr.samplers import heun


@torch.no_grad()
def sample(
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    extra_args: Mapping[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    *,
    sampler: Callable[..., Tensor] = heun,
    sigma_max: float | None = None,
    **options: Any,
) -> Tensor:
    """The (B, ...) images of a sampler; `partial(sample, sampler=zsnr.ddim)` has k-diffusion's signature, too.

    Args:
        model: D, called as model(x, sigma, **extra_args) with sigma of shape (B,).
        x: (B, ...) x0 + sigmas[0] eps, as k-diffusion takes it; where sigmas[0] is infinite, eps itself, of unit std.
        sigmas: (N + 1,) falling, from infinity at most, to 0.
        callback: called at each step with a dict: i, sigma, sigma_hat (raised by churn), x, and denoised. At zero SNR x
            is the noise, as above.
        disable: no progress bar; None: none but on a terminal.
        sampler: of `zsnr.samplers`.
        sigma_max: the largest sigma that the model is asked at; by default its own `sigma_max`, where it has one.
        options: the sampler's own, such as path, S_churn, generators.

    Raises:
        ValueError: sigmas that are no grid; x that is not finite; an infinite sigma, and no sigma_max.
    """
    start = float(sigmas[0])
    top = float(getattr(model, "sigma_max", math.inf) if sigma_max is None else sigma_max)
    if not top > 0 or start == top == math.inf:
        raise ValueError(
            f"sigmas[0] = {start}, sigma_max = {top}: give sigma_max, the largest finite sigma that the model can be "
            "asked at, such as that of its last trained step"
        )
    if not x.isfinite().all():
        raise ValueError("x holds NaN or inf: from sigmas[0] = inf, give noise of unit std, not noise times sigma")

    def denoiser(x: Tensor, phi: float) -> Tensor:
        phi = min(phi, math.atan(top))
        sigma = x.new_full((len(x),), math.tan(phi))
        return to_v(model(x / math.cos(phi), sigma, **(extra_args or {})), x, phi, "x0")

    def tell(i: int, phi: float, x: Tensor, v: Tensor) -> None:
        c, s = cos_sin(phi)
        sigma_hat = sigmas.new_tensor(s / c if c else math.inf)
        state = {"x": x / c if c else x, "denoised": c * x - s * v}
        callback({"i": i, "sigma": sigmas[i], "sigma_hat": sigma_hat, **state})  # type: ignore[misc]

    bar = sys.stderr.isatty() if disable is None else not disable
    noise = x if start == math.inf else x / math.hypot(1, start)
    grid = sigmas.double().cpu().atan()
    return sampler(denoiser, noise, grid, callback=tell if callback else None, progress=bar, **options)
