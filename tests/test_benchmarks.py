"""The benchmarks: structure, verdicts, and the errors, which are the same on every machine. Timings are not tested."""

import json
import math

import pytest

from benchmarks import __main__, errors, ours, overhead, report
from benchmarks.method import Method

pytest.importorskip("diffusers")

from benchmarks import peer_diffusers


@pytest.fixture(scope="module")
def methods() -> list[Method]:
    return ours.methods() + [m for m in peer_diffusers.methods() if m.name in ("DDIM", "FlowMatchHeun")]


@pytest.fixture(scope="module")
def found(methods):
    few = [m for m in methods if "best grid" not in m.name]
    return {(row["library"], row["name"]): row["cells"] for row in errors.measure(few, (20, 50, 100))}


def test_errors_meet_the_targets(found):
    heun = found["zsnr", "Heun"]
    assert [cell["evaluations"] for cell in heun] == [19, 49, 99]
    assert not any(cell["misses"] for cell in heun)
    assert heun[0]["error"] < 0.08
    assert heun[1]["error"] < 0.015
    assert heun[2]["error"] < 0.004
    assert heun[0]["error"] == pytest.approx(0.06727, rel=1e-3)


def test_errors_of_peers(found):
    # flow matching's Heun starts from exactly zero SNR, too, and is second order; DDIM is first order everywhere
    flow = [cell["error"] for cell in found["diffusers", "FlowMatchHeun"]]
    assert flow[0] / flow[2] > 20
    assert [cell["error"] for cell in found["zsnr", "DDIM"]] == pytest.approx([0.125, 0.0521, 0.0264], rel=0.01)
    for (library, _), cells in found.items():
        for cell, our in zip(cells, found["zsnr", "Heun"], strict=True):
            assert cell["evaluations"] <= cell["budget"]
            assert cell["closer"] == (library != "zsnr" and cell["error"] < our["error"])


def test_a_missed_target_is_seen(monkeypatch, methods):
    monkeypatch.setattr(errors, "TARGETS", {20: 0.06})
    rows = errors.measure([m for m in methods if m.name == "Heun" and m.library == "zsnr"], (20,))
    assert rows[0]["cells"][0]["misses"]


def test_variance_64_by_trailing_steps(methods):
    ten, fifty = errors.direction(methods)
    assert abs(ten["zsnr"][0] - 1) < 0.08
    assert abs(fifty["zsnr"][0] - 1) < 0.005
    assert not ten["misses"]
    assert not fifty["misses"]


def test_k_diffusion_breaks_at_its_stand_in(methods):
    pytest.importorskip("torchsde", reason="pip install --no-deps -r benchmarks/requirements.txt")
    try:
        from benchmarks.peer_k_diffusion import methods as k_diffusion

        peers = k_diffusion()
    except ImportError as error:
        pytest.skip(str(error))
    row = errors.direction(methods + peers)[0]
    assert row["k-diffusion"][0] > 10


def test_overhead_and_its_verdicts(methods, found, tmp_path):
    rows = overhead.measure(methods, 1)
    assert {row["library"] for row in rows} == {"yardstick", "zsnr", "diffusers"}
    for row in rows:
        assert all(0 < t < math.inf for t in row["step"] + row["evaluation"])
        assert ("misses" in row) == (row["library"] == "zsnr")
    # verdicts from made-up times: a lean loop of 5 and 20, noise of 4 and 100, a peer of 9 and 25 by evaluation
    for row in rows:
        noise = 4 * row["draws"], 100 * row["draws"]
        base = {"yardstick": (5.0, 20.0), "zsnr": (4.0, 16.0), "diffusers": (9.0, 25.0)}[row["library"]]
        row["step"] = [b * row["per_step"] + n for b, n in zip(base, noise, strict=True)]
        row["evaluation"] = [t / row["per_step"] for t in row["step"]]
    assert not any(row["misses"] for row in overhead.judge(rows) if row["library"] == "zsnr")
    euler = next(row for row in rows if row["name"] == "Euler" and row["library"] == "zsnr")
    euler["step"] = euler["evaluation"] = [11.0, 31.0]
    overhead.judge(rows)
    assert euler["misses"] == ["11.0 us a step", "1.55 lean loops", "behind diffusers DDIM"]

    cells = [{"library": a, "name": b, "cells": c} for (a, b), c in found.items()]
    assert "1.55 lean loops; behind diffusers DDIM" in report.overhead(rows, report.machine())
    text = report.errors(cells, errors.direction(methods))
    assert "| zsnr | Heun | 6.73 % | 1.15 % | 0.291 % |" in text
    report.figure(cells, rows, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_the_command(monkeypatch, tmp_path, methods, capsys):
    few = [m for m in methods if m.library == "yardstick" or m.name in ("Heun", "Heun, trailing")]
    monkeypatch.setattr(__main__, "methods", lambda: few)
    monkeypatch.setattr(errors, "BUDGETS", (20,))
    monkeypatch.setattr(overhead, "MICROSECONDS", 0.001)
    assert __main__.main(["--repeats", "1", "--out", str(tmp_path)]) == 1
    assert "Heun: " in capsys.readouterr().out.split("zsnr misses:")[1]
    record = json.loads((tmp_path / "benchmarks.json").read_text())
    assert set(record) == {"machine", "overhead", "errors", "direction"}
    assert {p.name for p in tmp_path.iterdir()} == {"benchmarks.json", "benchmarks.png", "errors.md", "overhead.md"}


def test_a_missing_peer_is_a_line(monkeypatch, capsys):
    monkeypatch.setattr(__main__, "LIBRARIES", ("ours", "peer_nobody"))
    assert {m.library for m in __main__.methods()} == {"yardstick", "zsnr"}
    assert "peer_nobody is skipped" in capsys.readouterr().out
