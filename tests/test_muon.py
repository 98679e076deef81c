"""Muon: what it does to a matrix and to a vector, which weights it takes for which, and that a kill changes nothing."""

import dataclasses

import pytest
import torch
from torch import nn

from zsnr.finetune import loop, muon
from zsnr.finetune.recipe import Recipe


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(8, 8), (16, 72), (72, 16)], ids=str)
def test_an_update_keeps_the_singular_vectors_and_levels_their_values(shape):
    """Though the largest value is fifty times the smallest."""
    u, _, vh = torch.linalg.svd(normal(*shape), full_matrices=False)
    m = u * torch.logspace(0, -1.7, min(shape)) @ vh
    values = u.T @ muon.orthogonal(m) @ vh.T
    assert (values.diagonal() > 0.6).all()
    assert (values.diagonal() < 1.25).all()
    torch.testing.assert_close(values, values.diagonal().diag(), rtol=0, atol=1e-4)


def test_a_first_step_is_as_long_as_adamws_usual_one_whatever_the_gradients_size():
    for scale in (1e-3, 1.0, 1e3):
        layer = nn.Linear(64, 32, bias=False)
        before = layer.weight.detach().clone()
        layer.weight.grad = scale * normal(32, 64)
        muon.Muon(layer, lr=0.01).step()
        step = (layer.weight - before).square().mean().sqrt().item()
        assert step == pytest.approx(0.2 * 0.01, rel=0.2)


def test_small_directions_grow_but_do_not_reach_the_range():
    """Of a random square matrix, whose smallest values are far below its norm."""
    values = torch.linalg.svdvals(muon.orthogonal(normal(64, 64)))
    assert values.max() < 1.25
    large = torch.linalg.svdvals(normal(64, 64)) > 0.005 * normal(64, 64).norm()
    assert values.sort(descending=True).values[: large.sum()].min() > 0.6


def test_the_optimizers_state_can_be_saved_and_a_closure_is_called(tmp_path):
    layer = nn.Linear(16, 8)
    optimizer = muon.Muon(layer, lr=0.01)

    def closure():
        optimizer.zero_grad()
        loss = layer(normal(4, 16)).square().mean()
        loss.backward()
        return loss

    first, second = optimizer.step(closure).item(), optimizer.step(closure).item()
    assert second < first
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    optimizer.load_state_dict(torch.load(tmp_path / "state.pt"))


def test_a_step_looks_ahead_along_its_momentum():
    """Nesterov's: the gradient and the momentum that already holds it."""
    layer, (first, second) = nn.Linear(16, 8, bias=False), (normal(8, 16, seed=k) for k in range(2))
    optimizer = muon.Muon(layer, lr=0.01)
    layer.weight.grad = first
    optimizer.step()
    before, momentum = layer.weight.detach().clone(), 0.95 * 0.05 * first + 0.05 * second
    layer.weight.grad = second
    optimizer.step()
    step = -0.2 * 0.01 * 16**0.5 * muon.orthogonal(0.05 * second + 0.95 * momentum)
    torch.testing.assert_close(layer.weight - before, step, rtol=1e-3, atol=1e-6)


def test_vectors_go_by_torchs_adamw():
    ours, theirs = (nn.GroupNorm(2, 8) for _ in range(2))
    optimizers = muon.Muon(ours, lr=0.01), torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.0)
    for step in range(5):
        for layer, optimizer in zip((ours, theirs), optimizers, strict=True):
            layer.weight.grad, layer.bias.grad = normal(8, seed=step), normal(8, seed=10 + step)
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight)
    torch.testing.assert_close(ours.bias, theirs.bias)


def test_what_is_no_matrix():
    net = nn.ModuleDict(
        {
            "fold": nn.Conv2d(4, 16, 3),
            "table": nn.Embedding(11, 16),
            "out": nn.Conv2d(16, 1, 3),
            "fixed": nn.Linear(9, 9),
            "each": nn.Conv2d(16, 16, 3, groups=16),
            "up": nn.ConvTranspose2d(16, 16, 3),
        }
    )
    net["fixed"].requires_grad_(False)
    assert [p.shape for p in muon.matrices(net)] == [(16, 4, 3, 3)]
    groups = muon.Muon(net, lr=0.1).param_groups
    assert [len(group["params"]) for group in groups] == [1, 8]


def test_a_network_without_matrices_is_trained_all_the_same():
    assert len(muon.Muon(nn.GroupNorm(2, 8), lr=0.1).param_groups) == 1


def test_a_training_that_was_interrupted_ends_as_it_would_have(tmp_path):
    recipe = Recipe(images=400, batch=8, lr=0.05, warmup=8, ema_halflife=16, optimizer="muon")
    network = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 8))

    def train(folder, stop=99):
        def example(step):
            if step == stop:
                raise KeyboardInterrupt
            return (normal(8, 8, seed=step),)

        return loop.train(network, example, lambda net, x: (net(x) - 2 * x).square().mean(), recipe, folder, {})

    whole, history = train(tmp_path / "whole")
    assert history[-1][1] < history[0][1]
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", stop=5)
    resumed, _ = train(tmp_path / "parts")
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    other, _ = loop.train(
        network, lambda step: (normal(8, 8, seed=step),), lambda net, x: (net(x) - 2 * x).square().mean(),
        dataclasses.replace(recipe, optimizer="adamw"), tmp_path / "whole", {"recipe": "adamw"},
    )  # fmt: skip
    assert not torch.equal(next(other.parameters()), next(whole.parameters()))


def test_an_unknown_optimizer_is_refused_by_name():
    with pytest.raises(ValueError, match="unknown optimizer 'sgd'; choose adamw or muon"):
        Recipe(optimizer="sgd").check()
