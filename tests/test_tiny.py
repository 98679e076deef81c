"""The tiny pipelines are what they stand in for: diffusers' classes, with a tokenizer that reads."""

import pytest
import torch

from lab.models import tiny

BUILD = {"sd": tiny.stable_diffusion, "xl": tiny.stable_diffusion_xl, "unconditional": tiny.unconditional}


def test_known_words_are_one_token_and_others_are_spelt():
    known = tiny.tokenizer(["black", "blackbird", "sneaker"])
    ids = known("A Black blackbird, sneaker").input_ids
    assert known.convert_ids_to_tokens(ids[1:-1]) == ["a</w>", "black</w>", "blackbird</w>", ",</w>", "sneaker</w>"]
    assert len(known("trouser é").input_ids) == 2 + 7 + 2
    assert known.decode(known("trouser, né").input_ids, skip_special_tokens=True).strip() == "trouser , né"
    padded = known("a", padding="max_length", max_length=known.model_max_length).input_ids
    assert len(padded) == 77


@pytest.mark.parametrize("kind", BUILD)
def test_a_seed_gives_the_weights_and_leaves_torchs_own_numbers_alone(kind):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    one, two, other = BUILD[kind](), BUILD[kind](), BUILD[kind](seed=1)
    assert torch.equal(torch.rand(3), expected)
    weights = [torch.cat([p.flatten() for p in pipe.unet.parameters()]) for pipe in (one, two, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
