"""What finding 16 makes of levels, on levels whose answer is known."""

import numpy as np
import pytest

from lab.studies import text_to_image

WORDS = ["black", "grey", "white"]


def drawn(fixed):
    """Flawed models reach 0.2 of the data's distance, those with the fixes a share `fixed` of it."""
    share = {"flawed": 0.2, "control": 0.2, "lora": fixed, "zsnr": fixed}
    noise = np.random.default_rng(0).normal(0, 0.01, 40)
    levels = {(m, "plain", w): share[m] * (k - 1) * 0.8 + noise * (1 + k) for m in share for k, w in enumerate(WORDS)}
    facts = {
        "vae": {"level": dict(zip(WORDS, (-0.8, 0.0, 0.8), strict=True)), "level_std": 0.6},
        "law": {"predicted": dict(zip(WORDS, (-0.4, 0.0, 0.4), strict=True)), "alpha_bar": 0.0, "variance": 1.0},
        "guidance": (7.5, 0.7),
    }
    return text_to_image.Drawn(facts, WORDS, list(share), ["plain"], levels, {})


def decides(found):
    return [holds for _, primary, holds in text_to_image.checks(found, "plain") if primary]


def test_the_distance_from_black_to_white():
    value, (low, high) = drawn(1.0).distance("zsnr", "plain")
    assert value == pytest.approx(1.6, abs=0.01)
    assert low < value < high


def test_the_claim_holds_only_where_the_fixed_model_passes_the_law():
    assert decides(drawn(1.0)) == [True, True, True]
    assert decides(drawn(0.4)) == [True, True, False]
    assert decides(drawn(0.1)) == [True, False, False]


def test_at_zero_snr_nothing_of_the_spread_is_lost():
    assert drawn(1.0).unheard() == pytest.approx(0.6)
