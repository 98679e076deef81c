"""What finding 12 computes, on cases whose answer is known."""

import pytest
import torch
from garments import garments

from lab.models import data
from lab.studies import prompts


def test_a_word_means_the_middle_of_its_fifth():
    assert [prompts.truth(word) for word in data.WORDS] == pytest.approx([-0.8, -0.4, 0, 0.4, 0.8])
    assert prompts.bounds("black") == pytest.approx((-1, -0.6))


def test_a_shortfall_is_towards_grey():
    """Of black and of white alike; negative beyond the word's mean."""
    assert prompts.short_of("black", torch.tensor([-0.5, -1.0])).tolist() == pytest.approx([0.3, -0.2])
    assert prompts.short_of("white", torch.tensor([0.5, 1.0])).tolist() == pytest.approx([0.3, -0.2])


def test_the_lesser_of_two_has_a_wider_interval():
    a, b = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 1.0, 2.0])
    value, (low, high) = prompts.lesser(a, b)
    _, (own_low, own_high) = prompts.average(b)
    assert value == 1
    assert low < own_low
    assert own_high < high
    assert (high - value) / (own_high - value) == pytest.approx(6.2053 / 4.3027, rel=1e-4)  # t, 2 degrees of freedom


def test_each_seed_asks_for_its_own_class():
    ask = prompts.by_class([lambda x, phi: x + 1, lambda x, phi: x + 2])
    assert ask(torch.zeros(5, 1), 0.3).flatten().tolist() == [1, 2, 1, 2, 1]


def test_the_exact_denoiser_answers_in_the_words_fifth():
    """At zero SNR, without guidance, in many steps; from as many noises as asked for."""
    asked = [prompts.Prompt("zsnr", "trailing", 50, 1.0, 0.0, word) for word in ("black", "white")]
    other = prompts.Prompt("offset", "leading", 50, 1.0, 0.0, "black")
    answers = prompts.exact_answers([*asked, other], garments(), 4, 6)
    assert [p.model for p in answers] == ["exact", "exact"]
    for p, cell in answers.items():
        low, high = prompts.bounds(p.word)
        assert len(cell["level"]) == 6
        assert low - 0.02 < cell["level"].min() <= cell["level"].max() < high + 0.02
