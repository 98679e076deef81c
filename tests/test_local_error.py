"""Truncation errors against their closed forms for a frozen denoiser."""

import math

import pytest
import torch

import zsnr
from lab.measure.local_error import frozen, local_errors, step
from zsnr.path import ANGLE, EDM, FLOW, VE, VP

Y = torch.tensor([0.4, -0.3, 0.8], dtype=torch.float64)
U = torch.tensor([[2.0, -1.0, 2.0], [0.0, 3.0, 4.0]], dtype=torch.float64)  # norms 3 and 5
STEPS = [(80.0, 60.0), (2.0, 1.9), (1.27, 0.02), (0.0374, 0.02)]


def point(x, phi):
    """The denoiser that always answers D = Y: its solutions are Y + sigma u."""
    return (math.cos(phi) * x - Y) / math.sin(phi)


def x_phi(sigma):
    return (Y + sigma * U) * math.cos(math.atan(sigma))


@pytest.mark.parametrize(("a", "b"), STEPS)
@pytest.mark.parametrize(("order", "sign"), [(1, 1), (2, -1)])
def test_a_step_on_the_ve_path_errs_by_the_closed_form(a, b, order, sign):
    """Along u itself: Euler stops short, Heun goes too far."""
    reached = step(point, x_phi(a), math.atan(a), math.atan(b), order=order) / math.cos(math.atan(b))
    error = sign * frozen(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64), order)
    torch.testing.assert_close(reached - (Y + b * U), error * U, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("a", "b"), STEPS)
def test_the_protocol_measures_the_closed_forms_up_to_its_own_truth(a, b):
    """The truth is Euler too, of 200 steps, and errs by a product that is known."""
    t = torch.linspace(a * a, b * b, 201, dtype=torch.float64)
    truth = a * (1 + t.diff() / (2 * t[:-1])).prod() - b
    found = local_errors(point, x_phi(a), math.atan(a), math.atan(b))
    for errors, order, sign in zip(found, (1, 2), (1, -1), strict=True):
        law = frozen(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64), order)
        torch.testing.assert_close(errors, (sign * law - truth).abs() * U.norm(dim=1), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(("a", "b"), STEPS)
def test_a_frozen_denoiser_costs_nothing_where_sigma_is_the_time(a, b):
    for errors in local_errors(point, x_phi(a), math.atan(a), math.atan(b), path=EDM, substeps=10):
        assert errors.max() < 1e-12 * a


@pytest.mark.parametrize("path", [ANGLE, FLOW, EDM, VE, VP], ids=lambda path: path.name)
@pytest.mark.parametrize(("phi", "psi"), [(1.0, 0.7), (0.7, 1.0)], ids=["down", "up"])
def test_steps_have_their_local_order_in_both_directions(path, phi, psi):
    data = zsnr.Gaussian(torch.tensor([0.3, -1.0]), torch.tensor([0.2, 3.0]))
    x = torch.tensor([[1.0, -0.5]], dtype=torch.float64)
    for order in (1, 2):
        errors = []
        for h in (0.02, 0.01):
            end = phi + h * math.copysign(1, psi - phi)
            reached = step(data, x, phi, end, path=path, order=order)
            errors.append((reached - data.solve(x, phi, end)).norm())
        assert math.log2(errors[0] / errors[1]) == pytest.approx(order + 1, abs=0.15)


@pytest.mark.parametrize("path", [EDM, VE], ids=lambda path: path.name)
def test_a_chain_of_steps_is_the_sampler(path):
    data = zsnr.Gaussian(torch.tensor([0.3, -1.0]), torch.tensor([0.2, 3.0]))
    noise = zsnr.randn((4, 2), zsnr.generators(range(4)), torch.float64)
    for order, sampler in ((1, zsnr.euler), (2, zsnr.heun)):
        states = []
        grid = zsnr.karras(6, 0.02)
        sampler(data, noise, grid, path=path, callback=lambda i, phi, x, v, states=states: states.append(x))
        x = noise
        for i in range(5):
            torch.testing.assert_close(x, states[i], rtol=1e-12, atol=1e-12)
            x = step(data, x, grid[i].item(), grid[i + 1].item(), path=path, order=order)


@pytest.mark.parametrize(("rho", "order"), [(2, 1), (3, 2)])
def test_these_rhos_level_the_error(rho, order):
    """In the limit of small steps; at any other rho of the two it is not level."""
    for other in (2, 3):
        sigma = torch.tan(zsnr.karras(4001, 0.02, 80.0, other))[:-1]
        error = frozen(sigma[:-1], sigma[1:], order)
        assert (error.max() / error.min() < 1.05) == (other == rho)


def test_the_image_itself_is_refused():
    for ends in ((1.0, 0.0), (0.0, 1.0)):
        with pytest.raises(ValueError, match="above 0"):
            step(point, x_phi(1.0), *ends)
