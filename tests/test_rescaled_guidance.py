"""What finding 9 computes, on cases whose answer is known."""

import pytest
import torch
from garments import garments

from lab.measure.laws import amplification
from lab.studies import rescaled_guidance as rescaling
from zsnr.finetune import loop
from zsnr.guidance import rescaled, std


def test_algorithm_2_as_printed_is_the_packages():
    g = torch.Generator().manual_seed(0)
    pos, neg = torch.randn(2, 3, 1, 8, 8, generator=g, dtype=torch.float64)
    cfg = neg + 7.5 * (pos - neg)
    assert torch.allclose(rescaling.algorithm2(pos, neg, 7.5, 0.7), rescaled(cfg, pos, 0.7), atol=1e-12)


def test_predictions_have_the_correlation_asked_for():
    c = torch.tensor([0.5, 0.9], dtype=torch.float64)
    pos, neg = rescaling.correlated(c, torch.Generator().manual_seed(0))
    assert torch.allclose(std(pos), std(neg), atol=1e-12)
    amplified = (std(neg + 3 * (pos - neg)) / std(pos)).flatten().tolist()
    assert amplified == pytest.approx([amplification(3, x) for x in c.tolist()], abs=1e-10)


def test_thresholding_leaves_pictures_in_the_bounds_alone():
    x = torch.linspace(-1, 1, 64, dtype=torch.float64).view(1, 1, 8, 8)
    assert rescaling.moved(x).item() == 0
    assert rescaling.thresholded(5 * x).abs().max() == 1
    assert rescaling.moved(5 * x) > 0.5


def test_guidance_of_exact_branches():
    """At zero SNR: the noise is eps in both branches, so eps is not amplified, and rescaling it changes nothing."""
    branches = rescaling.branches(garments(), 4, 2, loop.generator(9, 0))
    assert branches.conditions == ("class", "class and word")
    at = branches.at(0.0)
    for condition in branches.conditions:
        assert torch.allclose(at[condition, "eps"]["amplification"], torch.ones(1).double())
        assert torch.allclose(at[condition, "eps"]["rescaled"], at[condition, "x0"]["amplification"], rtol=0.01)
        assert torch.allclose(at[condition, "x0"]["rescaled"], torch.ones(1).double())
        assert at[condition, "v"]["amplification"].min() > 1.5
    assert len(at["class", "v"]["amplification"]) == 2 * 5 * 2  # classes, words, states
