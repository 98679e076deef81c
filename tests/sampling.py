"""What tests of all samplers share."""

from zsnr.samplers import SAMPLERS, churn


def with_generators(run):
    """A sampler that takes `generators` and, where it draws no noise, does not pass them on."""
    stochastic = getattr(getattr(run, "func", run), "stochastic", False)

    def called(*arguments, generators=None, **options):
        return run(*arguments, **options, **({"generators": generators} if stochastic else {}))

    return called


def without_raise(*arguments, **options):
    """Algorithm 2 with the churn of Heun's method, none."""
    return churn(*arguments, S_churn=0.0, **options)


without_raise.stochastic = True
FIXED_STEP = {n: with_generators(without_raise if n == "churn" else s) for n, s in SAMPLERS.items() if n != "rk45"}
"""All samplers with steps of their own, by name."""
