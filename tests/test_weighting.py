"""The table of loss weights against its own formulas, the papers' forms, and what a training does with them."""

import math
import re

import pytest
import torch
from sampling import seeded
from torch import nn

import zsnr
from lab.models.training import ScheduleRecipe, objective
from zsnr import edm
from zsnr.path import FLOW
from zsnr.prediction import PREDICTIONS, X0_WEIGHTS, check_loss, loss_weight, target
from zsnr.schedule import rescale_zero_terminal_snr, stable_diffusion

SD = stable_diffusion()
ZERO_SNR = rescale_zero_terminal_snr(SD)
G, normal = seeded()
ROW = re.compile(r"^\| (\S+) +\| (.+?) +\| (\d) +\| (.+?) +\|$", re.MULTILINE)
TABLE = {name: (formula, int(value), source) for name, formula, value, source in ROW.findall(zsnr.prediction.__doc__)}
every_loss = pytest.mark.parametrize("loss", X0_WEIGHTS)


def angles(n: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of random angles, small and near pi/2 ones among them."""
    phi = torch.atan(torch.exp(4 * torch.randn(n, generator=G, dtype=torch.float64)))
    return phi.cos(), phi.sin()


def x0_weight(loss: str, c: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    return X0_WEIGHTS[loss]((c / s) ** 2)


# the table


def test_the_table_has_every_weight():
    assert list(TABLE) == list(X0_WEIGHTS)
    assert set(PREDICTIONS) <= set(TABLE)


@every_loss
def test_a_row_says_the_formula_that_is_computed(loss):
    text = TABLE[loss][0].replace("^", "**")
    text = re.sub(r"(\d|\)) SNR", r"\1 * SNR", text)  # a product without its sign
    c, s = angles()
    names = {"SNR": (c / s) ** 2, "sqrt": torch.sqrt, "exp": math.exp, "min": torch.minimum, "max": torch.maximum}
    text = re.sub(r"(min|max)\(SNR, (\d)\)", r"\1(SNR, 0 * SNR + \2)", text)
    expected = eval(text, {"__builtins__": {}}, names) + torch.zeros_like(c)
    torch.testing.assert_close(x0_weight(loss, c, s), expected, rtol=1e-12, atol=0)


@every_loss
def test_a_row_says_the_value_at_zero_snr(loss):
    value = TABLE[loss][1]
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    assert x0_weight(loss, zero, one).item() == value
    assert loss_weight(loss, "v", zero, one).item() == value
    assert loss_weight(loss, "x0", zero, one).item() == value
    # and it is no single point: the weight goes there
    h = torch.full((1,), 1e-9, dtype=torch.float64)
    assert x0_weight(loss, h.sin(), h.cos()).item() == pytest.approx(value, abs=1e-8)


# one loss, whatever is predicted


@every_loss
def test_the_loss_of_an_error_is_the_same_in_every_prediction(loss):
    c, s = angles()
    x0, eps, off = normal(200), normal(200), normal(200)
    x = c * x0 + s * eps
    denoised = x0 + off
    noise = (x - c * denoised) / s
    said = {"x0": denoised, "eps": noise, "v": c * noise - s * denoised}
    expected = x0_weight(loss, c, s) * off**2
    for prediction, value in said.items():
        error = target(prediction, x0, eps, c, s) - value
        found = loss_weight(loss, prediction, c, s) * error**2
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-12, msg=f"{loss} of {prediction}")


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_plain_loss_of_a_prediction_has_weight_1(prediction):
    c, s = angles()
    assert torch.equal(loss_weight(prediction, prediction, c, s), torch.ones_like(c))


@pytest.mark.parametrize("loss", PREDICTIONS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_plain_losses_follow_the_rule_of_the_others(loss, prediction):
    """They take another way, for which sigma may be 0."""
    c, s = angles()
    unit = {"x0": 1.0, "v": s, "eps": s / c}[prediction]
    torch.testing.assert_close(loss_weight(loss, prediction, c, s), x0_weight(loss, c, s) * unit**2)


# the papers' own forms


def test_min_snr_as_diffusers_trains_with_it():
    """examples/text_to_image: min(snr, gamma) / snr on eps, / (snr + 1) on v (Hang et al., Sec. 3.4)."""
    c, s = angles()
    snr = (c / s) ** 2
    capped = torch.stack([snr, 5 * torch.ones_like(snr)], 1).min(1)[0]
    for prediction, expected in (("eps", capped / snr), ("v", capped / (snr + 1)), ("x0", capped)):
        torch.testing.assert_close(loss_weight("min-snr-5", prediction, c, s), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("loss", "on_eps"),
    [
        ("p2", lambda snr: 1 / (1 + snr)),  # Choi et al. Eq. 8: 1 / (k + SNR)^gamma
        ("debiased", lambda snr: 1 / snr.sqrt()),  # Yu et al.: 1 / sqrt(SNR)
        ("sigmoid", lambda snr: torch.sigmoid(2 - snr.log())),  # Kingma & Gao: sigmoid(b - lambda), b = 2
        ("truncated", lambda snr: (1 / snr).clamp(min=1)),
        ("soft-min-snr-5", lambda snr: 1 / (1 + snr / 5)),
    ],
)
def test_weights_that_their_papers_give_for_eps(loss, on_eps):
    c, s = angles()
    torch.testing.assert_close(loss_weight(loss, "eps", c, s), on_eps((c / s) ** 2), rtol=1e-10, atol=0)


@pytest.mark.parametrize("phi", [0.01, 0.3, math.pi / 4, 1.2, 1.56, math.pi / 2])
def test_flow_is_the_velocity_loss_on_the_straight_path(phi):
    p = FLOW.at(phi)
    x0, eps, denoised = normal(20), normal(20), normal(20)
    x = (1 - p.t) * x0 + p.t * eps
    noise = (x - (1 - p.t) * denoised) / p.t
    velocity = ((noise - denoised) - (eps - x0)) ** 2
    alpha, sigma = torch.tensor([(1 - p.t) / p.n, p.t / p.n], dtype=torch.float64)
    weight = x0_weight("flow", alpha, sigma)
    torch.testing.assert_close(weight * (x0 - denoised) ** 2, velocity, rtol=1e-9, atol=0)


@pytest.mark.parametrize("sigma_data", [1.0, 0.5])
def test_F_is_edms_weight_and_plain_loss_of_its_network(sigma_data):
    """lambda |D - y|^2 = |F error|^2 = |v error|^2, in units of sigma_data."""
    column = edm.column("edm", sigma_data=sigma_data)
    c, s = angles()
    sigma = sigma_data * s / c
    torch.testing.assert_close(x0_weight("F", c, s), column.weight(sigma) * sigma_data**2, rtol=1e-10, atol=0)
    c_out = column.precondition(sigma)[1]
    torch.testing.assert_close(column.weight(sigma) * c_out**2, torch.ones_like(c), rtol=1e-10, atol=0)
    assert torch.equal(x0_weight("F", c, s), x0_weight("v", c, s))


# refusals


@pytest.mark.parametrize("loss", ["snr", "", "min-snr"])
def test_an_unknown_loss_is_refused_with_those_there_are(loss):
    message = f"unknown loss {loss!r}; choose one of x0, eps, v, F, flow, .*min-snr-5, .*sigmoid"
    one = torch.ones(1)
    for refuse in (
        lambda: check_loss(loss),
        lambda: loss_weight(loss, "v", one, one),
        lambda: check_loss(loss) if not loss else ScheduleRecipe("v", loss).check(),  # empty: the prediction's
    ):
        with pytest.raises(ValueError, match=message):
            refuse()


def test_an_unknown_prediction_is_refused():
    with pytest.raises(ValueError, match="'F'; choose one of eps, x0, v"):
        loss_weight("min-snr-5", "F", torch.ones(1), torch.ones(1))


@pytest.mark.parametrize("loss", [loss for loss in X0_WEIGHTS if loss != "eps"])
def test_an_eps_error_at_zero_snr_has_no_weight(loss):
    with pytest.raises(ValueError, match=r"eps error at zero SNR(.|\n)*predict v or x0"):
        loss_weight(loss, "eps", torch.tensor([0.5, 0.0]), torch.tensor([0.75**0.5, 1.0]))


# in training


class Scalar(nn.Module):
    """One trainable number, which is its prediction everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.3))

    def forward(self, x, step, class_labels):
        return self.w.expand_as(x)


def a_loss(recipe: ScheduleRecipe, schedule, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The loss, its gradient, and the x0 errors."""
    recipe.check()
    net, x0, eps = Scalar(), normal(len(t), 1, 4, 4).float(), normal(len(t), 1, 4, 4).float()
    value = objective(net, x0, eps, t, torch.zeros(len(t), 2), schedule, recipe)
    value.backward()
    c = schedule.sqrt_alpha_bar[t].view(-1, 1, 1, 1)
    s = (1 - c**2).sqrt()
    x = c * x0 + s * eps
    said = torch.full_like(x, 0.3)
    denoised = {"x0": said, "v": c * x - s * said, "eps": (x - s * said) / c}[recipe.prediction]
    return value.detach(), net.w.grad, (x0 - denoised) ** 2


@every_loss
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_objective_weighs_the_x0_error_by_the_table(loss, prediction):
    schedule = SD if prediction == "eps" else ZERO_SNR
    t = torch.tensor([100, 400, 800, 998])
    value, _, error = a_loss(ScheduleRecipe(prediction, loss), schedule, t)
    c = schedule.sqrt_alpha_bar[t]
    weight = x0_weight(loss, c, (1 - c**2).sqrt()).view(-1, 1, 1, 1)
    torch.testing.assert_close(value.double(), (weight * error).mean(), rtol=1e-4, atol=0)


@every_loss
@pytest.mark.parametrize("prediction", ["v", "x0"])
def test_what_the_table_calls_0_at_zero_snr_trains_nothing_there(loss, prediction):
    """The gradient of the last step alone is exactly 0, or it is not."""
    last = torch.full((8,), 999)
    value, gradient, _ = a_loss(ScheduleRecipe(prediction, loss), ZERO_SNR, last)
    assert (gradient.item() == 0) == (TABLE[loss][1] == 0)
    assert (value.item() == 0) == (TABLE[loss][1] == 0)
    _, before, _ = a_loss(ScheduleRecipe(prediction, loss), ZERO_SNR, last - 1)
    assert before.item() != 0, "the step before is trained by all of them"


def test_that_is_what_sets_eps_and_min_snr_apart_from_v():
    assert [TABLE[loss][1] for loss in ("v", "eps", "min-snr-5")] == [1, 0, 0]
