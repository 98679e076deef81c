"""`make mutants`: change one constant of zsnr at a time, and see a claim's primary check flip.

    python tests/mutants.py [NAME ...]

A check that a wrong constant passes is no check. Each mutant is a copy of zsnr with one line changed; the cells of the
finding that measures the claim run on it, up to the one that makes the primary check. It must hold unchanged, and
contradict changed; one that still holds has survived, and the command fails.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
# name: file, line as it is, line as the mutant has it, claim and its scope
MUTANTS = {
    "beta_end": ("schedule", "beta_end: float = 0.012)", "beta_end: float = 0.01201)", "Z-02", "row"),
    "beta_end, mean": ("schedule", "beta_end: float = 0.012)", "beta_end: float = 0.01201)", "Z-06", "exact"),
    "linear": ("schedule", "beta_end: float = 0.02)", "beta_end: float = 0.02001)", "Z-01", "row"),
    "cosine s": ("schedule", "s: float = 0.008", "s: float = 0.00801", "Z-01", "row"),
    "clip": ("schedule", "max_beta: float | None = 0.999)", "max_beta: float | None = 0.9991)", "Z-01", "row"),
    "leading": ("grids", "return [1 + k * (T // S)", "return [T - (S - 1 - k) * (T // S)", "Z-10", "row"),
    "leading, mean": ("grids", "return [1 + k * (T // S)", "return [T - (S - 1 - k) * (T // S)", "Z-13", "row"),
    "trailing": ("grids", "round(Fraction(T * (k + 1), S))", "T * (k + 1) // S", "Z-10", "row"),
    "beta_d": ("edm", "beta_d: float = 19.9", "beta_d: float = 20.0", "E-01", "row"),
    "C_2": ("edm", "C_2: float = 0.008)", "C_2: float = 0.0085)", "E-02", "row"),
    "lambda": (
        "edm",
        "lambda s: (s**2 + d**2) / (s * d) ** 2,",
        "lambda s: 1.01 * (s**2 + d**2) / (s * d) ** 2,",
        "E-43",
        "row",
    ),
    "P_std": ("edm", "P_std: float = 1.2,", "P_std: float = 1.25,", "E-46", "arithmetic"),
    "c_noise": ("edm", "s.log() / 4)", "s.log() / 3.9)", "E-48", "arithmetic"),
    "rho": ("grids", "bottom - top)) ** rho", "bottom - top)) ** (rho + 0.01)", "E-13", "row"),
    "gamma": ("samplers", "GAMMA_MAX = math.sqrt(2) - 1", "GAMMA_MAX = 0.42", "E-09", "row"),
}
# run a finding, cell by cell, until the check of a claim and scope is made, and print its outcome
PROBE = """
import io, os, sys, warnings
import jupytext
from lab.report import claims
source, id, scope = sys.argv[1:]
class Found(claims.Check):
    def __post_init__(self):
        super().__post_init__()
        if (self.id, self.scope) == (id, scope):
            os.write(report, self.outcome.encode())
            os._exit(0)
claims.measure = Found
report, sys.stdout = os.dup(1), io.StringIO()
namespace = {"__name__": "__main__"}
for cell in jupytext.read(source).cells:
    if cell.cell_type == "code":
        exec(compile(cell.source, source, "exec"), namespace)
"""


def finding(id: str, what: str) -> Path:
    """The finding that measures a primary check."""
    sources = sorted((ROOT / "notebooks/findings").glob("*.py"))
    return next(s for s in sources if id in (text := s.read_text()) and f'"{what}"' in text)


def outcome(id: str, scope: str, mutant: Sequence[str] = ()) -> str:
    """holds, contradicts or inconclusive, in a copy with one line changed; or why there is no outcome."""
    from lab.report.claims import claims

    source = finding(id, claims()[id]["primary"][scope]["what"])
    with tempfile.TemporaryDirectory(prefix="zsnr-mutant-") as folder:
        copy = Path(folder)
        for name in ("zsnr", "lab"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("data", "results", "params.yaml", "pyproject.toml"):
            (copy / name).symlink_to(ROOT / name)
        if mutant:
            path, text = copy / f"zsnr/{mutant[0]}.py", (copy / f"zsnr/{mutant[0]}.py").read_text()
            if text.count(mutant[1]) != 1:
                return f"zsnr/{mutant[0]}.py has {mutant[1]!r} {text.count(mutant[1])} times, not once"
            path.write_text(text.replace(mutant[1], mutant[2]))
        env = os.environ | {"PYTHONPATH": folder, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", PROBE, source, id, scope]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    return done.stdout or (done.stderr.strip().splitlines() or ["the check was not made"])[-1]


def main(names: Sequence[str]) -> int:
    """0 where every check holds as zsnr is, and contradicts each of its mutants."""
    start, wanted = time.monotonic(), {name: MUTANTS[name] for name in names or MUTANTS}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        checks = {(id, scope): pool.submit(outcome, id, scope) for *_, id, scope in wanted.values()}
        killed = {name: pool.submit(outcome, *m[3:], m[:3]) for name, m in wanted.items()}
        wrong = [f"{id}: {found}" for (id, _), job in checks.items() if (found := job.result()) != "holds"]
        for name, (file, *_, id, _) in wanted.items():
            found = killed[name].result()
            print(f"{name:16s}zsnr/{file}.py".ljust(36) + f"{id}  {found}", flush=True)
            wrong += [f"{name} survives {id}: {found}"] if found != "contradicts" else []
    dead = len(wanted) - sum(" survives " in line for line in wrong)
    print("\n".join([f"{dead} of {len(wanted)} mutants killed, {time.monotonic() - start:.0f} s", *wrong]))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
