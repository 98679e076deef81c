"""What finding 14 computes, on cases whose answer is known."""

import math

import torch
from garments import garments

from lab.studies import finetuning, finetuning_start


def test_a_gain_has_its_interval_turned_round():
    assert finetuning.signed((1.0, (0.5, 2.0)), -1) == (-1.0, (-2.0, -0.5))
    assert finetuning.signed((1.0, (0.5, 2.0)), 1) == (1.0, (0.5, 2.0))
    assert math.isnan(finetuning.of_seeds([2.0])[1][0])
    assert finetuning.of_seeds([1.0, 3.0])[0] == 2


def test_trainings_of_one_seed_see_the_same():
    images = garments()
    one = finetuning_start.shown(images, "control", seed=3, images=16, batch=8)
    for variant, seed, same in (("zsnr", 3, True), ("zsnr", 4, False)):
        other = finetuning_start.shown(images, variant, seed=seed, images=16, batch=8)
        assert [torch.allclose(a, b, atol=1e-4) for a, b in zip(one, other, strict=True)] == [same] * 4
