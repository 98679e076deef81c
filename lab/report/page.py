"""The claims for people: docs/claims.md and the README's table of findings, both from results/claims.json.

    python -m lab.report.page

writes them, and copies the figures of the full profile to docs/; `make docs` calls it.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lab import ROOT
from lab.report.claims import VERDICTS
from lab.report.wording import words

MEANING = {
    "reproduced": "what the paper says came out, within its band",
    "direction": "only the sign of an effect, or the order of two results, can be checked at this small scale, and it "
    "is as the paper says",
    "arithmetic": "the paper's own numbers, put together, give what it says; no network has a part",
    "contradicted": "the value, with the whole of its interval, lies outside the band",
    "inconclusive": "the interval lies across an edge of the band, so these data do not decide",
    "pending": "not measured yet",
    "out of reach": "it takes data, networks or hardware that this project does not have",
}
PAPERS = {
    "ZSNR": ("Lin et al.", "Common Diffusion Noise Schedules and Sample Steps are Flawed"),
    "EDM": ("Karras et al.", "Elucidating the Design Space of Diffusion-Based Generative Models"),
}
SCOPES = {"exact": " on exact denoisers", "trained": " on trained networks"}
NOT_FULL = "**Numbers of the profile `{}`: they show that the pipeline runs, and say nothing about the papers.**"
FINDINGS = ROOT / "notebooks/findings"
MARKS = "<!-- findings -->\n", "<!-- /findings -->"
Row = Mapping[str, Any]


def cell(text: str) -> str:
    """text for Markdown: a bar would end a table's cell, and ~, *, _, $ and < are read as more than themselves."""
    return " ".join(re.sub(r"([\\|*~<$_`])", r"\\\1", text).split())


def table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells that are Markdown already."""
    return "".join(f"| {' | '.join(line)} |\n" for line in [heads, ["---"] * len(heads), *lines])


def counts(rows: Sequence[Row]) -> str:
    """How many claims and verdicts there are, and of which kinds."""
    every = [word for row in rows for word in words(row)]
    return f"{len(rows)} claims, {len(every)} verdicts: {tally(every)}"


def tally(verdicts: Sequence[str]) -> str:
    """Such as "3 reproduced, 1 inconclusive"."""
    return ", ".join(f"{verdicts.count(v)} {v}" for v in VERDICTS if v in verdicts)


def legend() -> str:
    """What each verdict means."""
    return "".join(f"- **{word}**: {meaning}.\n" for word, meaning in MEANING.items() if word != "pending")


def overview(rows: Sequence[Row], page: str | None = None) -> str:
    """One line for each verdict; `page`, relative, is where a claim's section is: "" for the same page."""
    lines = []
    for row in rows:
        at = row["id"] if page is None else f"[{row['id']}]({page}#{row['id'].lower()})"
        head = [at, cell(row["name"]), f"{row['paper']}, {cell(row['where'])}"]
        for c in (c for c in row["checks"] if c["scope"]):
            lines.append([*head, cell(c["short"]), c["verdict"] + within(c["scope"]), cell(c["reason"])])
        lines += [[*head, "", "pending" + within(scope), ""] for scope in row["pending"]]
        if row["out_of_reach"]:
            lines.append([*head, "", "out of reach", cell(sentence(row["out_of_reach"]))])
    return table(["id", "claim", "where", "measured", "verdict", "why"], lines)


def within(scope: str) -> str:
    """A blank and "(exact)" or "(trained)"; the other scopes are a claim's only ones."""
    return f" ({scope})" * (scope in SCOPES)


def sentence(text: str) -> str:
    """With a capital at its start, and a full stop."""
    return text[:1].upper() + text[1:].rstrip(".") + "."


def section(row: Row, folder: Path, profile: str) -> str:
    """All about one claim, for a page in `folder`: its words, its checks, why the band, its figure in full."""
    primary = [c for c in row["checks"] if c["scope"]]
    found = [f"**{c['verdict']}**{SCOPES.get(c['scope'], '')}" for c in primary]
    found += [f"pending{SCOPES.get(scope, '')}" for scope in row["pending"]]
    lines = [f"### {row['id']}", ""]
    lines += [f"**{cell(row['name'])}**: {', '.join(found) or '**out of reach**'}.", ""]
    lines += [f"> {cell(row['statement'])}", "", f"{PAPERS[row['paper']][0]}, {cell(row['where'])}. In the paper:"]
    lines[-1] += f" {cell(row['expected']).rstrip('.')}."
    lines += ["", *[f"Out of reach: {cell(row['out_of_reach'])}.", ""] * bool(row["out_of_reach"])]
    if row["checks"]:
        lines += [table(["check", "value", "band", "outcome", "finding"], [line(c, folder) for c in row["checks"]])]
    for c in primary:
        lines += [f"- Why this check and band{SCOPES.get(c['scope'], '')}: {cell(c['why'])}."]
        lines += [f"- What would decide it{SCOPES.get(c['scope'], '')}: {cell(c['decides'])}."] * bool(c["decides"])
    if row["figure"] and profile == "full" and (figure := picture(row["figure"], folder)):
        lines += ["", f"![{row['name']}]({figure})"]
    return "\n".join(lines).rstrip() + "\n"


def line(c: Mapping[str, str], folder: Path) -> list[str]:
    """A check in its table: the primary ones bold."""
    what = f"**primary{within(c['scope'])}**: {cell(c['what'])}" if c["scope"] else cell(c["what"])
    note = f" ({cell(c['note'])})" * bool(c["note"])
    outcome = f"**{c['outcome']}**" if c["scope"] else c["outcome"]
    return [what + note, cell(c["value"]), cell(c["band"]), outcome, link(c, folder)]


def link(c: Mapping[str, str], folder: Path) -> str:
    """The finding that made a check, at the section that measures it; "" for a check that no finding saved."""
    if not c["notebook"]:
        return ""
    path = FINDINGS / f"{c['notebook']}.ipynb"
    at = anchor(path.with_suffix(".py"), c["what"])
    return f"[{int(c['notebook'][:2])}]({relative(path, folder)}{at})"


def anchor(source: Path, what: str) -> str:
    """#the-heading in whose section a finding names a check; "" where it is not there in one piece."""
    before, found, _ = source.read_text(encoding="utf-8").partition(f'"{what}"')
    heads = re.findall(r"^# ##+ (.+)$", before, re.M)
    if not found or not heads or "$" in heads[-1]:
        return ""
    return "#" + re.sub(r"[^\w\- ]", "", heads[-1].lower()).replace(" ", "-")


def picture(figure: str, folder: Path) -> str:
    """The path of `finding/name` for a page in folder: docs/ has its own copies. "" where it was not drawn."""
    path = ROOT / f"results/full/findings/{figure}.png"
    if folder == ROOT / "docs":
        return figure.replace("/", "-") + ".png"
    return relative(path, folder) if path.exists() else ""


def relative(path: Path, folder: Path) -> str:
    """path as seen from folder, with forward slashes."""
    return Path(os.path.relpath(path, folder)).as_posix()


def to_markdown(rows: Sequence[Row], folder: Path, profile: str = "full") -> str:
    """The page, for a file in `folder`: counts, legend, the short table, and a section for each claim."""
    parts = ["# The claims of both papers\n", counts(rows) + ".\n"]
    parts += [NOT_FULL.format(profile) + "\n"] if profile != "full" else []
    parts += [legend()]
    parts += [
        "One *primary* check decides a claim: on exact denoisers, whose answer is known in closed form, and on\n"
        "trained networks apart where the claim is about both. Its band was stated before it was measured, or the\n"
        "claim's reason says which earlier result had a part in the choice. Intervals are 95 %, each verdict's own:\n"
        "at the edge of its band one in 40 is decided wrongly, and no correction is made over rows. Of several\n"
        'numbers, "4 of 4" says how many lie in their bands; all are in the section of the claim.\n'
    ]
    parts += ["## At a glance\n", overview(rows, "")]
    for paper, (authors, title) in PAPERS.items():
        parts += [f"## {paper}\n", f"{authors}, *{title}*.\n"]
        parts += [section(row, folder, profile) for row in rows if row["paper"] == paper]
    return "\n".join(parts)


def ranges(ids: Sequence[str]) -> str:
    """E-01 to E-03, E-05."""
    runs: list[list[str]] = []
    for id in ids:
        follows = runs and id[0] == runs[-1][-1][0] and int(id[2:]) == int(runs[-1][-1][2:]) + 1
        runs[-1].append(id) if follows else runs.append([id])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(run) for run in runs)


def findings(rows: Sequence[Row]) -> str:
    """The README's table: each finding, its question, the claims that its primary checks decide, their verdicts."""
    from ruamel.yaml import YAML

    asked = YAML(typ="safe").load(Path(__file__).with_name("findings.yaml"))
    lines = []
    for path in sorted(FINDINGS.glob("*.py")):
        name = path.stem
        if name not in asked:
            raise ValueError(f"{name} has no entry in lab/report/findings.yaml: add its title and question")
        primary = [(row["id"], c) for row in rows for c in row["checks"] if c["scope"]]
        made = [(id, c["verdict"]) for id, c in primary if c["notebook"] == name]
        claims = ranges(list(dict.fromkeys(id for id, _ in made)))
        title, question = asked[name]
        at = f"[{int(name[:2])}. {title}](notebooks/findings/{name}.ipynb)"
        lines.append([at, question, claims or "none", tally([verdict for _, verdict in made]) or "none"])
    return table(["finding", "question", "claims", "verdicts"], lines)


def readme(text: str, rows: Sequence[Row]) -> str:
    """The README with its table of findings between the marks made anew.

    Raises:
        ValueError: it lacks the marks.
    """
    begin, end = MARKS
    if text.count(begin) != 1 or end not in text:
        raise ValueError("README.md needs a line <!-- findings --> and, below it, a line <!-- /findings -->")
    before, _, rest = text.partition(begin)
    return f"{before}{begin}{findings(rows)}{end}{rest.partition(end)[2]}"


def main() -> None:
    """Write docs/claims.md, docs/*.png and the README's table."""
    docs, page = ROOT / "docs", ROOT / "README.md"
    rows = json.loads((ROOT / "results/claims.json").read_text(encoding="utf-8"))
    made = {f"{p.parent.name}-{p.name}": p.read_bytes() for p in (ROOT / "results/full/findings").glob("*/*.png")}
    for old in docs.glob("[0-9][0-9]_*.png"):
        if old.name not in made:
            old.unlink()
    for name, data in made.items():
        (docs / name).write_bytes(data)
    (docs / "claims.md").write_text(to_markdown(rows, docs), encoding="utf-8")
    page.write_text(readme(page.read_text(encoding="utf-8"), rows), encoding="utf-8")


if __name__ == "__main__":
    main()
