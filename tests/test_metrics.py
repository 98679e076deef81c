"""Measures against their closed forms, and intervals against their coverage."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from lab.measure import metrics
from lab.measure.metrics import Classifier, Frechet, bootstrap, inception_score, interval, wasserstein1


class Identity(nn.Module):
    """Pictures that are their own features, and features that are their own logits."""

    num_features = 4

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Identity()

    def forward(self, x):
        return x


def gaussian(n: int, mean, covariance, seed: int) -> torch.Tensor:
    """n points whose sample mean and covariance are exactly these."""
    z = torch.randn(n, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    z = z - z.mean(0)
    z = z @ torch.linalg.inv(torch.linalg.cholesky(z.T @ z / (n - 1))).T
    return (z @ torch.linalg.cholesky(covariance).T + torch.as_tensor(mean)).float()


def covariance(seed: int) -> torch.Tensor:
    root = torch.randn(4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.T + torch.eye(4)


def square_root(matrix: torch.Tensor) -> torch.Tensor:
    values, basis = torch.linalg.eigh(matrix)
    return basis @ values.sqrt().diag() @ basis.T


def test_frechet_distance_of_gaussians_is_the_closed_form():
    a, b, shift = covariance(0), covariance(1), [1.0, -0.5, 0.0, 2.0]
    between = square_root(square_root(a) @ b @ square_root(a))
    expected = sum(s * s for s in shift) + (a + b - 2 * between).trace().item()
    measure = Frechet(Identity(), gaussian(1300, [0.0] * 4, a, seed=2))
    for n in (1300, 700):
        assert measure(gaussian(n, shift, b, seed=3)) == pytest.approx(expected, rel=1e-3), "and again: no memory"
    assert measure(gaussian(1300, [0.0] * 4, a, seed=4)) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        (torch.zeros(600, 4), 1.0),
        (torch.tensor([[30.0, 0, 0, 0]]).repeat(600, 1), 1.0),
        (100 * torch.eye(4).repeat(150, 1), 4.0),
        (100 * torch.eye(4)[:2].repeat(300, 1), 2.0),
    ],
    ids=["undecided", "all one class", "all classes", "two classes"],
)
def test_inception_score_between_its_bounds(logits, expected):
    assert inception_score(Identity(), logits) == pytest.approx(expected, rel=1e-6)


def test_inception_score_is_its_definition_and_leaves_the_random_state():
    logits = torch.randn(1100, 4, generator=torch.Generator().manual_seed(0))
    p = logits.double().softmax(1).numpy()
    expected = np.exp((p * np.log(p / p.mean(0))).sum(1).mean())
    before = torch.get_rng_state()
    assert inception_score(Identity(), logits) == pytest.approx(expected, rel=1e-6)
    assert torch.equal(torch.get_rng_state(), before)


def test_wasserstein1_is_the_mean_distance_of_sorted_samples():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(500, generator=g), 2 * torch.rand(500, generator=g) - 1
    assert wasserstein1(a, b) == pytest.approx((a.sort()[0] - b.sort()[0]).abs().double().mean().item(), rel=1e-6)
    assert wasserstein1(a, a + 0.25) == pytest.approx(0.25, rel=1e-6)
    assert wasserstein1(a, a.flip(0)) == 0
    assert wasserstein1(torch.zeros(3), torch.tensor([0.0, 0.0, 3.0, 3.0])) == pytest.approx(1.5)


@pytest.mark.parametrize(("n", "t"), [(2, 12.7062), (3, 4.30265), (5, 2.77645)])
def test_the_interval_is_students(n, t):
    values = [0.7, 0.9, 1.4, 0.2, 1.1][:n]
    mean = sum(values) / n
    half = t * math.sqrt(sum((x - mean) ** 2 for x in values) / (n - 1) / n)
    assert interval(values) == pytest.approx((mean - half, mean + half), rel=1e-5)


def test_equal_repeats_have_an_interval_of_no_width():
    assert interval([0.5, 0.5, 0.5]) == (0.5, 0.5)


@pytest.mark.parametrize("values", [[], [1.0]])
def test_one_repeat_has_no_interval(values):
    with pytest.raises(ValueError, match=f"{len(values)} repeat gives no interval(.|\n)*more seeds"):
        interval(values)


def test_the_bootstrap_covers_the_truth_about_19_times_in_20():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(200):
        low, high = bootstrap(torch.from_numpy(rng.normal(3, 2, 60)), np.mean, 200)
        hits += low <= 3 <= high
    assert 0.88 < hits / 200 < 0.98


def test_the_bootstrap_is_its_seeds_and_about_a_standard_error_wide():
    sample = torch.randn(400, generator=torch.Generator().manual_seed(0))
    low, high = bootstrap(sample, np.mean)
    assert (low, high) == bootstrap(sample, np.mean)
    assert (low, high) != bootstrap(sample, np.mean, seed=1)
    assert high - low == pytest.approx(2 * 1.96 * sample.std().item() / 20, rel=0.1)
    low, high = bootstrap(sample, np.std)
    assert low < sample.std().item() < high


def test_a_classifier_comes_back_from_disk(tmp_path):
    torch.manual_seed(0)
    classifier, x = Classifier(channels=3, classes=7), torch.randn(2, 3, 32, 32)
    classifier.save(tmp_path / "new/classifier.safetensors")
    again = Classifier.load(tmp_path / "new/classifier.safetensors")
    assert torch.equal(again.head(again(x)), classifier.head(classifier(x)))
    assert again(x).shape == (2, metrics.Classifier.num_features)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["classifier.safetensors"]
    with pytest.raises(FileNotFoundError, match=r"no classifier at(.|\n)*dvc repro --pull"):
        Classifier.load(tmp_path / "none.safetensors")
