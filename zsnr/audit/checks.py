"""What an audit looks at: see `zsnr.audit`. Each check adds its findings and facts to a report."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from zsnr import brightness
from zsnr.audit.errors import AuditError, Failed, theirs
from zsnr.audit.noise_levels import Levels, Table
from zsnr.audit.probe import HALF, OFF_CURVE, Landing, Probe
from zsnr.audit.report import Report
from zsnr.diffusers.config import check_config
from zsnr.prediction import EPS_AT_ZERO_SNR, cos_sin

MEAN_STD, NARROWED, USUAL, HIGH, SLIGHT = 0.5, 0.1, 50, 80, 0.05
"""Std of a channel's mean, the data's being 1; share of its std that may be lost; a usual count; a high sigma;
share of a step's way that it may miss, where that is one training step."""
RETRAIN = "fine-tune to v-prediction with Algorithm 1 (rescale_betas_zero_snr=True, timestep_spacing='trailing')"
FAKE_ZERO = 2**-24 * 1.001
"""Schedulers that cannot take a zero hold 2**-24 in its place."""
KNOW_ZERO_SNR = ("DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler")
OTHER_COUNT = "choose a count of steps where it does not happen, or another scheduler"
DROP_IN = "zsnr.ZeroSNRScheduler.from_config(scheduler.config)"


def remedy(probe: Probe) -> str:
    """What to do about a bug: the drop-in is a remedy where it takes the config."""
    try:
        if not isinstance(probe.levels, Table) or probe.name == "ZeroSNRScheduler":
            return OTHER_COUNT
        check_config(probe.scheduler.config)
    except ValueError:
        return OTHER_COUNT
    return f"use {DROP_IN}, or a count of steps where it does not happen"


def loss(alpha_bar: float, shape: Sequence[int]) -> tuple[float, float]:
    """(share of a prompt's brightness lost, std of brightness / true std) along the mean of a channel."""
    if alpha_bar == 1:
        raise AuditError("cannot be judged: it starts at alpha_bar = 1, where there is no noise; correct the betas")
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
        what = f"T = {T} still holds a signal (alpha_bar = {end:.2g}): from pure noise, "
        what += f"brightness keeps {ratio:.0%} of its std and a prompt loses {lost:.0%} of its own"
        then = RETRAIN if narrowed else f"none needed; to remove it, {RETRAIN}"
        report.add("flaw" if narrowed else "note", "terminal SNR", what, then)


def table(report: Report, scheduler: Any, levels: Levels) -> float:
    """alpha_bar at T, whether zero SNR is there if asked for, how far a table is from its betas, and from float16."""
    end = cos_sin(levels.last_angle)[0] ** 2
    if not isinstance(levels, Table):
        return end
    if scheduler.config.get("rescale_betas_zero_snr"):
        if end > FAKE_ZERO:
            what = f"{report.subject} keeps rescale_betas_zero_snr, but ignores it: alpha_bar ends at {end:.3g}"
            report.add("bug", "zero SNR ignored", what, f"use {DROP_IN}, or {', '.join(KNOW_ZERO_SNR)}")
        else:
            end = 0.0
    table = torch.as_tensor(scheduler.alphas_cumprod).cpu()
    half, pairs = table.half(), {"float16 drift": (table.half(), table)}
    if (betas := getattr(scheduler, "betas", None)) is not None and len(betas) == len(table):
        pairs["float32 drift"] = (table, (1 - torch.as_tensor(betas).cpu().double()).cumprod(0))
    for name, (rounded, exact) in pairs.items():
        kept = (exact > 2**-23) & (rounded > 2**-23)  # below, either may be a stand-in for zero
        drift = (rounded.double() / exact.double()).sqrt() - 1
        report.facts[name] = drift[kept].abs().max().item() if kept.any() else 0.0
    if (lost := (table > 0) & (half == 0)).any():
        what = f"alpha_bar underflows to 0 from t = {int(lost.nonzero()[0])} on in float16"
        report.add("note", "float16", what, "keep the scheduler's tables in float32, as diffusers does")
    return end


def steps(report: Report, probe: Probe, shape: Sequence[int], counts: Sequence[int], exhaustive: bool) -> None:
    """Every count's grid, and where its steps land."""
    grids, landings, failed = {}, {}, {}
    end, levels = report.facts["terminal alpha_bar"], probe.levels
    impossible = end == 0 and levels.prediction == "eps" and isinstance(levels, Table)
    for n in counts:
        try:
            grids[n] = probe.grid(n)
            if not impossible:
                landings[n] = probe.run(grids[n]) if exhaustive else probe.ends(grids[n])
        except Failed as error:  # whatever it is, it is the finding
            failed[n] = error.__cause__ or error
    report.facts |= {"counts tried": len(counts), "steps probed": sum(map(len, landings.values()))}
    refused = {n: error for n, error in failed.items() if n not in grids and isinstance(error, ValueError)}
    report.errors = dict.fromkeys(refused, math.inf)
    if not grids:
        why = next(iter(failed.values()))
        raise AuditError(f"cannot be judged: {report.subject} refuses every count of steps: {why}")
    if refused:
        n = min(refused)
        report.add("note", "refused", f"set_timesteps({n}): {refused[n]}", "choose another count", refused)
    if probe.rounded:
        n = max(probe.rounded, key=lambda n: probe.rounded[n])
        what = f"the network is told whole time steps, with {n} steps up to {probe.rounded[n]:.2g} beside the level"
        report.add("note", "rounded", what, "none needed: it is less than a training step", probe.rounded)
    outside = _outside(report, probe, grids)
    if crashed := {n: error for n, error in failed.items() if n not in refused and n not in outside}:
        n = min(crashed)
        report.add("bug", "error", f"{n} steps end in {crashed[n]!r}", remedy(probe), crashed)
    _grids(report, probe, {n: ts for n, ts in grids.items() if n not in outside})
    _start(report, probe, grids, shape)
    _landings(report, probe, landings, exhaustive)


def _outside(report: Report, probe: Probe, grids: dict[int, np.ndarray]) -> list[int]:
    first, last = probe.levels.first_step, probe.levels.last_step
    outside = [n for n, ts in grids.items() if not (np.rint(ts.min()) >= first and ts.max() <= last)]
    if outside:
        n, ts = outside[0], grids[outside[0]]
        why = "there is no such level" if not np.isfinite(ts).all() else f"the table ends at {last}"
        why = "-1 reads the table from its end: pure noise" if ts.min() < first else why
        what = f"{n} steps give {len(ts)}, from t = {ts[0]:g} to t = {ts[-1]:g}; {why}"
        report.add("bug", "step outside the table", what, remedy(probe), outside)
    return outside


def _outliers(values: dict[int, int], slope: int = 0) -> list[int]:
    """Counts n > 4 whose value is not slope n + constant, as it is for most; of few steps, those where it is more."""
    rest = {n: value - slope * n for n, value in values.items()}
    usual = max(Counter(rest.values()).items(), key=lambda item: item[1], default=(0, 0))[0]
    return [n for n, value in rest.items() if value > usual or (value < usual and n > 4)]


def _grids(report: Report, probe: Probe, grids: dict[int, np.ndarray]) -> None:
    # of a solver with two stages, every second step starts one
    ways = {n: np.diff(ts[:: probe.order]) * probe.levels.falls for n, ts in grids.items()}
    long = _outliers({n: len(ts) for n, ts in grids.items()}, probe.order)
    rising = _outliers({n: int((way > 0).sum()) for n, way in ways.items()})
    repeated = _outliers({n: int((way == 0).sum()) for n, way in ways.items()})
    if long:
        report.add("bug", "length", f"{long[0]} steps make {len(grids[long[0]])} time steps", remedy(probe), long)
    if rising:
        report.add("bug", "order", f"with {rising[0]} steps the noise grows on the way", remedy(probe), rising)
    if repeated:
        what = f"with {repeated[0]} steps a time step is told twice: the levels are closer than it can tell"
        report.add("note", "repeats", what, "take fewer steps", repeated)


def _start(report: Report, probe: Probe, grids: dict[int, np.ndarray], shape: Sequence[int]) -> None:
    levels, end = probe.levels, report.facts["terminal alpha_bar"]
    starts = {n: levels.angle_of(float(ts[0])) for n, ts in grids.items()}
    late = [n for n, phi in starts.items() if levels.position(phi) < levels.position(levels.last_angle) - HALF]
    usual = min(grids, key=lambda n: abs(n - USUAL))
    lost, ratio = loss(cos_sin(starts[usual])[0] ** 2 if usual in late else end, shape)
    high = np.mean([levels.sigma(levels.angle_of(float(t))) > HIGH * (1 + 1e-9) for t in grids[usual]])
    report.facts["T is visited"] = f"{len(grids) - len(late)} of {len(grids)} counts"
    report.facts |= {f"mean lost at {usual} steps": lost, f"std kept at {usual} steps": ratio}
    report.facts[f"sigma > {HIGH} at {usual} steps"] = float(high)
    if late:
        worse = usual in late and (ratio < 1 - NARROWED or (end == 0 and isinstance(levels, Table)))
        n = min(late, key=lambda n: abs(n - USUAL))
        what = f"{n} steps start at t = {grids[n][0]:g}, where the model expects a signal, from pure noise"
        what += f": std {ratio:.0%}, a prompt loses {lost:.0%}" if worse else ""
        report.add("flaw" if worse else "note", "T is not visited", what, "timestep_spacing='trailing'", late)
    if high > 0.2:
        what = f"{high:.0%} of {usual} steps lie above sigma = {HIGH}, where the denoised image is the mean"
        report.add("note", "wasted steps", what, "use trailing steps, without Karras sigmas, or a grid in the angle")
    probe.grid(usual)
    factor = probe.factor(probe.scheduler, 0) or math.nan
    signal, noise = (part / factor for part in levels.state(starts[usual]))
    with theirs(f"{probe.name}.init_noise_sigma"):
        start = float(getattr(probe.scheduler, "init_noise_sigma", 1.0)) or math.nan
    std = math.hypot(signal * levels.unit, noise)
    wrong = max(noise / start, start / std) - 1  # between the noise and all of the state
    if levels.scales_start and math.isfinite(wrong) and wrong > 1e-5:
        severity, then = ("bug", "scale the noise yourself") if wrong > 1e-2 else ("note", "none needed")
        what = f"init_noise_sigma = {start:.6g}, but the first level has std {std:.6g}"
        report.add(severity, "start", what, then)


def _landings(report: Report, probe: Probe, landings: dict[int, list[Landing]], exhaustive: bool) -> None:
    known = {n: told for n, steps in landings.items() if (told := [s for s in steps if not math.isnan(s.expected)])}
    empty = {n: lost[0] for n, steps in known.items() if (lost := [one for one in steps if math.isnan(one.reached)])}
    worst = {n: max(steps, key=lambda one: one.error) for n, steps in known.items() if n not in empty}
    report.errors |= dict.fromkeys(empty, math.nan) | {n: one.error for n, one in worst.items()}
    missed = {n: one for n, one in worst.items() if one.error > HALF}
    curves = {n: [one for one in known[n] if abs(one.size - 1) > OFF_CURVE] for n in worst if n not in missed}
    off = {n: curve[0] for n, curve in curves.items() if curve}
    finals = {n: known[n][-1].sigma for n in worst if not math.isnan(known[n][-1].sigma)}
    if empty:
        n, one = next(iter(empty.items()))
        what = f"step {one.index + 1} of {n} answers a perfect model with NaN or inf, from position {one.start:.4g}"
        report.add("bug", "not a number", what, f"start below zero SNR, or {remedy(probe)}", empty)
    slight = {n: one for n, one in missed.items() if one.error < min(1 + HALF, SLIGHT * probe.levels.T / n)}
    grave = {n: one for n, one in missed.items() if n not in slight}
    truncates = getattr(probe.scheduler, "truncates", False)
    kinds = {"solver error": missed} if truncates else {"step target": grave, "slight miss": slight}
    for name, counts in kinds.items():
        if counts:
            n = max(counts, key=lambda n: counts[n].error)
            one, least = counts[n], "a" if exhaustive else "at least one"
            what = f"{least} step lands beside the level that the network is told next; worst with {n} steps, where "
            what += f"step {one.index + 1} goes from {one.start:.5g} to {one.reached:.5g}, not to {one.expected:.5g}"
            kind, then = ("bug", remedy(probe)) if counts is grave else ("note", "none needed; more steps make it less")
            then = f"none needed; to remove it, {remedy(probe)}" if counts is slight else then
            report.add(kind, name, what, then, counts)
    if off:
        n, one = next(iter(off.items()))
        what = f"step {one.index + 1} of {n} leaves an input {one.size:.4g} times as large as the model expects"
        report.add("bug", "off the curve", what, remedy(probe), off)
    if finals:
        usual = min(finals, key=lambda n: abs(n - USUAL))
        report.facts["final sigma"] = sigma = finals[usual]
        if sigma > 1e-3:
            what = f"the last of {usual} steps ends at sigma = {sigma:.3g}, not at the image"
            setting = "set_alpha_to_one=True or final_sigmas_type='zero', where the scheduler has it"
            report.add("note", "final sigma", what, setting)


def custom_sigmas(report: Report, probe: Probe) -> None:
    """Are the sigmas that the user gives the sigmas that are used?"""
    try:
        starts = slice(
            0, len(probe.grid(min(8, probe.levels.T))), probe.order
        )  # of two stages, those that start a step
    except Failed:
        return  # as was found before
    used, error = None, ""
    given = probe.scheduler.sigmas.double()[starts]
    passed = given if probe.levels.falls > 0 else 1 - given
    for form in (passed.tolist(), passed):
        try:
            with theirs("custom sigmas"):
                probe.scheduler.set_timesteps(sigmas=form, **probe.arguments)
                used = probe.scheduler.sigmas.double()[starts]
            break
        except Failed as failed:
            if isinstance(failed.__cause__, ValueError | NotImplementedError):
                return  # it says that it does not take them
            error = f"a list raises {failed.__cause__!r}; "
    if used is None or (len(used) == len(given) and torch.allclose(used, given, rtol=1e-3, atol=1e-6)):
        return
    broken = bool((used.diff() * probe.levels.falls >= 0).any() or not used.max() <= given.max() * 1.001)
    then = "do not pass sigmas" if broken else "pass them as they are before the scheduler's shift"
    was, became = (", ".join(f"{v:.4g}" for v in values.tolist()) for values in (given, used))
    report.add("bug" if broken else "note", "custom sigmas", f"set_timesteps: {error}[{was}] become [{became}]", then)
