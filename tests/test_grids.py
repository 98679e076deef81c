"""Time steps against Table 2 and exact integer arithmetic; grids against their formulas."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zsnr.grids import SPACINGS, grid, karras, power, skewed, timesteps, uniform
from zsnr.schedule import rescale_zero_terminal_snr, stable_diffusion

ZERO_SNR = rescale_zero_terminal_snr(stable_diffusion())
TABLE_2 = {
    "leading": [1, 101, 201, 301, 401, 501, 601, 701, 801, 901],
    "linspace": [1, 112, 223, 334, 445, 556, 667, 778, 889, 1000],
    "trailing": [100, 200, 300, 400, 500, 600, 700, 800, 900, 1000],
}


def nearest(p: int, q: int) -> int:
    """p / q rounded to the nearest integer, ties to even, in integers."""
    k, rest = divmod(p, q)
    return k + (2 * rest > q or (2 * rest == q and k % 2))


def check(S: int, T: int) -> None:
    """S different steps within 1 .. T, where each spacing puts them."""
    leading, linspace, trailing = (timesteps(spacing, S, T) for spacing in SPACINGS)
    for steps in (leading, linspace, trailing):
        assert len(steps) == S
        assert all(a < b for a, b in pairwise(steps))
        assert steps[0] >= 1
        assert steps[-1] <= T
    assert leading == list(range(1, S * (T // S) + 1, T // S))
    assert linspace[-1] == trailing[-1] == T
    assert S == 1 or linspace[0] == 1
    assert trailing == [nearest(T * S - k * T, S) for k in reversed(range(S))]
    assert S == 1 or linspace == [nearest(S - 1 + k * (T - 1), S - 1) for k in range(S)]


@pytest.mark.parametrize("spacing", SPACINGS)
def test_table_2(spacing):
    assert timesteps(spacing, 10) == TABLE_2[spacing]


@pytest.mark.parametrize("T", [1, 2, 10, 37, 100, 1000])
def test_every_number_of_steps(T):
    for S in range(1, T + 1):
        check(S, T)


@pytest.mark.parametrize("S", [1, 2, 49, 98, 333, 511, 512, 513, 1023, 1024])
def test_a_schedule_of_1024_steps(S):
    check(S, 1024)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5000).flatmap(lambda T: st.tuples(st.integers(1, T), st.just(T))))
def test_any_schedule(numbers):
    check(*numbers)


def test_all_of_the_steps_is_all_of_the_steps():
    assert all(timesteps(spacing, 37, 37) == list(range(1, 38)) for spacing in SPACINGS)


@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
def test_a_grid_from_zero_snr_starts_at_exactly_a_right_angle_and_ends_at_0(spacing):
    angles = grid(ZERO_SNR, 10, spacing)
    assert angles[0].item() == math.pi / 2
    assert angles[-1].item() == 0.0
    assert (angles.diff() < 0).all()
    steps = torch.tensor(timesteps(spacing, 10)[::-1]) - 1
    assert torch.equal(angles[:-1], ZERO_SNR.angle[steps])


def test_leading_steps_of_a_zero_snr_schedule_warn_and_others_do_not():
    with pytest.warns(UserWarning, match=r"starts at t = 901, not at T = 1000(.|\n)*spacing='trailing'") as caught:
        grid(ZERO_SNR, 10, "leading")
    assert caught[0].filename == __file__
    grid(ZERO_SNR, 1000, "leading")
    grid(stable_diffusion(), 10, "leading")


@pytest.mark.parametrize("phi_max", [math.pi / 2, 1.0])
@pytest.mark.parametrize("N", [1, 2, 40])
def test_uniform_power_and_skewed_run_from_phi_max_to_0_as_their_formulas_say(N, phi_max):
    u = torch.arange(N, -1, -1, dtype=torch.float64) / N
    torch.testing.assert_close(uniform(N, phi_max), u * phi_max, rtol=1e-15, atol=0)
    top = (math.tan(phi_max) ** (1 / 1.5) / (1 + math.tan(phi_max) ** (1 / 1.5))) if phi_max < math.pi / 2 else 1.0
    inner = power(N, 1.5, phi_max)[1:-1]
    torch.testing.assert_close(inner.tan(), (top * u / (1 - top * u))[1:-1] ** 1.5, rtol=1e-12, atol=0)
    inner = (skewed(N, 3.0, 1.5, phi_max) * (math.pi / 2 / phi_max))[1:-1]
    torch.testing.assert_close(inner.tan(), (u**3 / (1 - u) ** 1.5)[1:-1], rtol=1e-12, atol=0)
    for angles in (uniform(N, phi_max), power(N, 1.5, phi_max), skewed(N, phi_max=phi_max)):
        assert (angles[0].item(), angles[-1].item(), len(angles)) == (phi_max, 0.0, N + 1)
        assert (angles.diff() < 0).all()


def test_karras_is_edms_equation_5():
    sigma = karras(18, sigma_data=0.5).tan() * 0.5
    expected = [(80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(18)]
    torch.testing.assert_close(sigma, torch.tensor([*expected, 0.0], dtype=torch.float64), rtol=1e-10, atol=0)
    uniform_steps = karras(5, 1.0, 9.0, rho=1.0).tan()
    torch.testing.assert_close(uniform_steps, torch.tensor([9, 7, 5, 3, 1, 0.0], dtype=torch.float64))
    assert karras(1).tolist() == [math.atan(80), 0.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: timesteps("trailing", 0), "0 sampling steps from a schedule of T = 1000: choose 1 to 1000"),
        (lambda: timesteps("trailing", -1), "-1 sampling steps from a schedule of T = 1000: choose 1 to 1000"),
        (lambda: timesteps("trailing", 1001), "1001 sampling steps from a schedule of T = 1000: choose 1 to 1000"),
        (lambda: timesteps("trailling", 10), "'trailling'; choose one of leading, linspace, trailing"),
        (lambda: uniform(0), "N = 0"),
        (lambda: power(0), "N = 0"),
        (lambda: karras(0), "N = 0"),
        (lambda: skewed(0), "N = 0"),
        (lambda: skewed(5, rho_noise=0.0), "above 0 and finite; got 2.25 and 0.0"),
        (lambda: uniform(5, 0.0), r"\(0, pi/2\]; got 0.0"),
        (lambda: power(5, 1.5, 2.0), r"\(0, pi/2\]; got 2.0"),
        (lambda: uniform(5, math.nan), "nan"),
        (lambda: karras(5, sigma_max=math.inf), "From zero SNR, use `power`"),
        (lambda: karras(5, 0.0), "0 < sigma_min"),
        (lambda: karras(5, 2.0, 1.0), "2.0, 1.0"),
        (lambda: karras(5, rho=0), "rho = 0"),
    ],
)
def test_what_is_not_a_grid_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_exponents_too_small_for_a_float_are_refused():
    with pytest.raises(ValueError, match="rho = 1e-06 is too small"):
        karras(2, rho=1e-6)
    with pytest.raises(ValueError, match="exponent = 1e-300 is too small"):
        power(2, 1e-300, 0.5)
