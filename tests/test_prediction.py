"""Conversions between eps, x0 and v, and the weights of their losses, by the definitions of x and v."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zsnr.prediction import PREDICTIONS, check_prediction, cos_sin, loss_weight, target, to_eps, to_v, to_x0
from zsnr.schedule import rescale_zero_terminal_snr, stable_diffusion

X0, EPS = torch.randn(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
RIGHT = math.pi / 2
CONVERT = {"eps": to_eps, "x0": to_x0, "v": to_v}


def truth(phi: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """x at an angle, and what each kind of network should say there."""
    c, s = (0.0, 1.0) if phi == RIGHT else (math.cos(phi), math.sin(phi))
    return c * X0 + s * EPS, {"eps": EPS, "x0": X0, "v": c * EPS - s * X0}


def check(phi: float, given: str, tolerance: float) -> None:
    x, answers = truth(phi)
    for wanted, convert in CONVERT.items():
        got = convert(answers[given], x, phi, given)
        torch.testing.assert_close(got, answers[wanted], rtol=0, atol=tolerance)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, RIGHT - 0.01), st.sampled_from(PREDICTIONS))
def test_each_prediction_gives_the_others(phi, given):
    check(phi, given, 1e-12)


@pytest.mark.parametrize("given", ["v", "x0"])
def test_zero_snr_is_an_ordinary_angle_for_v_and_x0(given):
    check(RIGHT, given, 1e-15)


def test_at_zero_snr_v_is_minus_x0_and_eps_is_the_input():
    x, answers = truth(RIGHT)
    assert cos_sin(RIGHT) == (0.0, 1.0)
    assert torch.equal(answers["v"], -X0)
    assert torch.equal(to_x0(answers["v"], x, RIGHT, "v"), X0)
    assert torch.equal(to_eps(answers["v"], x, RIGHT, "v"), x)
    assert torch.equal(to_v(X0, x, RIGHT, "x0"), -X0)


@pytest.mark.parametrize("given", ["v", "eps"])
def test_the_image_itself_is_an_ordinary_angle_for_v_and_eps(given):
    check(0.0, given, 1e-15)


@pytest.mark.parametrize("convert", [to_v, to_x0])
def test_eps_at_zero_snr_says_what_to_do(convert):
    with pytest.raises(ValueError, match=r"zero terminal SNR(.|\n)*predicts v or x0"):
        convert(EPS, EPS, RIGHT, "eps")
    with pytest.raises(ValueError, match="zero terminal SNR"):
        check_prediction("eps", rescale_zero_terminal_snr(stable_diffusion()))
    check_prediction("eps", stable_diffusion())


@pytest.mark.parametrize("convert", [to_v, to_eps])
def test_x0_at_the_image_leaves_the_noise_undetermined(convert):
    with pytest.raises(ValueError, match="undetermined"):
        convert(X0, X0, 0.0, "x0")


@pytest.mark.parametrize("convert", CONVERT.values())
def test_an_unknown_prediction_is_refused(convert):
    with pytest.raises(ValueError, match="'epsilon'; choose one of eps, x0, v"):
        convert(EPS, EPS, 1.0, "epsilon")


@pytest.mark.parametrize("wrong", [EPS[:1], EPS[:, :, :1], EPS[None], EPS.mean()], ids=lambda w: str(w.shape))
@pytest.mark.parametrize("given", PREDICTIONS)
@pytest.mark.parametrize("convert", CONVERT.values())
def test_an_answer_that_would_be_broadcast_is_refused(convert, given, wrong):
    with pytest.raises(ValueError, match=r"an answer of shape \(.*\) to a state of shape \(3, 1, 4, 4\): give"):
        convert(wrong, EPS, 1.0, given)


def test_targets_are_what_conversions_invert():
    phi = torch.tensor([0.1, 1.0, RIGHT], dtype=torch.float64).view(-1, 1, 1, 1)
    x = phi.cos() * X0 + phi.sin() * EPS
    for prediction in PREDICTIONS:
        goal = target(prediction, X0, EPS, phi.cos(), phi.sin())
        for i, angle in enumerate((0.1, 1.0)):
            torch.testing.assert_close(to_x0(goal[i : i + 1], x[i : i + 1], angle, prediction), X0[i : i + 1])
    with pytest.raises(ValueError, match="'noise'"):
        target("noise", X0, EPS, phi.cos(), phi.sin())


@pytest.mark.parametrize(("loss", "prediction"), itertools.product(PREDICTIONS, repeat=2))
def test_a_weighted_error_is_the_error_in_the_losss_own_variable(loss, prediction):
    phi = 0.7
    x, answers = truth(phi)
    wrong = answers[prediction] + torch.randn(X0.shape, generator=torch.Generator().manual_seed(1), dtype=X0.dtype)
    own = (CONVERT[loss](wrong, x, phi, prediction) - answers[loss]).square().mean()
    weight = loss_weight(loss, prediction, *torch.tensor([math.cos(phi), math.sin(phi)], dtype=X0.dtype))
    torch.testing.assert_close(weight * (wrong - answers[prediction]).square().mean(), own, rtol=1e-12, atol=0)
