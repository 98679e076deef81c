r"""The law behind medium brightness: what sampling does to one direction of Gaussian data, wherever it starts.

Along a direction of variance L (n Var(mean) for the mean of n equal pixels), for a model trained with noise of variance
nu along that direction (1 for iid noise, 1 + 0.01 n for the mean under offset noise of strength 0.1), the
probability-flow ODE from x at alpha_bar, the limit of many steps, is affine:

    out = mean + sqrt(L / d) (x - sqrt(alpha_bar) mean),     d = alpha_bar L + (1 - alpha_bar) nu

From x = sqrt(alpha_bar) m + sqrt(1 - alpha_bar) eps', with m of mean m_mean and variance m_var, eps' of variance noise,

    mean           = true mean + sqrt(alpha_bar L / d) (m_mean - true mean)                                  (`started`)
    std / true std = sqrt((alpha_bar m_var + (1 - alpha_bar) noise) / d)

which is exact where m is distributed as the data are and noise = nu. For image-to-image m is one picture: of its
distance from the data's mean a share survives, and the rest is fresh,

    out = mean + share (m - mean) + fresh sqrt(L) z,     z ~ N(0, 1)                                            (`kept`)
    share = sqrt(alpha_bar L / d),   fresh = sqrt((1 - alpha_bar) noise / d),   share^2 + fresh^2 = 1 where noise = nu

Sampling from pure noise of variance `start`, as is usual, is the start whose m is itself such noise:

    std / true std = sqrt(start / nu) / sqrt(alpha_bar_T L / nu + 1 - alpha_bar_T)                         (`predicted`)
    mean           = true mean (1 - sqrt(alpha_bar_T L / (alpha_bar_T L + (1 - alpha_bar_T) nu)))

Both are 1 and exact at alpha_bar_T = 0 where start = nu. Where l = alpha_bar_T L is small it costs the std l / 2 of
itself, but the mean sqrt(l). Derived for this project from the ODE's exact solution for Gaussian data
(`zsnr.denoisers.Gaussian`); it is in neither paper.
"""

from __future__ import annotations

import math


def predicted(
    alpha_bar_T: float, variance: float, mean: float = 0.0, nu: float = 1.0, start: float = 1.0
) -> tuple[float, float]:
    """(mean, std / true std) of what is generated along a direction, in the limit of many steps.

    Args:
        variance, mean: of the data along the direction.
        nu: variance of the training noise there.
        start: variance of the noise that sampling starts from.
    """
    total = _total(alpha_bar_T, variance, nu, start)
    return mean * (1 - math.sqrt(alpha_bar_T * variance / total)), math.sqrt(start / total)


def started(
    alpha_bar: float,
    variance: float,
    mean: float = 0.0,
    start_mean: float = 0.0,
    start_variance: float = 0.0,
    nu: float = 1.0,
    noise: float = 1.0,
) -> tuple[float, float]:
    """As `predicted`, from m of mean start_mean and variance start_variance (0: fixed), noised to alpha_bar.

    Args:
        noise: variance of the noise that m is noised with; nu is that of training.
    """
    share, fresh = kept(alpha_bar, variance, nu, noise)
    total = _total(alpha_bar, variance, nu, noise, start_variance)
    return mean + share * (start_mean - mean), math.hypot(math.sqrt(alpha_bar * start_variance / total), fresh)


def kept(alpha_bar: float, variance: float, nu: float = 1.0, noise: float = 1.0) -> tuple[float, float]:
    """(share, fresh) of image-to-image: what survives of m - mean, and the std, in the data's, of what is new."""
    total = _total(alpha_bar, variance, nu, noise)
    return math.sqrt(alpha_bar * variance / total), math.sqrt((1 - alpha_bar) * noise / total)


def _total(alpha_bar: float, variance: float, nu: float, *starts: float) -> float:
    """d, the variance of x_T along the direction in training."""
    if not 0 <= alpha_bar < 1 or variance < 0 or nu <= 0 or min(starts) < 0:
        raise ValueError(f"not a leak: alpha_bar = {alpha_bar}, variance = {variance}, nu = {nu}, start = {starts}")
    return alpha_bar * variance + (1 - alpha_bar) * nu
