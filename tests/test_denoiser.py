"""Exact denoisers against brute-force posteriors; networks at trained steps, between them and where they fail."""

import math

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from sampling import RIGHT, seeded
from torch import nn

from lab.models.backdrop import UniformBackdrop
from zsnr.denoisers import Empirical, Gaussian, NetworkDenoiser
from zsnr.prediction import PREDICTIONS, cos_sin, to_eps, to_v, to_x0
from zsnr.schedule import Schedule, rescale_zero_terminal_snr, stable_diffusion

ANGLES = [0.05, 0.4, 1.0, 1.5, RIGHT]
SD = stable_diffusion()
ZERO_SNR = rescale_zero_terminal_snr(SD)
G, normal = seeded()

MEAN, ROOT = normal(2, 3), normal(6, 6)
COVARIANCE = ROOT @ ROOT.T
GAUSSIANS = {
    "full": (Gaussian(MEAN, COVARIANCE), COVARIANCE),
    "diagonal": (Gaussian(MEAN, COVARIANCE.diag().view(2, 3)), COVARIANCE.diag().diag()),
    "singular": (Gaussian(MEAN, ROOT[:, :2] @ ROOT[:, :2].T), ROOT[:, :2] @ ROOT[:, :2].T),
}
every_gaussian = pytest.mark.parametrize(("gaussian", "covariance"), GAUSSIANS.values(), ids=GAUSSIANS)


@every_gaussian
@pytest.mark.parametrize("phi", ANGLES)
def test_gaussian_v_is_the_posterior_mean_by_linear_algebra(gaussian, covariance, phi):
    c, s = cos_sin(phi)
    x = 2 * normal(5, 2, 3)
    gain = torch.linalg.solve(c * c * covariance + s * s * torch.eye(6, dtype=x.dtype), (x - c * MEAN).flatten(1).T).T
    x0 = MEAN + (c * gain @ covariance).view_as(x)
    eps = s * gain.view_as(x)
    v = gaussian(x, phi)
    torch.testing.assert_close(v, c * eps - s * x0, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(c * x - s * v, x0, rtol=1e-10, atol=1e-10)


@every_gaussian
def test_the_exact_solution_follows_v(gaussian, covariance):
    x, h = normal(4, 2, 3), 1e-5
    for phi in (0.3, 1.0, 1.5):
        slope = (gaussian.solve(x, RIGHT, phi + h) - gaussian.solve(x, RIGHT, phi - h)) / (2 * h)
        torch.testing.assert_close(slope, gaussian(gaussian.solve(x, RIGHT, phi), phi), rtol=1e-7, atol=1e-7)


def spread(f) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of an affine map of standard normal noise, from where it takes 0 and the unit vectors."""
    mean = f(torch.zeros(1, 2, 3, dtype=torch.float64))
    columns = (f(torch.eye(6, dtype=torch.float64).view(6, 2, 3)) - mean).flatten(1)
    return mean[0], columns.T @ columns


@every_gaussian
def test_the_exact_solution_lands_on_the_datas_moments(gaussian, covariance):
    for f in (lambda x: gaussian.solve(x, RIGHT), gaussian.sample):
        mean, found = spread(f)
        torch.testing.assert_close(mean, MEAN, rtol=0, atol=1e-12)
        torch.testing.assert_close(
            found, covariance, rtol=0, atol=1e-6 if gaussian is GAUSSIANS["singular"][0] else 1e-12
        )


def test_the_exact_solution_composes_and_inverts():
    gaussian, x = GAUSSIANS["full"][0], normal(3, 2, 3)
    there = gaussian.solve(gaussian.solve(x, RIGHT, 0.7), 0.7, 0.2)
    torch.testing.assert_close(there, gaussian.solve(x, RIGHT, 0.2))
    torch.testing.assert_close(gaussian.solve(there, 0.2, RIGHT), x)


@pytest.mark.parametrize(
    ("covariance", "message"),
    [
        (ROOT, "not symmetric"),
        (torch.eye(5), r"\(6, 6\) matrix"),
        (-torch.eye(6), "-1"),
        (torch.full((2, 3), -1.0), "-1"),
    ],
)
def test_what_is_not_a_covariance_is_refused(covariance, message):
    with pytest.raises(ValueError, match=message):
        Gaussian(MEAN, covariance)


POINTS, WEIGHTS = normal(7, 2, 3), torch.tensor([1, 2, 3, 0.5, 1, 1, 4], dtype=torch.float64)


@pytest.mark.parametrize("phi", ANGLES)
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])
def test_empirical_is_the_posterior_mean_point_by_point(phi, weights):
    c, s = cos_sin(phi)
    index = torch.tensor([0, 3, 6, 6])
    x = c * POINTS[index] + s * normal(4, 2, 3)
    normal_at = torch.distributions.Normal
    likelihood = torch.stack([normal_at(c * y, s).log_prob(x).sum((1, 2)) for y in POINTS], 1)
    p = (likelihood + (WEIGHTS.log() if weights is not None else 0)).softmax(1)
    x0 = sum(p[:, i].view(-1, 1, 1) * y for i, y in enumerate(POINTS))
    eps = sum(p[:, i].view(-1, 1, 1) * (x - c * y) / s for i, y in enumerate(POINTS))
    torch.testing.assert_close(Empirical(POINTS, weights)(x, phi), c * eps - s * x0, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sigma", [0.2, 1.0, 5.0])
def test_two_points_have_edms_closed_form(sigma):
    phi, x = math.atan(sigma), normal(6, 1)
    v = Empirical(torch.tensor([[-1.0], [1.0]]))(math.cos(phi) * x, phi)
    torch.testing.assert_close(math.cos(phi) ** 2 * x - math.sin(phi) * v, torch.tanh(x / sigma**2))


@pytest.mark.parametrize("bad", [[1, math.inf], [1, math.nan], [1, -1, 2], [2, -1], [0, 0], [1], [[1, 1]]], ids=str)
def test_weights_that_are_no_probabilities_are_refused(bad):
    with pytest.raises(ValueError, match=r"weights of sum .*: give 2, one a point, finite and >= 0"):
        Empirical(POINTS[:2], torch.tensor(bad))


FOREGROUND, MASK = normal(3, 2, 4, 4).clamp(-1, 1), torch.rand(3, 1, 4, 4, generator=G) < 0.5
FOREGROUND = FOREGROUND * MASK
BACKDROP = UniformBackdrop(FOREGROUND, ~MASK)


def by_quadrature(x: torch.Tensor, phi: float, nodes: int = 8001) -> torch.Tensor:
    """v of pictures on backdrops, summed over levels that crowd towards -1 and 1."""
    c, s = cos_sin(phi)
    u = torch.linspace(0, math.pi, nodes, dtype=torch.float64)
    weight = u.sin().clamp(min=1e-300).log().repeat(3)
    pictures = torch.cat([torch.where(m, f, u.cos().view(-1, 1, 1, 1)) for f, m in zip(FOREGROUND, MASK, strict=True)])
    x0 = []
    for one in x:
        p = (weight - (one - c * pictures).square().sum((1, 2, 3)) / (2 * s * s)).softmax(0)
        x0.append((p.view(-1, 1, 1, 1) * pictures).sum(0))
    return (c * x - torch.stack(x0)) / s


@pytest.mark.parametrize("phi", [0.05, 0.3, 0.8, 1.3, math.atan(100), math.atan(4096)])
def test_backdrops_are_the_posterior_mean_by_quadrature(phi):
    level = torch.tensor([-1, -0.97, 0.2, 0.7, 1.0], dtype=torch.float64).view(-1, 1, 1, 1)
    index = torch.tensor([0, 1, 2, 0, 1])
    x = math.cos(phi) * torch.where(MASK[index], FOREGROUND[index], level) + math.sin(phi) * normal(5, 2, 4, 4)
    x[0] *= 2  # an improbable picture: its level is far out in the tail
    torch.testing.assert_close(BACKDROP(x, phi), by_quadrature(x, phi), rtol=1e-6, atol=1e-6)


def test_at_zero_snr_v_is_minus_the_mean_of_the_data():
    x = normal(4, 2, 3)
    for denoiser, mean in [
        (GAUSSIANS["full"][0], MEAN),
        (Empirical(POINTS), POINTS.mean(0)),
        (Empirical(POINTS, WEIGHTS), (WEIGHTS.view(-1, 1, 1) * POINTS).sum(0) / WEIGHTS.sum()),
    ]:
        torch.testing.assert_close(denoiser(x, RIGHT), -mean.expand_as(x), rtol=0, atol=1e-14)
    x = normal(4, 2, 4, 4)
    mean = torch.where(MASK, FOREGROUND, torch.zeros(())).mean(0)
    torch.testing.assert_close(BACKDROP(x, RIGHT), -mean.expand_as(x), rtol=0, atol=1e-14)


def test_a_foreground_that_leaves_no_backdrop_is_refused():
    with pytest.raises(ValueError, match="foreground 1 leaves no backdrop"):
        UniformBackdrop(FOREGROUND, torch.stack([~MASK[0], MASK[1] & False, ~MASK[2]]))


@pytest.mark.parametrize("denoiser", [GAUSSIANS["full"][0], GAUSSIANS["diagonal"][0], Empirical(POINTS)])
@pytest.mark.parametrize("phi", ANGLES)
def test_exact_denoisers_keep_the_states_dtype(denoiser, phi):
    x = normal(4, 2, 3)
    v = denoiser(x.float(), phi)
    assert v.dtype == torch.float32
    torch.testing.assert_close(v.double(), denoiser(x, phi), rtol=1e-3, atol=1e-3)
    assert BACKDROP(normal(2, 2, 4, 4).float(), phi).dtype == torch.float32


class Recorder(nn.Module):
    """Remembers how it was called, and answers with a constant."""

    def __init__(self, answer: float = 0.0) -> None:
        super().__init__()
        self.answer = nn.Parameter(torch.tensor(answer))

    def forward(self, x, step, **conditions):
        self.x, self.step, self.conditions = x, step, conditions
        return self.answer + torch.zeros_like(x)


@pytest.mark.parametrize("schedule", [SD, ZERO_SNR], ids=["leaky", "zero SNR"])
def test_a_trained_angle_is_its_integer_step(schedule):
    denoiser = NetworkDenoiser(Recorder(), schedule, "v")
    assert [denoiser.step(phi) for phi in schedule.angle.tolist()] == list(range(1000))


def test_between_trained_angles_the_step_is_linear_in_the_angle():
    denoiser, angles = NetworkDenoiser(Recorder(), ZERO_SNR, "v"), ZERO_SNR.angle.tolist()
    for k in (0, 1, 500, 998):
        for share in (0.1, 0.5, 0.9):
            phi = (1 - share) * angles[k] + share * angles[k + 1]
            assert denoiser.step(phi) == pytest.approx(k + share, abs=1e-9)
    assert denoiser.step(angles[0] / 2) == denoiser.step(1e-9) == 0.0


def test_an_angle_above_the_last_trained_one_is_refused():
    denoiser, x = NetworkDenoiser(Recorder(), SD, "eps"), torch.zeros(1, 4)
    for phi in (SD.angle[-1].item() + 1e-9, RIGHT, math.nan):
        with pytest.raises(ValueError, match=r"above the last trained step's 1\.5"):
            denoiser(x, phi)


def test_eps_with_zero_snr_is_refused_before_any_work():
    with pytest.raises(ValueError, match=r"zero terminal SNR(.|\n)*predicts v or x0"):
        NetworkDenoiser(Recorder(), ZERO_SNR, "eps")
    with pytest.raises(ValueError, match="'velocity'; choose one of"):
        NetworkDenoiser(Recorder(), ZERO_SNR, "velocity")


def test_the_network_gets_a_batch_of_steps_its_conditions_and_its_dtype():
    network = Recorder().to(torch.bfloat16)
    v = NetworkDenoiser(network, ZERO_SNR, "v", class_labels=torch.tensor([1, 2, 3]))(normal(3, 4), 1.0)
    assert (network.x.dtype, v.dtype) == (torch.bfloat16, torch.float64)
    assert network.step.shape == (3,)
    assert network.step.dtype == torch.float32
    assert network.conditions["class_labels"].tolist() == [1, 2, 3]
    assert not v.requires_grad


@pytest.mark.parametrize("answer", [math.nan, math.inf])
def test_a_network_that_returns_no_number_is_named_with_its_step(answer):
    with pytest.raises(FloatingPointError, match=r"NaN or inf at angle 1.5708 \(step 999\)(.|\n)*bfloat16"):
        NetworkDenoiser(Recorder(answer), ZERO_SNR, "v")(torch.zeros(2, 4), RIGHT)


class Exact(nn.Module):
    """The best network for Gaussian data, asked by the trained step."""

    def __init__(self, schedule: Schedule, prediction: str) -> None:
        super().__init__()
        self.angle, self.say = schedule.angle.tolist(), {"eps": to_eps, "x0": to_x0, "v": to_v}[prediction]
        self.anchor = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x, step):
        phi = self.angle[int(step[0])]
        return self.say(GAUSSIANS["full"][0](x, phi), x, phi, "v")


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_network_of_each_kind_is_the_exact_denoiser(prediction):
    schedule = SD if prediction == "eps" else ZERO_SNR
    denoiser, x = NetworkDenoiser(Exact(schedule, prediction), schedule, prediction), normal(3, 2, 3)
    for phi in schedule.angle[[0, 10, 500, 999]].tolist():
        torch.testing.assert_close(denoiser(x, phi), GAUSSIANS["full"][0](x, phi), rtol=1e-9, atol=1e-9)


SMALL = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8,), "layers_per_block": 1}


def unet(kind, block: str = "", **options):
    blocks = {"down_block_types": (f"{block}DownBlock2D",), "up_block_types": (f"{block}UpBlock2D",)}
    return kind(**SMALL, **blocks, norm_num_groups=4, **options).eval()


@pytest.mark.parametrize("prediction", ["v", "eps"])
def test_a_diffusers_unet(prediction):
    network = unet(UNet2DModel, add_attention=False)
    x, phi = torch.randn(2, 1, 8, 8, generator=G), SD.angle[700].item()
    v = NetworkDenoiser(network, SD, prediction)(x, phi)
    with torch.no_grad():
        torch.testing.assert_close(v, to_v(network(x, 700).sample, x, phi, prediction))


def test_a_network_that_answers_with_a_tuple():
    network = Recorder(0.5)
    network.forward = lambda x, step: (torch.full_like(x, 0.5), "attention maps")
    assert (NetworkDenoiser(network, ZERO_SNR, "v")(torch.zeros(2, 4), 1.0) == 0.5).all()


def test_a_text_conditioned_diffusers_unet():
    network = unet(UNet2DConditionModel, "CrossAttn", cross_attention_dim=8, attention_head_dim=4)
    x, text = torch.randn(2, 1, 8, 8, generator=G), torch.randn(2, 3, 8, generator=G)
    v = NetworkDenoiser(network, ZERO_SNR, "v", encoder_hidden_states=text)(x, RIGHT)
    with torch.no_grad():
        torch.testing.assert_close(v, network(x, 999, encoder_hidden_states=text).sample)
        assert not torch.allclose(v, network(x, 999, encoder_hidden_states=text.flip(1) * 2).sample)
