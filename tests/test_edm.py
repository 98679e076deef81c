"""Table 1 of EDM column by column, its preconditioning as v-prediction, and what App. B.6 derives it from."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sampling import RIGHT, by_algebra, seeded
from torch import nn

from zsnr.denoisers import Gaussian
from zsnr.edm import COLUMNS, EDMDenoiser, Preconditioned, column, iddpm_levels
from zsnr.grids import karras
from zsnr.path import VP
from zsnr.samplers import heun

G, normal = seeded()
SIGMAS = torch.logspace(math.log10(0.002), math.log10(80), 25, dtype=torch.float64)

ROOT = normal(4, 4)
DATA = Gaussian(normal(4), ROOT @ ROOT.T)
denoised = by_algebra(DATA.mean, ROOT @ ROOT.T)
X = normal(5, 4)

# EDM's preconditioning is v-prediction


@pytest.mark.parametrize("sigma_data", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("sigma", SIGMAS.tolist())
def test_edms_network_is_minus_v_of_the_data_divided_by_its_std(sigma, sigma_data):
    """For unit std c_skip x + c_out F(c_in x) with F = -v is D = cos(phi) x_phi - sin(phi) v, whatever v is."""
    level = torch.tensor(sigma, dtype=torch.float64)
    c_skip, c_out, c_in, _ = column("edm", sigma_data=sigma_data).precondition(level)
    phi = math.atan(sigma / sigma_data)
    x = math.hypot(sigma_data, sigma) * X  # x0 + sigma eps, so that x_phi = X
    torch.testing.assert_close(c_in * x, X, rtol=0, atol=1e-12)
    v = normal(5, 4)
    expected = sigma_data * (math.cos(phi) * X - math.sin(phi) * v)
    torch.testing.assert_close(c_skip * x - c_out * v, expected, rtol=0, atol=1e-12)
    unit = Gaussian(DATA.mean / sigma_data, ROOT @ ROOT.T / sigma_data**2)
    torch.testing.assert_close(c_skip * x - c_out * unit(X, phi), denoised(x, sigma), rtol=0, atol=1e-10)


# E-43: what the preconditioning is chosen for


@pytest.mark.parametrize("sigma_data", [0.5, 1.0, 3.0])
def test_edms_column_has_unit_variances_and_the_least_amplification(sigma_data):
    c_skip, c_out, c_in, c_noise = column("edm", sigma_data=sigma_data).precondition(SIGMAS)
    one = torch.ones_like(SIGMAS)
    torch.testing.assert_close(c_in**2 * (sigma_data**2 + SIGMAS**2), one)  # Var[c_in (y + n)]
    target = (1 - c_skip) ** 2 * sigma_data**2 + c_skip**2 * SIGMAS**2  # Var[y - c_skip (y + n)]
    torch.testing.assert_close(target / c_out**2, one)  # Var[F_target]
    torch.testing.assert_close(column("edm", sigma_data=sigma_data).weight(SIGMAS) * c_out**2, one)
    torch.testing.assert_close(c_noise, SIGMAS.log() / 4)

    def amplification(skip):
        return ((1 - skip) ** 2 * sigma_data**2 + skip**2 * SIGMAS**2).sqrt()

    torch.testing.assert_close(amplification(c_skip), c_out)
    grid = torch.linspace(0, 1, 10_001, dtype=torch.float64)[:, None]
    best = grid[amplification(grid).argmin(0), 0]
    assert (c_skip - best).abs().max() <= 0.5e-4 + 1e-12, "c_skip is where c_out is least"
    assert (c_out < torch.minimum(SIGMAS, torch.tensor(sigma_data))).all(), "E-47: bounded, unlike the others'"


def test_the_initial_loss_is_1_at_every_sigma():
    """E-44, for a network that returns 0: lambda Var[c_skip (y + n) - y]; with the weights 1 / sigma^2 it is not."""
    design = column("edm")
    c_skip = design.precondition(SIGMAS)[0]
    error = (1 - c_skip) ** 2 * 0.5**2 + c_skip**2 * SIGMAS**2
    torch.testing.assert_close(design.weight(SIGMAS) * error, torch.ones_like(SIGMAS))
    torch.testing.assert_close(column("vp").weight(SIGMAS) * error, 0.25 / (SIGMAS**2 + 0.25))


# the columns


def test_preconditioning_of_the_four_columns():
    """Table 1, written out at some levels; iDDPM's c_noise below."""
    for s in (0.002, 0.3, 1.0, 17.0, 80.0):
        B, h = math.log(1 + s**2), math.hypot(s, 0.5)
        t = (math.sqrt(0.1**2 + 2 * 19.9 * B) - 0.1) / 19.9  # beta_d t^2 / 2 + beta_min t = B
        table = {
            "vp": (1.0, -s, 1 / math.sqrt(s**2 + 1), 999 * t),
            "ve": (1.0, s, 1.0, math.log(0.5 * s)),
            "iddpm": (1.0, -s, 1 / math.sqrt(s**2 + 1)),
            "edm": (0.25 / h**2, s * 0.5 / h, 1 / h, math.log(s) / 4),
        }
        weights = {"vp": s**-2, "ve": s**-2, "iddpm": s**-2, "edm": (s**2 + 0.25) / (s * 0.5) ** 2}
        sigma = torch.tensor([s], dtype=torch.float64)
        assert set(table) == set(COLUMNS)
        for name, expected in table.items():
            found = torch.cat(column(name).precondition(sigma)).tolist()
            assert found[: len(expected)] == pytest.approx(expected, rel=1e-9)
            assert column(name).weight(sigma).item() == pytest.approx(weights[name], rel=1e-12)


@pytest.mark.parametrize("name", COLUMNS)
def test_coefficients_have_sigmas_shape(name):
    sigma = SIGMAS[:24].view(2, 3, 4)
    for coefficient in column(name).precondition(sigma):
        assert coefficient.shape == (2, 3, 4)
        assert coefficient.dtype == torch.float64
    assert column(name).weight(sigma).shape == (2, 3, 4)


def test_iddpm_levels_are_the_papers():
    """E-02, to the digits printed; but the paper has 106 for u_6 = 106.94, where all others are rounded."""
    u = iddpm_levels()
    assert [f"{x:.0f}" for x in u[:10]] == ["20291", "642", "321", "214", "160", "128", "107", "92", "80", "71"]
    assert u[6].item() == pytest.approx(106.94, abs=0.005)
    assert f"{u[999]:.4f}" == "0.0064"
    assert u[1000] == 0
    assert len(u) == 1001
    assert (u.diff() < 0).all()


@pytest.mark.parametrize("M", [1, 7, 1000])
def test_iddpm_levels_are_the_recursion(M):
    """u_{j-1} = sqrt((u_j^2 + 1) / max(abar_{j-1} / abar_j, C_1) - 1), whose differences lose digits near u = 0."""
    bar = [math.sin(math.pi / 2 * j / (M * 1.008)) ** 2 for j in range(M + 1)]
    u = [0.0]
    for j in range(M, 0, -1):
        u.insert(0, math.sqrt((u[0] ** 2 + 1) / max(bar[j - 1] / bar[j], 0.001) - 1))
    torch.testing.assert_close(iddpm_levels(M), torch.tensor(u, dtype=torch.float64), rtol=1e-9, atol=0)


def test_noise_range_of_vp():
    """E-01."""
    design = column("vp")
    low, high = (math.tan(VP.angle(t)) for t in (1e-5, 1.0))
    assert low == pytest.approx(0.001, rel=0.01)
    assert high == pytest.approx(152, abs=0.5)
    sigma = design.p_train(20_000, torch.Generator().manual_seed(1))
    assert low <= sigma.min() < 2.5 * low
    assert 0.99 * high < sigma.max() <= high
    ends = torch.tensor([low, high], dtype=torch.float64)
    torch.testing.assert_close(design.precondition(ends)[3], torch.tensor([999e-5, 999.0], dtype=torch.float64))


@pytest.mark.parametrize(("beta_d", "beta_min"), [(19.9, 0.1), (4.0, 1.0), (4.0, 0.0)])
def test_vps_steps(beta_d, beta_min):
    """From t = 1 to eps_s in equal steps of t, and then the image (E-04: without the original's overshoot)."""
    angles = column("vp", beta_d=beta_d, beta_min=beta_min).steps(18)
    assert (len(angles), angles[-1].item()) == (19, 0.0)
    for i in range(18):
        t = 1 + i / 17 * (1e-3 - 1)
        expected = math.sqrt(math.exp(beta_d * t**2 / 2 + beta_min * t) - 1)
        assert math.tan(angles[i]) == pytest.approx(expected, rel=1e-9)
    if beta_d == 19.9:
        assert math.tan(angles[0]) == pytest.approx(152, abs=0.5)
        assert math.tan(angles[17]) == pytest.approx(math.tan(VP.angle(1e-3)), rel=1e-9)
        assert math.tan(angles[17]) == pytest.approx(0.0105, abs=1e-4)


def test_ves_steps_are_geometric_in_sigma():
    angles = column("ve").steps(10)
    sigma = angles.tan()[:-1]
    assert (sigma[0].item(), sigma[-1].item()) == pytest.approx((100, 0.02), rel=1e-10)
    torch.testing.assert_close(sigma[1:] / sigma[:-1], torch.full((9,), (0.02 / 100) ** (1 / 9), dtype=torch.float64))
    t = [100**2 * (0.02**2 / 100**2) ** (i / 9) for i in range(10)]  # Table 1's t_i, sigma = sqrt t
    torch.testing.assert_close(sigma**2, torch.tensor(t, dtype=torch.float64), rtol=1e-10, atol=0)


@pytest.mark.parametrize("N", [2, 10, 79, 250, 992])
def test_iddpms_steps_are_some_of_its_levels(N):
    u = iddpm_levels()
    for j_0 in (0, 8):
        j = [math.floor(j_0 + (999 - j_0) / (N - 1) * i + 0.5) for i in range(N)]
        torch.testing.assert_close(column("iddpm", j_0=j_0).steps(N).tan()[:-1], u[j], rtol=1e-9, atol=0)
    assert column("iddpm").steps(N)[0].tan().item() == pytest.approx(80.2, abs=0.1), "why j_0 is 8"
    limited = column("iddpm", j_0=0, sigma_min=0.1, sigma_max=80).steps(N).tan()
    assert limited.max() <= 80
    assert (limited[:-1] >= 0.1).all()
    assert limited[-1] == 0


def test_edms_steps_are_equation_5():
    assert torch.equal(column("edm").steps(18), karras(18))
    assert torch.equal(column("edm", sigma_min=0.01, sigma_max=50.0, rho=3.0).steps(9), karras(9, 0.01, 50.0, 3.0))


@pytest.mark.parametrize("name", COLUMNS)
def test_steps_are_grids(name):
    for N in (2, 18):
        angles = column(name).steps(N)
        assert angles.dtype == torch.float64
        assert (angles.diff() < 0).all()
        assert (len(angles), angles[-1].item()) == (N + 1, 0.0)
    assert len(column(name).steps(1)) == 2
    with pytest.raises(ValueError, match="N = 0"):
        column(name).steps(0)


def test_iddpms_c_noise_is_the_nearest_levels_number_counted_from_the_data():
    u, c_noise = iddpm_levels(), column("iddpm").precondition(iddpm_levels()[:1000])[3]
    assert torch.equal(c_noise, torch.arange(999, -1, -1, dtype=torch.float64))
    between = (u[:999] * 0.6 + u[1:1000] * 0.4)[10:]
    assert torch.equal(column("iddpm").precondition(between)[3], torch.arange(989, 0, -1, dtype=torch.float64))


def test_ranges_of_c_noise():
    ends = torch.tensor([0.02, 100.0], dtype=torch.float64)
    assert column("ve").precondition(ends)[3].tolist() == pytest.approx((ends / 2).log().tolist())
    vp = column("vp").precondition(SIGMAS)[3]
    assert vp.min() > 0
    assert vp.max() < 999
    assert (vp.diff() > 0).all()
    ends = column("edm").precondition(torch.tensor([0.002, 80.0]))[3]
    assert ends.tolist() == pytest.approx([-1.5536, 1.0955], abs=1e-4)


# what noise levels are drawn

n = 100_000


def sampled(name: str, **parameters) -> torch.Tensor:
    sigma = column(name, **parameters).p_train(n, torch.Generator().manual_seed(1))
    assert (sigma.shape, sigma.dtype) == ((n,), torch.float64)
    assert torch.equal(sigma, column(name, **parameters).p_train(n, torch.Generator().manual_seed(1)))
    return sigma


def check_uniform(u: torch.Tensor) -> None:
    """Kolmogorov and Smirnov's distance, below its value for p = 1e-4."""
    assert u.min() >= 0
    assert u.max() <= 1
    u = u.sort().values
    k = torch.arange(n, dtype=torch.float64)
    assert torch.maximum((u - k / n).abs(), (u - (k + 1) / n).abs()).max() < 2.225 / math.sqrt(n)


@pytest.mark.parametrize(("P_mean", "P_std"), [(-1.2, 1.2), (0.4, 0.7)])
def test_edm_trains_at_log_normal_sigmas(P_mean, P_std):
    log = sampled("edm", P_mean=P_mean, P_std=P_std).log()
    assert abs(log.mean() - P_mean) < 4 * P_std / math.sqrt(n)
    assert abs(log.std() - P_std) < 4 * P_std / math.sqrt(2 * n)
    check_uniform(torch.special.ndtr((log - P_mean) / P_std))


@pytest.mark.parametrize("eps_t", [1e-5, 0.2])
def test_vp_trains_at_uniform_times(eps_t):
    times = torch.tensor([VP.time(math.atan(s)) for s in sampled("vp", eps_t=eps_t).tolist()], dtype=torch.float64)
    check_uniform((times - eps_t) / (1 - eps_t) + 1e-12)  # 0 but for rounding at its least


def test_ve_trains_at_log_uniform_sigmas():
    check_uniform((sampled("ve").log() - math.log(0.02)) / math.log(100 / 0.02))


@pytest.mark.parametrize("M", [10, 1000])
def test_iddpm_trains_at_all_of_its_levels_above_0(M):
    sigma, u = sampled("iddpm", M=M), iddpm_levels(M)[:M]
    assert torch.isin(sigma, u).all()
    j = torch.searchsorted(u.flip(0), sigma).bincount(minlength=M).double()
    assert len(j) == M
    chi2 = ((j - n / M) ** 2 / (n / M)).sum().item()
    assert abs(chi2 - (M - 1)) < 4 * math.sqrt(2 * (M - 1))


# networks


class Says(nn.Module):
    """A network without weights that answers with a function of what it is given."""

    def __init__(self, answer) -> None:
        super().__init__()
        self.forward = answer


class MinusV(nn.Module):
    """EDM's ideal raw network for Gaussian data: it has c_in x and c_noise only, and returns -v."""

    def __init__(self, sigma_data: float) -> None:
        super().__init__()
        self.dummy = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.sigma_data, self.asked = sigma_data, []
        self.data = Gaussian(DATA.mean / sigma_data, ROOT @ ROOT.T / sigma_data**2)

    def forward(self, x, c_noise, **conditions):
        self.asked.append((c_noise.clone(), conditions))
        phi = torch.atan(torch.exp(4 * c_noise) / self.sigma_data).tolist()
        assert c_noise.shape == (len(x),)
        return -torch.cat([self.data(x[i : i + 1], phi[i]) for i in range(len(x))])


@pytest.mark.parametrize("sigma_data", [0.5, 1.0, 2.0])
def test_a_perfect_edm_network_is_the_exact_denoiser(sigma_data):
    raw = MinusV(sigma_data)
    denoiser = EDMDenoiser(Preconditioned(raw, column("edm", sigma_data=sigma_data)))
    for sigma in (0.002, 0.1, 0.5, 1.0, 10.0, 80.0, 80 * math.sqrt(2)):
        phi = math.atan(sigma)
        # v = (cos x - D) / sin, so near the data it has the digits of D divided by sin
        torch.testing.assert_close(denoiser(X, phi), DATA(X, phi), rtol=0, atol=1e-10 + 1e-12 / math.sin(phi))
        assert raw.asked[-1][0].tolist() == pytest.approx([math.log(sigma) / 4] * 5)
    found = heun(denoiser, X, karras(9))
    torch.testing.assert_close(found, heun(DATA, X, karras(9)), rtol=0, atol=1e-8)


def test_preconditioned_takes_a_sigma_for_each_sample_and_any_shape():
    network = Preconditioned(MinusV(0.5), column("edm"))
    sigma = torch.tensor([0.01, 0.1, 1.0, 10.0, 80.0])
    x = torch.stack([math.hypot(1, s) * row for s, row in zip(sigma.tolist(), X, strict=True)])
    together = network(x, sigma)
    for i, s in enumerate(sigma.tolist()):
        torch.testing.assert_close(together[i : i + 1], denoised(x[i : i + 1], s), rtol=0, atol=1e-9)

    def ones(x, c_noise):
        assert x.shape == (2, 3, 4, 4)
        return torch.ones_like(x)

    for name in COLUMNS:
        c_skip, c_out, _, _ = column(name).precondition(torch.tensor([0.5, 3.0], dtype=torch.float64))
        out = Preconditioned(Says(ones), column(name))(2 * torch.ones(2, 3, 4, 4), torch.tensor([0.5, 3.0]))
        expected = (2 * c_skip + c_out).float().view(2, 1, 1, 1).expand(2, 3, 4, 4)
        torch.testing.assert_close(out, expected)


def test_conditions_and_outputs_of_diffusers_kind_are_passed_on():
    def answer(x, c_noise, class_labels):
        assert class_labels.tolist() == [1, 2, 3, 4, 5]
        return SimpleNamespace(sample=3 * torch.ones(5, 4))

    network = Preconditioned(Says(answer), column("ve"))
    denoiser = EDMDenoiser(network, class_labels=torch.arange(1, 6))
    v = denoiser(X, 0.5)  # D = x + 3 sigma
    expected = (math.cos(0.5) * X - (X / math.cos(0.5) + 3 * math.tan(0.5))) / math.sin(0.5)
    torch.testing.assert_close(v, expected, rtol=0, atol=1e-6)
    assert v.dtype == torch.float64


def test_above_sigma_max_an_edm_network_is_refused_before_it_is_asked():
    raw = MinusV(0.5)
    denoiser = EDMDenoiser(Preconditioned(raw, column("edm")))
    with pytest.raises(ValueError, match=r"sigma_max = 113\.137(.|\n)*or use a zero-SNR v-model"):
        denoiser(X, math.atan(114.0))
    with pytest.raises(ValueError, match="above what an EDM network is trained for"):
        denoiser(X, RIGHT)
    with pytest.raises(ValueError, match=r"sigma = 80(.|\n)*sigma_max = 70\.7107"):
        heun(EDMDenoiser(Preconditioned(raw, column("edm", sigma_max=50.0))), X, karras(5))
    assert raw.asked == []


@pytest.mark.parametrize(
    ("name", "sigma_max"), [("edm", 80 * math.sqrt(2)), ("ve", 100.0), ("vp", 152.17), ("iddpm", 20291.17)]
)
def test_a_columns_networks_are_used_up_to_its_last_training_level(name, sigma_max):
    """EDM's up to what its strongest churn raises its first level to."""
    design = column(name)
    assert design.sigma_max == pytest.approx(sigma_max, rel=1e-4)
    assert design.steps(18)[0].tan() <= design.sigma_max * (1 + 1e-9)
    denoiser = EDMDenoiser(Preconditioned(Says(lambda x, c_noise: torch.zeros_like(x)), design))
    assert denoiser(X, math.atan(design.sigma_max)).isfinite().all()
    with pytest.raises(ValueError, match="above what"):
        denoiser(X, math.atan(design.sigma_max * 1.001))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_network_that_returns_no_number_is_refused(bad):
    broken = Says(lambda x, c_noise: bad * torch.ones_like(x))
    with pytest.raises(FloatingPointError, match=r"NaN or inf at sigma = 1\.55741: check weights"):
        EDMDenoiser(Preconditioned(broken, column("edm")))(X, 1.0)


def test_an_unknown_column_is_refused():
    with pytest.raises(ValueError, match="unknown column 'edm2' of EDM's Table 1; choose one of vp, ve, iddpm, edm"):
        column("edm2")


def test_column_passes_its_parameters_on():
    sigma = torch.tensor([0.7], dtype=torch.float64)
    left, right = column("edm", sigma_data=2.0).precondition(sigma), COLUMNS["edm"](sigma_data=2.0).precondition(sigma)
    assert torch.equal(torch.cat(left), torch.cat(right))
    assert np.isclose(left[0].item(), 4 / (0.49 + 4))
