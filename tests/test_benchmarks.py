"""The benchmarks: what is counted and chosen, errors, which are the same on every machine, and the docs' excerpt."""

import importlib
import json
import math
import re
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

import zsnr
from benchmarks import __main__, errors, ours, problems, report
from benchmarks.solver import Network, Solver
from lab.models.mixture import Mixture

pytest.importorskip("diffusers")
ROOT = Path(__file__).parents[1]
RECORD = json.loads((ROOT / "benchmarks/results/benchmarks.json").read_text())


@pytest.fixture(scope="module")
def exact():
    return problems.exact()


def peer(module, *names):
    try:
        found = importlib.import_module(f"benchmarks.{module}").solvers()
    except ImportError as error:
        pytest.skip(str(error))
    return [solver for solver in found if solver.name in names]


def test_the_page_quotes_the_recorded_table():
    (quoted,) = re.findall(r"<!-- benchmarks -->\n(.*)<!-- /benchmarks -->", __main__.PAGE.read_text(), re.S)
    assert quoted == report.excerpt(RECORD)
    assert (ROOT / "benchmarks/results/benchmarks.md").read_text() == report.table(RECORD)


def test_the_network_that_was_measured_is_the_one_that_is_stored():
    (out,) = YAML(typ="safe").load(ROOT / "dvc.lock")["stages"]["finetune@zsnr"]["outs"]
    files = json.loads((ROOT / "dvcstore/files/md5" / out["md5"][:2] / out["md5"][2:]).read_text())
    stored = {file["relpath"]: file["md5"] for file in files}
    assert RECORD["weights"] == stored["weights.safetensors"], "`make bench`: the network was trained again"


def test_the_readme_quotes_the_smallest_errors_on_the_network(tmp_path):
    assert f"{__main__.MARKS[0]}{report.sentence(RECORD)}{__main__.MARKS[1]}\n" in __main__.README.read_text()
    page = tmp_path / "README.md"
    page.write_text(f"before {__main__.MARKS[0]}old{__main__.MARKS[1]} after")
    __main__.quote(page, "new")
    assert page.read_text() == f"before {__main__.MARKS[0]}new{__main__.MARKS[1]} after"
    found = [r["cells"]["network"]["20"]["error"] for r in RECORD["errors"] if r["library"] != "zsnr"]
    assert f"{1000 * min(filter(None, found)):.3g}" in report.sentence(RECORD).split("libraries, ")[1]


def test_the_record_has_everybody_and_its_version():
    assert {r["library"] for r in RECORD["errors"]} == {"zsnr", *report.PACKAGES} - {"torch"}
    assert "missing" not in RECORD["versions"].values()
    assert "network" in RECORD["errors"][0]["cells"]
    lines = (ROOT / "benchmarks/requirements.txt").read_text().split()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    for name in ("k-diffusion", "azula", "smalldiffusion"):
        assert RECORD["versions"][name] == pinned[name]


def test_errors_of_ours_are_the_recorded_ones(exact):
    recorded = {r["name"]: r["cells"] for r in RECORD["errors"] if r["library"] == "zsnr"}
    for row in errors.measure(ours.solvers(), exact, None, (10, 20)):
        for test, cells in row["cells"].items():
            for budget, cell in cells.items():
                assert cell["error"] == pytest.approx(recorded[row["name"]][test][budget]["error"], rel=1e-3)


def test_the_stack_is_the_mixtures(exact):
    """Against `lab.models.mixture` and the exact solution of a Gaussian, from zero SNR down."""
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for n in (1, 8):
        some = [m for m in (problems.SEEN | problems.HELD_OUT).values() if len(m[0][1]) == n]
        parts = x[:, : n * len(some)].unflatten(1, (len(some), n)).transpose(0, 1)
        for phi in (math.pi / 2, 1.0, 0.05):
            each = [Mixture([zsnr.Gaussian(m, s**2) for _, m, s in one], [w for w, _, _ in one]) for one in some]
            wanted = torch.stack([one(part, phi) for one, part in zip(each, parts, strict=True)])
            torch.testing.assert_close(problems.Stack(some)(parts, phi), wanted)
    gaussian = zsnr.Gaussian(torch.zeros(61), problems.LAMBDA)
    images = torch.zeros_like(exact.noise)
    images[:, :61] = gaussian.solve(exact.noise[:, :61], math.pi / 2)
    assert exact.errors(images)["gaussian"] < 1e-12
    images[0, 7] *= 1.01
    assert exact.errors(images)["gaussian"] == pytest.approx(0.01)


def test_truth_is_where_our_solvers_go(exact):
    found = exact.errors(zsnr.eab(exact.velocity, exact.noise, zsnr.skewed(400)))
    assert max(found.values()) < 1e-6


@pytest.mark.parametrize("name", ours.SOLVERS)
def test_the_bare_loop_does_the_same_sums(name):
    noise, output = torch.randn(2, 3, 8, 8, dtype=torch.float64).unbind(0)
    (solver,) = [s for s in ours.solvers() if s.name == name]
    constant = Network(lambda x, phi: output)
    wanted = solver.prepare(constant, noise, next(iter(solver.settings.values())), 12)()
    torch.testing.assert_close(ours.bare(name, noise, output, 12)(), wanted)


def test_evaluations_are_counted_and_none_is_too_many(exact):
    def spends(network, noise, setting, N):
        return lambda: torch.stack([network.v(noise, 1.0) for _ in range(2 * N + 1)])[0]

    twice = Solver("none", "twice", {"only": 0}, spends)
    assert [twice.steps(b) for b in (0, 2, 3, 10, 100)] == [0, 0, 1, 4, 49]
    assert errors.run(twice, exact, "only", 9, 4)["evaluations"] == 9
    assert not errors.run(twice, exact, "only", 8, 4)
    refuses = Solver("none", "refuses", {"a": 0}, lambda n, x, s, N: (_ for _ in ()).throw(ValueError))
    assert not errors.run(refuses, exact, "a", 8, 4)


def test_a_peer_has_its_best_setting_in_each_cell(exact):
    (heun,) = peer("peer_diffusers", "FlowMatchHeun")
    cells = errors.measure([heun], exact, None, (20, 100))[0]["cells"]["gaussian"]
    alone = [errors.run(heun, exact, s, 20, heun.steps(20))["errors"]["gaussian"] for s in heun.settings]
    assert cells["20"]["error"] == min(alone)
    assert cells["20"]["evaluations"] == 19
    assert cells["20"]["error"] / cells["100"]["error"] > 20  # second order, from exactly zero SNR, too


@pytest.mark.parametrize(
    ("module", "name", "budget", "most"),
    [
        ("peer_azula", "zEAB", 20, 0.00225),
        ("peer_k_diffusion", "dpmpp_3m_sde", 20, 0.00576),
        ("peer_diffusers", "EDM-DPM-Solver++ M", 20, 0.00583),
        ("peer_diffusers", "UniPC, bh2", 20, 0.0172),
    ],
)
def test_peers_are_at_their_best(module, name, budget, most):
    """The record is not worse for them than what was measured by hand before there was this benchmark."""
    (row,) = [r for r in RECORD["errors"] if r["name"] == name]
    assert row["cells"]["gaussian"][str(budget)]["error"] < most


def test_the_command(monkeypatch, tmp_path, capsys):
    few = [s for s in ours.solvers() if s.name in ("eab", "heun")] + peer("peer_diffusers", "FlowMatchHeun", "DDIM")
    monkeypatch.setattr(__main__, "solvers", lambda: few)
    monkeypatch.setattr(problems, "WEIGHTS", "nowhere.safetensors")
    monkeypatch.setattr(errors, "BUDGETS", (10, 20))
    monkeypatch.setattr(report, "RATIO", 0.01)
    assert __main__.main(["--repeats", "1", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "the trained network is skipped" in said
    assert "bare loops" in said.split("zsnr misses:")[1]
    assert {p.name for p in tmp_path.iterdir()} == {"benchmarks.json", "benchmarks.png", "benchmarks.md"}
    record = json.loads((tmp_path / "benchmarks.json").read_text())
    assert (tmp_path / "benchmarks.md").read_text() == report.table(record)
    assert all(r["microseconds"] > 0 for r in record["overhead"])


def test_a_peer_that_is_ahead_is_bold_and_said():
    def row(library, name, error):
        return {"library": library, "name": name, "cells": {"gaussian": {"10": {"error": error, "setting": "order 4"}}}}

    record = {"errors": [row("zsnr", "eab", 0.02), row("azula", "zEAB", 0.01)], "overhead": []}
    said = "Gaussian, %, at 10 (azula zEAB, order 4: 1, ours 2)"
    assert report.excerpt(record).splitlines()[2:] == [
        "| zsnr, eab | 2 |", "| azula, zEAB | **1** |", "", f"Peers are ahead of all of ours: {said}."
    ]  # fmt: skip
    assert report.behind(record) == [said]
    assert report.misses(record) == ["gaussian, 10 evaluations: 0.02 > 0.0055"]


def test_overheads_are_held_against_solvers_of_the_same_kind():
    def row(library, name, microseconds, evaluations=50):
        return {"library": library, "name": name, "microseconds": microseconds, "evaluations": evaluations}

    ours = [row("zsnr", "eab", 90), row("zsnr", "ddim", 25), row("zsnr", "heun", 23, 99)]
    peers = [row("diffusers", "FlowMatchEuler", 34), row("azula", "zEAB", 95), row("azula", "Heun", 24, 100)]
    cells = {"library": "zsnr", "name": "eab", "cells": {}}
    assert report.behind({"errors": [cells, cells | {"library": "azula"}], "overhead": ours + peers}) == []
    peers += [row("k-diffusion", "dpmpp_2m", 89), row("diffusers", "Euler", 25), row("diffusers", "Heun", 22, 99)]
    assert report.behind({"errors": [cells, cells | {"library": "azula"}], "overhead": ours + peers}) == [
        f"overhead of {name} takes less)"
        for name in ("eab (k-diffusion dpmpp_2m", "ddim (diffusers Euler", "heun (diffusers Heun")
    ]


def test_the_excerpt_has_the_best_two_of_each_library():
    def row(library, name, *found):
        cells = {"gaussian": {str(b): {"error": e} for b, e in zip((10, 20), found, strict=True)}}
        return {"library": library, "name": name, "cells": cells}

    peers = [row("azula", "a", 0.1, 0.1), row("azula", "b", 0.01, None), row("azula", "c", 0.02, 0.4)]
    record = {"errors": [*peers, row("zsnr", "eab", 0.1, 0.1), row("zsnr", "ddim", 1e-9, 1e-9)], "overhead": []}
    wanted = [("gaussian", "10"), ("gaussian", "20")]
    assert [r["name"] for r in report.shown(record, wanted)] == ["eab", "c", "b"]
    assert report.excerpt(record).endswith("\nPeers are ahead of all of ours: nowhere.\n")


def test_a_run_that_was_stopped_goes_on(exact, tmp_path):
    def spends(network, noise, setting, N):
        return lambda: torch.stack([network.v(noise, 1.0) for _ in range(N)])[0]

    def measured(stamp, **settings):
        journal = errors.Journal(tmp_path / "lines", stamp)
        return errors.measure([Solver("none", "each", settings, spends)], exact, None, (10,), journal=journal)

    first = measured("this", only=0)
    assert first[0]["cells"]["gaussian"]["10"]["tried"] == 1
    assert measured("this", one=0, two=0) == first
    assert measured("that", one=0, two=0)[0]["cells"]["gaussian"]["10"]["tried"] == 2


def test_a_missing_peer_is_a_line(monkeypatch, capsys):
    monkeypatch.setattr(__main__, "LIBRARIES", ("ours", "peer_nobody"))
    assert {s.library for s in __main__.solvers()} == {"zsnr"}
    assert "peer_nobody is skipped" in capsys.readouterr().out
