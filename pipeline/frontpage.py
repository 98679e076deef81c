"""`make docs`: the result on the repository's first page, counts and five findings, from what the pipeline measured.

Each sentence has its condition. Where the numbers no longer bear a sentence out, nothing is written, and the error says
which sentence has to be written anew.
"""

import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.measure.evaluation import Cell
from lab.measure.known_truth import NONE
from lab.measure.metrics import interval
from lab.measure.store import load
from lab.measure.study import Study, by_cell
from lab.report import claims, wording
from lab.studies import churn_toy
from lab.studies.table3 import Table3
from lab.studies.table3_judge import ALL_FIXES, NO_FIXES
from pipeline.checkout import ROOT

PAGE = ROOT / "README.md"
MARKS = "<!-- result -->\n", "<!-- /result -->"
MEANING = """*Direction*: the sign is right, and the paper has no number to meet. *Arithmetic*: the paper's own numbers,
put together. Brackets hold 95 % intervals."""
INCONCLUSIVE = " *Inconclusive*: the interval has values on both sides of the claim's bound."
Interval = tuple[float, float]


def number(value: float, bounds: Interval | None = None, scale: float = 1.0) -> str:
    """Two digits after the point, or one above 10; with the 95 % interval, where there is one."""
    digits = 1 if abs(scale * value) >= 10 or scale != 1 else 2
    text = f"{scale * value:z.{digits}f}".replace("-", "−")
    ends = "" if bounds is None else f" [{number(bounds[0], None, scale)}, {number(bounds[1], None, scale)}]"
    return text + ends


def counts(rows: list[dict[str, Any]]) -> str:
    """How many verdicts there are of each kind."""
    words = [word for row in rows for word in wording.words(row)]
    each = ", ".join(f"{words.count(v)} {v}" for v in claims.VERDICTS if v in words)
    return (
        f"{len(rows)} claims, {len(words)} verdicts, as some have one for exact denoisers (formulas) and one for "
        f"trained networks. **{each[0].upper()}{each[1:]}**."
    )


def findings(folder: Path, rows: list[dict[str, Any]]) -> Iterator[tuple[bool, str]]:
    """Five findings: whether the numbers bear the sentences out, and the sentences."""
    checks = {(c.id, c.what): c for path in sorted(folder.glob("findings/*/claims.json")) for c in claims.load(path)}
    study, guide = Study(folder / "zsnr"), by_cell(load(folder / "zsnr/guide"))

    def check(id: str, what: str) -> tuple[float, Interval]:
        found = checks[id, what]
        return float(found.value), (float(found.interval[0]), float(found.interval[1]))

    short = min(cell.nfe for cell in study.cells(model="base", spacing="leading", sampler="ddim"))
    long = max(cell.nfe for cell in study.cells(model="zsnr", spacing="trailing", sampler="heun", exact=False))
    flawed = check("Z-06", f"trained, flawed, leading DDIM {short}: level std / data's")
    fixed = check("Z-06", f"trained, zero SNR, trailing Heun {long}: level std / data's")
    gain = check("Z-06", "trained, trailing Heun: level std / data's, zero SNR less flawed")
    yield (
        flawed[1][1] < fixed[1][0] and gain[1][0] > 0,
        f"**Zero terminal SNR brings dark and bright pictures back.** Without guidance, the brightness of backdrops "
        f"spreads {number(*fixed)} times as wide as in the data with the fixed model, and {number(*gain)} narrower "
        f"with the flawed one, by the same sampler (Heun, {long} calls, from the last step on). With the usual one "
        f"(DDIM, {short} steps, from an earlier step on) the flawed model has {number(*flawed)}. "
        "([finding 3](notebooks/findings/03_offset_noise.ipynb))",
    )

    def lost(model: str, spacing: str, *keys: str) -> tuple[float, Interval]:
        """By how much all fixes are above a cell with the same evaluations."""
        return study.difference(Cell("zsnr", "trailing", nfe=short), Cell(model, spacing, nfe=short), *keys)

    every = lost("control", "leading", "level", "std_ratio")
    rescaled, trailing = (
        lost("no-rescale", "trailing", "level", "std_ratio"),
        lost("zsnr", "leading", "level", "std_ratio"),
    )
    x0, distance = lost("x0", "trailing", "level", "std_ratio"), lost("x0", "trailing", "frechet")
    worse = -distance[0], (-distance[1][1], -distance[1][0])
    yield (
        rescaled[1][0] > trailing[1][1] > trailing[1][0] > 0 and x0[1][1] < rescaled[1][0] and worse[1][0] > 0,
        f"**Of the fixes, the schedule matters most for brightness.** Without guidance (DDIM, {short} steps), all "
        f"together widen that spread by {number(*every)}. Left out alone, zero terminal SNR costs {number(*rescaled)}, "
        f"trailing steps {number(*trailing)}. If the network predicts x0 instead of v, on the loss of x0, "
        f"{number(*x0)} is lost, and the Fréchet distance to the data grows by {number(*worse)}. "
        "([finding 14](notebooks/findings/14_finetuning.ipynb))",
    )

    def exposed(**how: float | str) -> tuple[float, Interval]:
        cell = Cell("zsnr", "trailing", nfe=short, **how)  # type: ignore[arg-type]
        count = guide[cell.but(part="figure6")]["n"]  # of each cell's pictures, those that Figure 6 is about
        values = guide[cell].tensors["saturated"][:count].double().tolist()
        return sum(values) / len(values), interval(values)

    none, plain = exposed(w=1.0), exposed(w=7.5)
    in_v, in_eps = exposed(w=7.5, phi=1.0), exposed(w=7.5, phi=1.0, space="eps")
    yield (
        max(none[1][1], in_v[1][1]) < in_eps[1][0] and plain[1][0] < in_eps[0] < plain[1][1],
        f"**Guidance rescale works on v, and has almost no effect on ε.** Guidance with w = 7.5 over-exposes "
        f"{number(*plain, 100)} % of the pixels, no guidance {number(*none, 100)} %. Rescaled in full (φ = 1) on v it "
        f"is {number(*in_v, 100)} %, on ε {number(*in_eps, 100)} %. "
        "([finding 9](notebooks/findings/09_rescaled_guidance.ipynb))",
    )

    fixes = check("Z-19", "own guidance: Frechet distance, class and level, no fixes less all")
    churn = check("E-33", "digits, original: gain of CIFAR-10 VP's setting of Table 5")
    harm = check("E-41", "digits, edm: harm of CIFAR-10 VP's setting")
    whole = churn_toy.read(str(folder)).at("digits", "original", NONE).mean()
    own = Table3.load(folder / "zsnr/table3")
    fixed_w, (flawed_w, *others) = set(own.chosen(ALL_FIXES)), dict.fromkeys(own.chosen(NO_FIXES))
    same = {w: own.gain("Frechet distance, class and level", w) for w in own.scales}
    sure = [w for w, (_, (low, _)) in same.items() if low > 0]
    rest = {w: gain for w, gain in same.items() if w not in sure}
    split = sure == own.scales[: len(sure)] and all(low < 0 < high for _, (low, high) in rest.values())
    yield (
        min(fixes[1][0], churn[1][0], harm[1][0]) > 0 and split and fixed_w == {1.0} and not others,
        "**Both papers' gains in image quality are seen, within limits.** In a Fréchet distance that sees brightness, "
        f"the fixes of Lin et al. gain {number(*fixes)} at each model's best guidance (w = 1, none, with the fixes, "
        f"{flawed_w:g} without). With one w for both they gain {number(*same[sure[0]])} at w = {sure[0]:g} and "
        f"{number(*same[sure[-1]])} at {sure[-1]:g}; with more it is undecided "
        "([finding 20](notebooks/findings/20_table3.ipynb)). On digits of known law, "
        "EDM's churn (fresh noise while sampling) lowers the energy distance of networks trained the original way by "
        f"{number(*churn)} of {number(whole)} thousandths, and raises EDM's by "
        f"{number(*harm)} ([finding 19](notebooks/findings/19_churn_known_truth.ipynb)).",
    )

    against = {scope: contradicted(rows, scope) for scope in ("exact", "trained")}
    names = {c["notebook"] for row in rows for c in row["checks"] if c["verdict"] == "contradicted"}
    where = [str(int(name[:2])) for name in sorted(names)]
    removed = check("E-38", "digits, original: noise removed too much, mean over levels in [.05, 1]")
    yield (
        all(against.values())
        and all("E-37" in text or "E-38" in text for text in against["trained"][-2:])
        and removed[1][1] < 0,
        f"**Some claims are contradicted, in part or whole.** For exact denoisers: {'; '.join(against['exact'])}. For "
        f"our small networks: {'; '.join(against['trained'])}, the last two by networks that "
        f"leave {number(-removed[0], None, 100)} % of the noise at low levels. (findings {', '.join(where)})",
    )


def contradicted(rows: list[dict[str, Any]], scope: str) -> list[str]:
    """The claims that one scope contradicts, in a few words each."""
    return [
        f"“{row['name']}” ({row['id']})"
        for row in rows
        if any(c["scope"] == scope and c["verdict"] == "contradicted" for c in row["checks"])
    ]


def block(results: Path = ROOT / "results") -> str:
    """The block between the marks, in Markdown.

    Raises:
        ValueError: the numbers no longer bear a finding out.
    """
    rows = json.loads((results / "claims.json").read_text(encoding="utf-8"))
    told = counts(rows)
    meaning = MEANING + INCONCLUSIVE * ("inconclusive" in told)
    lines = [*textwrap.wrap(told, 118), "", *textwrap.wrap(meaning, 118), ""]
    for k, (holds, text) in enumerate(findings(results / "full", rows), 1):
        if not holds:
            raise ValueError(f"the numbers do not bear this out any more, write it anew in {__file__}: {text}")
        lines += textwrap.wrap(
            f"{k}. {text}", 118, subsequent_indent="   ", break_long_words=False, break_on_hyphens=False
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the block into the page."""
    text = PAGE.read_text(encoding="utf-8")
    (old,) = re.findall(f"{MARKS[0]}(.*?){MARKS[1]}", text, re.S)
    PAGE.write_text(text.replace(MARKS[0] + old + MARKS[1], MARKS[0] + block() + MARKS[1]), encoding="utf-8")


if __name__ == "__main__":
    main()
