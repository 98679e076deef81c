r"""Muon for the matrices of a network, AdamW for all else: one optimizer with one state.

Each (n, m) matrix W, with momentum M of its gradient g, goes along a matrix that is nearly orthogonal, in place of M:

    M <- mu M + (1 - mu) g,     U S V^T = (1 - mu) g + mu M,     W <- W - lr 0.2 sqrt(max(n, m)) U V^T

so that large and small directions of the gradient learn at about one rate. The factor makes a step as long as AdamW's
usual one (root mean square 0.2), so one lr does for both (Liu et al. 2025, "Muon is Scalable for LLM Training", Sec.
2.2). Their weight decay is left out, as in all trainings here. U V^T is by five steps of Newton and Schulz, with
Jordan's coefficients (2024), in float32: torch's own `torch.optim.Muon` takes no convolutions and computes in bfloat16,
which not every machine has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

MU = 0.95
BETAS = (0.9, 0.999)
EPS = 1e-8
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Over the parameters of a network that need a gradient; see `matrices` for which go by Muon.

    Args:
        network: its parameters.
        lr: of both.
    """

    def __init__(self, network: nn.Module, lr: float) -> None:
        ours = matrices(network)
        taken = {id(p) for p in ours}
        theirs = [p for p in network.parameters() if p.requires_grad and id(p) not in taken]
        groups = [{"params": ours, "muon": True}, {"params": theirs, "muon": False}]
        super().__init__([group for group in groups if group["params"]], {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all parameters that have a gradient; with a closure, its loss."""
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    (_muon if group["muon"] else _adamw)(p, p.grad, self.state[p], group["lr"])
        return loss


def matrices(network: nn.Module) -> list[nn.Parameter]:
    """The weights that go by Muon: a convolution's kernel is the matrix of its outputs by all else.

    Not embeddings, whose rows are looked up one by one; convolutions in groups, or transposed, whose kernels are no
    such matrices; nor what has fewer than 8 rows or columns.
    """
    others = [
        module
        for module in network.modules()
        if isinstance(module, nn.Embedding | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
        or getattr(module, "groups", 1) > 1
    ]
    left_out = {id(p) for module in others for p in module.parameters(recurse=False)}
    return [
        p
        for p in network.parameters()
        if p.requires_grad and p.ndim > 1 and min(p.flatten(1).shape) >= 8 and id(p) not in left_out
    ]


def _muon(p: Tensor, g: Tensor, state: dict[str, Tensor], lr: float) -> None:
    momentum = state.setdefault("momentum", torch.zeros_like(p))
    momentum.lerp_(g, 1 - MU)
    update = orthogonal(g.lerp(momentum, MU).flatten(1))
    p.add_(update.view_as(p), alpha=-0.2 * lr * max(update.shape) ** 0.5)


def _adamw(p: Tensor, g: Tensor, state: dict[str, Tensor], lr: float) -> None:
    if not state:
        state |= {"step": torch.zeros(()), "first": torch.zeros_like(p), "second": torch.zeros_like(p)}
    state["step"] += 1
    first, second = (1 - beta ** state["step"].item() for beta in BETAS)
    state["first"].lerp_(g, 1 - BETAS[0])
    state["second"].mul_(BETAS[1]).addcmul_(g, g, value=1 - BETAS[1])
    p.addcdiv_(state["first"], (state["second"] / second).sqrt() + EPS, value=-lr / first)


def orthogonal(m: Tensor) -> Tensor:
    """About U V^T of an (n, m) matrix U S V^T.

    Singular values above 0.005 of the matrix's norm come to lie between 0.6 and 1.25; smaller ones grow by up to 500.
    """
    x = m if m.shape[0] <= m.shape[1] else m.T
    x = x / (x.norm() + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(5):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x if m.shape[0] <= m.shape[1] else x.T
