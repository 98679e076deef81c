"""Finding 7: what three requirements determine of EDM's preconditioning (Karras et al. 2022, Sec. 5, App. B.6).

    D(x; sigma) = c_skip x + c_out F(c_in x; c_noise),    x = y + n,    Var y = sigma_data^2,    Var n = sigma^2

asks of the network F the target (y - c_skip x) / c_out. The requirements, and what each gives:

    Var[c_in x] = 1                              c_in
    Var[target] = 1 with the least c_out         c_skip and c_out
    lambda c_out^2 = 1                           lambda
"""

from __future__ import annotations

import numpy as np
import sympy as sp
import torch
from torch import Tensor

from zsnr import edm

SIGMA, SIGMA_DATA = sp.symbols("sigma sigma_data", positive=True)
C_SKIP = sp.symbols("c_skip", real=True)
TOTAL = SIGMA**2 + SIGMA_DATA**2
TABLE_1 = {
    "c_in": 1 / sp.sqrt(TOTAL),
    "c_skip": SIGMA_DATA**2 / TOTAL,
    "c_out": SIGMA * SIGMA_DATA / sp.sqrt(TOTAL),
    "lambda": TOTAL / (SIGMA * SIGMA_DATA) ** 2,
}
"""EDM's column of the paper's Table 1."""
C_OUT_2 = (1 - C_SKIP) ** 2 * SIGMA_DATA**2 + C_SKIP**2 * SIGMA**2
"""c_out^2 for any c_skip, from Var[target] = 1."""
LEVELS = torch.logspace(np.log10(0.002), np.log10(80), 400, dtype=torch.float64)


def derive() -> dict[str, sp.Expr]:
    """c_in, c_skip, c_out and lambda, solved from the requirements."""
    a = sp.symbols("a", positive=True)
    found = {"c_in": sp.solve(a**2 * TOTAL - 1, a)[0], "c_skip": sp.solve(C_OUT_2.diff(C_SKIP), C_SKIP)[0]}
    found["c_out"] = sp.sqrt(sp.factor(C_OUT_2.subs(C_SKIP, found["c_skip"])))
    found["lambda"] = 1 / found["c_out"] ** 2
    return {name: sp.simplify(value) for name, value in found.items()}


def curvature() -> float:
    """Second derivative of c_out^2 by c_skip, over sigma^2 + sigma_data^2; above 0 says that c_out is the least."""
    ratio = sp.simplify(C_OUT_2.diff(C_SKIP, 2) / TOTAL)
    return float(ratio.subs({SIGMA: 1, SIGMA_DATA: 0.5}))


def start_gaps() -> dict[str, sp.Expr]:
    """Expected loss of F = 0 less its closed form: 1 with EDM's weight (E), sigma_data^2 / (...) with 1/sigma^2 (D)."""
    start = C_OUT_2.subs(C_SKIP, TABLE_1["c_skip"])  # E|c_skip x - y|^2
    return {
        "E": sp.simplify(TABLE_1["lambda"] * start - 1),
        "D": sp.simplify(start / SIGMA**2 - SIGMA_DATA**2 / TOTAL),
    }


def column(name: str) -> edm.Column:
    """A column of Table 1, with sigma_data = 0.5 where it has one."""
    return edm.column(name, **({"sigma_data": 0.5} if name == "edm" else {}))


def coefficients(name: str, sigma: Tensor, sigma_data: float = 0.5) -> dict[str, Tensor]:
    """Of a column at (n,) noise levels: its coefficients, the variances of input and target, and lambda c_out^2."""
    c_skip, c_out, c_in, _ = column(name).precondition(sigma)
    return {
        "c_skip": c_skip,
        "c_out": c_out.abs(),
        "c_in": c_in,
        "input": c_in**2 * (sigma**2 + sigma_data**2),
        "target": ((1 - c_skip) ** 2 * sigma_data**2 + c_skip**2 * sigma**2) / c_out**2,
        "weight": column(name).weight(sigma) * c_out**2,
    }


def largest_deviation(derived: dict[str, sp.Expr]) -> float:
    """Of EDM's column as computed, over `LEVELS`: relative gaps from what was derived, and variances and weight less 1.

    lambda has no gap of its own: it is in lambda c_out^2.
    """
    ours = coefficients("edm", LEVELS)
    gaps = [ours[name] - 1 for name in ("input", "target", "weight")]
    for name in ("c_in", "c_skip", "c_out"):
        theirs = sp.lambdify((SIGMA, SIGMA_DATA), derived[name])(LEVELS.numpy(), 0.5)
        gaps.append(ours[name] / torch.from_numpy(theirs) - 1)
    return max(gap.abs().max().item() for gap in gaps)
