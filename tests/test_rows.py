"""Samplers as tables of rows: one that a user writes, what each takes, and that the table alone decides."""

import inspect
import math
import pickle
from itertools import pairwise

import pytest
import torch
from sampling import ALL, STOCHASTIC, never, seeded, slope

import zsnr
from zsnr.grids import power, uniform
from zsnr.rows import Row, sampler
from zsnr.samplers import SAMPLERS, rotation

G, normal = seeded()
NOISE = normal(4, 3)
GAUSSIAN = zsnr.Gaussian(torch.tensor([0.5, -1.0, 0.0]), torch.tensor([1 / 16, 2.0, 8.0]))


@sampler()
def adams_bashforth(angles, order=2):
    """Two steps' answers, one evaluation a step: x <- x + h v + h^2 / (2 h') (v - v'), h' the step before."""
    h_last = math.inf
    for phi, psi in pairwise(angles[:-1]):
        h = psi - phi
        r = h / (2 * h_last) if order == 2 else 0.0
        yield Row(phi, 1.0, h * (1 + r), d=-h * r)
        h_last = h
    yield rotation(angles[-2])


@pytest.mark.parametrize("order", [1, 2])
def test_a_solver_of_ones_own_has_its_order(order):
    """From zero SNR to the image, exact Gaussian data."""
    steps, exact = [80, 160, 320], GAUSSIAN.solve(NOISE, math.pi / 2)
    errors = [(adams_bashforth(GAUSSIAN, NOISE, power(N), order=order) - exact).norm().item() for N in steps]
    assert slope(steps, errors) == pytest.approx(order, abs=0.1)
    if order == 1:
        assert torch.equal(adams_bashforth(GAUSSIAN, NOISE, power(9), order=1), zsnr.euler(GAUSSIAN, NOISE, power(9)))


def test_a_row_is_what_its_formula_says():
    """Each weight is on what it names, in a step's second call too; the first row calls nothing."""
    row, seen = Row(0.7, 0.0, 3.0, 5.0, 7.0, 11.0, stage=1), []
    table = [Row(1.0, 2.0, 0.0, stage=-1), Row(1.0, 0.5, -1.0), row, row._replace(a=13.0), Row(0.3, 1.0, 0.0)]
    x = sampler(stochastic=True)(lambda angles: table)(
        lambda x, phi: (x + phi).float(), NOISE, uniform(3), generators=torch.Generator().manual_seed(1),
        callback=lambda i, phi, x, v: seen.append((i, phi)),
    )  # fmt: skip
    source = torch.Generator().manual_seed(1)
    z = [torch.randn(NOISE.shape, generator=source, dtype=torch.float64) for _ in range(2)]
    x0 = 2 * NOISE
    v0 = (x0 + 1.0).float().double()
    x1 = 0.5 * x0 - v0
    v1 = (x1 + 0.7).float().double()
    x2 = 3 * v1 + 5 * x0 + 7 * v0 + 11 * z[0]
    v2 = (x2 + 0.7).float().double()
    torch.testing.assert_close(x, 13 * x2 + 3 * v2 + 5 * x1 + 7 * v1 + 11 * z[1], rtol=1e-12, atol=1e-12)
    assert seen == [(0, 1.0), (1, 0.3)]


def test_a_sampler_takes_what_it_uses_and_says_so():
    tested, stochastic = ({name.split(",")[0] for name in names} for names in (ALL, STOCHASTIC))
    assert tested == set(SAMPLERS)
    assert str(inspect.signature(adams_bashforth)).endswith("grid: 'Tensor', *, order=2, "
        "callback: 'Callback' = None, progress: 'bool' = False) -> 'Tensor'")  # fmt: skip
    for name, run in SAMPLERS.items():
        takes = inspect.signature(run).parameters
        assert list(takes)[:3] == ["denoiser", "noise", "grid"]
        assert ("generators" in takes) == (name in stochastic)
        assert ("progress" in takes) == (name != "rk45")
        assert pickle.loads(pickle.dumps(run)) is run
        assert run.__name__ == name
        for unknown in {"generators", "progress", "strength"} - set(takes):
            with pytest.raises(TypeError, match=rf"{name}\(\) got an unexpected keyword argument '{unknown}'"):
                run(never, NOISE, uniform(3), **{unknown: None})
