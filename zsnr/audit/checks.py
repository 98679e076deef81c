"""What an audit looks at: see `zsnr.audit`. Each check adds its findings and facts to a report."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from zsnr import brightness
from zsnr.audit.noise_levels import Table, Unknown
from zsnr.audit.probe import HALF, OFF_CURVE, Landing, Probe
from zsnr.audit.report import Report
from zsnr.prediction import EPS_AT_ZERO_SNR

MEAN_STD, NARROWED, USUAL, HIGH = 0.5, 0.1, 50, 80
"""Std of a channel's mean, the data's being 1; share of its std that may be lost; a usual count; a high sigma."""
RETRAIN = "fine-tune to v-prediction with Algorithm 1 (rescale_betas_zero_snr=True, timestep_spacing='trailing')"
OTHER_COUNT = "choose a count of steps where it does not happen, or another scheduler"


def alpha_bar(phi: float) -> float:
    """cos(phi)^2, exactly 0 at pi/2."""
    return math.cos(phi) ** 2 if phi < math.pi / 2 else 0.0


def loss(alpha_bar: float, shape: Sequence[int]) -> tuple[float, float]:
    """(share of a prompt's brightness lost, std of brightness / true std) along the mean of a channel."""
    mean, ratio = brightness.predicted(alpha_bar, MEAN_STD**2 * math.prod(shape[1:]), 1.0)
    return 1 - mean, ratio


def schedule(report: Report, end: float, shape: Sequence[int], T: int, prediction: str = "") -> None:
    """The signal that is left at T, where alpha_bar is `end`."""
    lost, ratio = loss(end, shape)
    report.facts |= {"shape": "x".join(map(str, shape)), "terminal alpha_bar": end, "terminal SNR": end / (1 - end)}
    report.facts |= {"mean lost at T": lost, "std kept at T": ratio}
    if end == 0 and prediction == "eps":
        report.add("flaw", "eps at zero SNR", EPS_AT_ZERO_SNR, RETRAIN + ", or drop rescale_betas_zero_snr")
    if end > 0:
        narrowed = ratio < 1 - NARROWED
        report.add(
            "flaw" if narrowed else "note",
            "terminal SNR",
            f"T = {T} still holds a signal (alpha_bar = {end:.2g}): from pure noise, brightness keeps {ratio:.0%} of "
            f"its std and a prompt loses {lost:.0%} of its own",
            RETRAIN if narrowed else f"none needed; to remove it, {RETRAIN}",
        )


def floats(report: Report, scheduler: Any) -> None:
    """How far the table is from its betas in float64, and what float16 would make of it."""
    table = torch.as_tensor(scheduler.alphas_cumprod).cpu()
    if (betas := getattr(scheduler, "betas", None)) is not None and len(betas) == len(table):
        exact = (1 - torch.as_tensor(betas).cpu().double()).cumprod(0)
        kept = (exact > 2**-23) & (table > 2**-23)  # below, either may be a stand-in for zero
        report.facts["float32 drift"] = ((table.double() / exact).sqrt() - 1)[kept].abs().max().item()
    half = table.half().double()
    report.facts["float16 drift"] = ((half / table.double()).sqrt() - 1)[half > 0].abs().max().item()
    if lost := [t for t in range(len(table)) if table[t] > 0 and half[t] == 0]:
        what = f"alpha_bar underflows to 0 from t = {lost[0]} on in float16"
        report.add("note", "float16", what, "keep the scheduler's tables in float32, as diffusers does")


def steps(
    report: Report, probe: Probe, shape: Sequence[int], end: float, counts: list[int], exhaustive: bool, probed: bool
) -> None:
    """Every count's grid, and where its steps land."""
    grids: dict[int, np.ndarray] = {}
    landings: dict[int, list[Landing]] = {}
    refused: dict[int, Exception] = {}
    crashed: dict[int, Exception] = {}
    for n in counts:
        try:
            grids[n] = probe.grid(n)
            if probed:
                landings[n] = probe.run(grids[n]) if exhaustive else probe.ends(grids[n])
        except Exception as error:  # whatever it is, it is the finding
            (crashed if n in grids or not isinstance(error, ValueError) else refused)[n] = error
    report.facts |= {"counts tried": len(counts), "steps probed": sum(map(len, landings.values()))}
    report.errors = dict.fromkeys(refused, math.inf)
    if not grids:
        raise Unknown(f"{report.subject} refuses every count of steps: {next(iter((refused | crashed).values()))}")
    if refused:
        n = min(refused)
        report.add("note", "refused", f"set_timesteps({n}): {refused[n]}", "choose another count", refused)
    outside = _outside(report, probe, grids)
    if crashed := {n: error for n, error in crashed.items() if n not in outside}:
        n = min(crashed)
        report.add("bug", "error", f"{n} steps end in {crashed[n]!r}", OTHER_COUNT, crashed)
    _grids(report, probe, {n: ts for n, ts in grids.items() if n not in outside})
    _start(report, probe, grids, end, shape)
    _landings(report, probe, landings, exhaustive)


def _outside(report: Report, probe: Probe, grids: dict[int, np.ndarray]) -> list[int]:
    first, last = probe.levels.first_step, probe.levels.last_step
    outside = [n for n, ts in grids.items() if not (np.rint(ts.min()) >= first and ts.max() <= last)]
    if outside:
        n, ts = outside[0], grids[outside[0]]
        why = "there is no such level" if not np.isfinite(ts).all() else f"the table ends at {last}"
        why = "-1 reads the table from its end: pure noise" if ts.min() < first else why
        what = f"{n} steps give {len(ts)}, from t = {ts[0]:g} to t = {ts[-1]:g}; {why}"
        report.add("bug", "step outside the table", what, "choose another count, or pass timesteps", outside)
    return outside


def _outliers(values: dict[int, int], slope: int = 0) -> list[int]:
    """Counts n > 4 whose value is not slope n + constant, as it is for most; of few steps, those where it is more."""
    counted = Counter(v - slope * n for n, v in values.items()).most_common(1)
    usual = counted[0][0] if counted else 0
    return [n for n, v in values.items() if v - slope * n > usual or (v - slope * n < usual and n > 4)]


def _grids(report: Report, probe: Probe, grids: dict[int, np.ndarray]) -> None:
    # of a solver with two stages, every second step starts one
    ways = {n: np.diff(ts[:: probe.order]) for n, ts in grids.items()}
    if too_long := _outliers({n: len(ts) for n, ts in grids.items()}, probe.order):
        report.add(
            "bug", "length", f"{too_long[0]} steps make {len(grids[too_long[0]])} time steps", OTHER_COUNT, too_long
        )
    if rising := _outliers({n: int((way > 0).sum()) for n, way in ways.items()}):
        report.add("bug", "order", f"with {rising[0]} steps the noise grows on the way", OTHER_COUNT, rising)
    if repeated := _outliers({n: int((way == 0).sum()) for n, way in ways.items()}):
        what = f"with {repeated[0]} steps a time step is told twice: the levels are closer than it can tell"
        report.add("note", "repeats", what, "take fewer steps", repeated)


def _start(report: Report, probe: Probe, grids: dict[int, np.ndarray], end: float, shape: Sequence[int]) -> None:
    levels = probe.levels
    starts = {n: levels.angle_of(float(ts[0])) for n, ts in grids.items()}
    late = [n for n, phi in starts.items() if levels.position(phi) < levels.position(levels.last_angle) - HALF]
    usual = min(grids, key=lambda n: abs(n - USUAL))
    lost, ratio = loss(alpha_bar(starts[usual]) if usual in late else end, shape)
    high = [math.tan(levels.angle_of(float(t))) * levels.sigma_data > HIGH for t in grids[usual]]
    report.facts |= {
        "T is visited": f"{len(grids) - len(late)} of {len(grids)} counts",
        f"mean lost at {usual} steps": lost,
        f"std kept at {usual} steps": ratio,
        f"sigma > {HIGH} at {usual} steps": float(np.mean(high)),
    }
    if late:
        worse = usual in late and (ratio < 1 - NARROWED or (end == 0 and isinstance(levels, Table)))
        n = min(late, key=lambda n: abs(n - USUAL))
        report.add(
            "flaw" if worse else "note",
            "T is not visited",
            f"{n} steps start at t = {grids[n][0]:g}, where the model expects a signal, from pure noise"
            + (f": std {ratio:.0%}, a prompt loses {lost:.0%}" if worse else ""),
            "timestep_spacing='trailing'",
            late,
        )
    if np.mean(high) > 0.2:
        what = f"{np.mean(high):.0%} of {usual} steps lie above sigma = {HIGH}, where the denoised image is the mean"
        report.add("note", "wasted steps", what, "use trailing steps, without Karras sigmas, or a grid in the angle")
    probe.grid(usual)
    expected = levels.parts(probe.state(starts[usual], probe.factor(probe.scheduler, 0)))
    start = float(getattr(probe.scheduler, "init_noise_sigma", 1.0))
    wrong = max(expected[1] / start, start / math.hypot(*expected)) - 1  # between the noise and all of the state
    if levels.scales_start and math.isfinite(wrong) and wrong > 1e-5:
        severity, remedy = ("bug", "scale the noise yourself") if wrong > 1e-2 else ("note", "none needed")
        what = f"init_noise_sigma = {start:.6g}, but the first level has std {math.hypot(*expected):.6g}"
        report.add(severity, "start", what, remedy)


def _landings(report: Report, probe: Probe, landings: dict[int, list[Landing]], exhaustive: bool) -> None:
    missed, empty, off, finals = {}, {}, {}, {}
    for n, steps in landings.items():
        known = [one for one in steps if not math.isnan(one.expected)]
        if not known:
            continue
        report.errors[n] = max(one.error for one in known)
        if lost := [one for one in known if math.isnan(one.reached)]:
            empty[n], report.errors[n] = lost[0], math.nan
            continue
        worst = max(known, key=lambda one: one.error)
        if worst.error > HALF:
            missed[n] = worst
        elif curve := [one for one in known if abs(one.size - 1) > OFF_CURVE]:
            off[n] = curve[0]
        if known[-1].expected in probe.levels.final_positions:
            finals[n] = known[-1].reached
    if empty:
        n, one = next(iter(empty.items()))
        what = f"step {one.index + 1} of {n} answers a perfect model with NaN or inf, from position {one.start:.4g}"
        remedy = "start below zero SNR, or use a scheduler that is exact there (DDIM with v or x0)"
        report.add("bug", "not a number", what, remedy, empty)
    if missed:
        n = max(missed, key=lambda n: missed[n].error)
        one, least = missed[n], "a" if exhaustive else "at least one"
        what = (
            f"{least} step lands off the level that the network is told next; worst with {n} steps, where step "
            f"{one.index + 1} goes from {one.start:.5g} to {one.reached:.5g}, not to {one.expected:.5g}"
        )
        if getattr(probe.scheduler, "truncates", False):
            what, remedy = what.replace("lands off", "lands beside"), "its solver's own error: take more steps"
            report.add("note", "solver error", what, remedy, missed)
        else:
            report.add("bug", "step target", what, OTHER_COUNT, missed)
    if off:
        n, one = next(iter(off.items()))
        what = f"step {one.index + 1} of {n} leaves an input {one.size:.4g} times as large as the model expects"
        report.add("bug", "off the curve", what, OTHER_COUNT, off)
    if finals:
        usual = min(finals, key=lambda n: abs(n - USUAL))
        report.facts["final sigma"] = sigma = probe.levels.sigma(finals[usual])
        if sigma > 1e-3:
            what = f"the last of {usual} steps ends at sigma = {sigma:.3g}, not at the image"
            remedy = "set_alpha_to_one=True or final_sigmas_type='zero', where the scheduler has it"
            report.add("note", "final sigma", what, remedy)


def custom_sigmas(report: Report, probe: Probe) -> None:
    """Are the sigmas that the user gives the sigmas that are used?"""
    count, used, error = len(probe.grid(min(8, probe.levels.T))), None, ""
    given = probe.scheduler.sigmas.double()[: count : probe.order]  # of two stages, those that start a step
    for form in (given.tolist(), given):
        try:
            probe.scheduler.set_timesteps(sigmas=form, **probe.arguments)
        except (ValueError, NotImplementedError):
            return  # it says that it does not take them
        except Exception as raised:
            error = f"a list raises {raised!r}; "
            continue
        used = probe.scheduler.sigmas.double()[: count : probe.order]
        break
    if used is None or (len(used) == len(given) and torch.allclose(used, given, rtol=1e-3, atol=1e-6)):
        return
    broken = bool((used.diff() >= 0).any() or not used.max() <= given.max() * 1.001)
    remedy = "do not pass sigmas" if broken else "pass them as they are before the scheduler's shift"
    what = f"set_timesteps(sigmas=...): {error}[{_listed(given)}] become [{_listed(used)}]"
    report.add("bug" if broken else "note", "custom sigmas", what, remedy)


def _listed(values: torch.Tensor) -> str:
    return ", ".join(f"{v:.4g}" for v in values.tolist())
