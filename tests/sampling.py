"""What tests of all samplers share."""

from functools import partial

from zsnr.samplers import SAMPLERS, churn, ddim, ddpm, euler_maruyama


def with_generators(run):
    """A sampler that takes `generators` and, where it draws no noise, does not pass them on."""
    if getattr(getattr(run, "func", run), "stochastic", False):
        return run
    return lambda *arguments, generators=None, **options: run(*arguments, **options)


STOCHASTIC = {
    "ddpm": ddpm,
    "ddim, eta 1": partial(ddim, eta=1.0),
    "ddim, eta .5": partial(ddim, eta=0.5),
    "churn": partial(churn, S_churn=3.0),
    "churn, Euler": partial(churn, S_churn=3.0, order=1),
    "euler_maruyama": euler_maruyama,
}
DETERMINISTIC = {name: with_generators(SAMPLERS[name]) for name in ("ddim", "euler", "heun", "rk2", "dpmpp_2m")}
FIXED_STEP = DETERMINISTIC | STOCHASTIC
ALL = FIXED_STEP | {"rk45": with_generators(SAMPLERS["rk45"])}
