"""What `dvc metrics show` and `dvc plots show` read: a few numbers of each finding, and curves as tables.

    python -m pipeline.summary PROFILE

reads what the stages of a profile have written below results/PROFILE, and writes to results/PROFILE/summary:

    training.json         the last loss of each training, by stage and model
    loss_*.csv            their loss curves
    metrics/NN_name.json  of each finding, the numbers that METRICS names, or its own metrics.json
    levels.csv            how many pictures have which brightness, by model
    errors.csv            Frechet distance against calls of the network, by sampler

The last three only where there are findings to show: the numbers of smoke are too small for any.
"""

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

Curve = list[list[float]]
"""[images, loss] pairs."""
TRAININGS = {
    "train": "zsnr/train/history.json",
    "finetune": "zsnr/finetune/*/history.json",
    "words": "zsnr/words/history.json",
    "edm": "edm/networks/training.json",
    "text_to_image": "text_to_image/models/facts.json",
}
"""By stage, the files that hold its loss curves. Those that are trained from several seeds are left out."""
PLOTTED = {"zsnr": ("train", "finetune"), "edm": ("edm",), "text_to_image": ("text_to_image",)}
"""By file, the stages whose curves are in it."""
METRICS: dict[str, dict[str, tuple[str, str]]] = {
    "01_terminal_snr": {
        "log_snr_T_stable_diffusion": ("Z-05", "log SNR at T, original"),
        "sqrt_alpha_bar_T_rescaled": ("Z-04", "sqrt(alpha_bar_T)"),
    },
    "02_sample_steps": {
        "exact_mean_flawed": ("Z-06", "Gaussian data, Stable Diffusion, many steps: mean, truth 0.9"),
        "exact_mean_zero_snr": ("Z-06", "mean, zero SNR and trailing, 50 steps, truth 0.9"),
        "frechet_linspace_less_trailing_5_steps": ("Z-12", "Frechet distance of linspace less trailing's, S = 5"),
    },
    "03_offset_noise": {
        "level_spread_flawed": ("Z-06", "trained, flawed, leading DDIM 25: level std / data's"),
        "level_spread_zero_snr": ("Z-06", "trained, zero SNR, trailing Heun 49: level std / data's"),
        "level_spread_offset_noise": ("Z-24", "offset noise, unprompted: level std / data's"),
    },
    "04_heun_churn": {
        "churn_gain_original": ("E-33", "original: gain of churn at S_churn = 26.5, all levels"),
        "churn_harm_edm": ("E-41", "edm: harm of the largest S_churn, all levels"),
    },
    "05_rho_sweep": {
        "rmse_euler_rho_2": ("E-17", "Euler, rho = 2: mean RMSE over all intervals"),
        "rmse_heun_rho_3_largest": ("E-18", "Heun, rho = 3: largest RMSE of all intervals"),
    },
    "06_design_space": {
        "exact_calls_euler_over_heun": (
            "E-29",
            "exact denoiser, evaluations for an error of .01, Euler over Heun on the same steps and path",
        ),
        "frechet_35_over_13_calls": ("E-30", "network: distance at 35 over 13 evaluations"),
    },
    "07_training_ladder": {
        "frechet_C_less_E": ("E-49", "Frechet distance of C less E's"),
        "frechet_D_less_E": ("E-49", "Frechet distance of D less E's"),
        "frechet_E_less_F": ("E-49", "Frechet distance of E less F's"),
    },
    "08_choose": {
        "ln_sigma_mean": ("E-46", "mean of ln sigma"),
        "ln_sigma_std": ("E-46", "std of ln sigma"),
        "error_eps_over_edm_sigma_80": ("E-47", "trained: error of D, eps over EDM, at sigma = 80"),
    },
    "09_rescaled_guidance": {
        "over_exposed_by_guidance": ("Z-16", "over-exposed pixels, guided (phi = 0) less unguided"),
        "over_exposed_by_rescaling": ("Z-16", "over-exposed pixels, phi = .7 less phi = 0"),
    },
    "10_first_step": {
        "spread_at_T_exact_flawed": ("Z-22", "exact, flawed: std a pixel over noises at T / data's"),
        "spread_at_T_trained_zero_snr": ("Z-22", "trained, zero SNR: std a pixel over noises at T / data's"),
    },
    "11_leak": {
        "law_error_over_no_leak": (
            "Z-06",
            "std along the constant image and the leading components, flawed models: "
            "rms error of the law over that of 'no leak'",
        ),
    },
    "12_prompts": {
        "shortfall_exact_flawed_less_zero_snr": (
            "Z-21",
            "exact denoiser, w = 1: shortfall of black and white, flawed schedule less zero SNR",
        ),
        "shortfall_flawed_beside_exact": (
            "Z-21",
            "flawed models, w = 7.5: shortfall beside the exact denoiser at zero SNR, lesser of black and white",
        ),
    },
    "14_finetuning": {
        "frechet_no_fixes_less_all": ("Z-19", "unguided: Frechet distance, no fixes less all fixes"),
        "frechet_no_fixes_less_all_guided": ("Z-19", "guided: Frechet distance, no fixes less all fixes"),
        "level_spread_by_fixes": ("Z-20", "level std / data's: what the fixes add to control"),
    },
    "19_churn_known_truth": {
        "digits_churn_gain_original": ("E-33", "digits, original: gain of CIFAR-10 VP's setting of Table 5"),
        "digits_churn_harm_edm": ("E-41", "digits, edm: harm of the largest S_churn, all levels"),
        "removed_too_much": ("E-38", "digits, original: noise removed too much, mean over levels in [.05, 1]"),
    },
    "20_table3": {
        "distance_no_fixes_less_all": ("Z-19", "own guidance: Frechet distance, class and level, no fixes less all"),
        "level_spread_phi_1": ("Z-17", "w = 7.5: level std / data's at phi = 1"),
    },
}
"""By finding and name, the check that holds the number: its claim and what it measures, as in claims.json."""
LEVELS: dict[str, dict[str, Any]] = {
    "pictures": {"model": "real"},
    "flawed": {"model": "base", "spacing": "leading", "nfe": 25, "exact": False},
    "offset noise": {"model": "offset", "spacing": "leading", "nfe": 25, "start": ""},
    "zero SNR": {"model": "zsnr", "spacing": "trailing", "sampler": "ddim", "nfe": 25, "exact": False},
}
"""By name, the rows of stage evaluate whose pictures' levels are counted."""
BINS = 24
SAMPLERS: dict[str, dict[str, str]] = {
    "Euler on VP's steps": {"solver": "euler", "path": "VP"},
    "Euler on VE's steps": {"solver": "euler", "path": "VE"},
    "Euler on EDM's steps": {"solver": "euler", "steps": "rho7"},
    "Heun on EDM's steps": {"solver": "heun", "path": "EDM"},
    "DPM-Solver++(2M)": {"solver": "dpmpp_2m"},
}
"""By name, the rows of stage sweep's study of the design space."""


def trainings(results: Path) -> dict[str, dict[str, Curve]]:
    """The loss curves of every training, by stage and model, such as trainings(results)["finetune"]["zsnr"].

    Raises:
        FileNotFoundError: a stage has not run.
    """
    found: dict[str, dict[str, Curve]] = {}
    for stage, pattern in TRAININGS.items():
        curves: dict[str, Curve] = {}
        for path in sorted(results.glob(pattern)):
            loss = json.loads(path.read_text(encoding="utf-8"))["loss"]
            curves |= loss if isinstance(loss, dict) else {path.parent.name: loss}
        if not curves:
            raise FileNotFoundError(f"no {pattern} in {results}: `make repro` restores it, or computes it")
        found[stage] = curves
    return found


def last(curves: Mapping[str, Mapping[str, Curve]]) -> dict[str, dict[str, float]]:
    """The last loss of every training."""
    return {stage: {name: curve[-1][1] for name, curve in models.items()} for stage, models in curves.items()}


def metrics(findings: Path) -> dict[str, dict[str, float]]:
    """The numbers that METRICS names, or that a finding writes itself, by finding.

    Raises:
        KeyError: a finding has no such check.
        ValueError: a finding has both.
    """
    found = {}
    for finding, names in METRICS.items():
        path = findings / finding / "claims.json"
        checks = {(c["id"], c["what"]): c["value"] for c in json.loads(path.read_text(encoding="utf-8"))["measures"]}
        for name, check in names.items():
            if not isinstance(checks.get(check), int | float):
                raise KeyError(f"{path} has no number {check}: name another for {name} in pipeline/summary.py")
        found[finding] = {name: float(checks[check]) for name, check in names.items()}
    for path in findings.glob("*/metrics.json"):
        if path.parent.name in METRICS:
            raise ValueError(f"{path.parent.name} writes metrics.json and is in METRICS: take it out of one of them")
        found[path.parent.name] = json.loads(path.read_text(encoding="utf-8"))
    audited = json.loads((findings / "15_audit/findings.json").read_text(encoding="utf-8")).values()
    found["15_audit"] = {"audited": len(audited), "faulty": sum(not one["ok"] for one in audited)}
    return found


def prompted(folder: Path) -> dict[str, float]:
    """Of the small Stable Diffusion: how far apart prompts white and black bring the mean level, by model."""
    from lab.measure.store import load

    rows = load(folder).where(setting="plain")
    mean = {(row["model"], row["prompt"]): row.tensors["level"].double().mean().item() for row in rows}
    models = rows.values("model")
    return {f"level_white_less_black_{name}": mean[name, "white"] - mean[name, "black"] for name in models}


def levels(folder: Path) -> Iterator[tuple[str, float, float]]:
    """(model, level, density) in bins of the brightness between black, -1, and white, 1."""
    import numpy as np

    from lab.measure.store import load

    rows = load(folder)
    for name, columns in LEVELS.items():
        level = rows.where(**columns).rows[0].tensors["level"].numpy()
        density, edges = np.histogram(level.clip(-1, 1), BINS, (-1, 1), density=True)
        yield from zip([name] * BINS, ((edges[:-1] + edges[1:]) / 2).tolist(), density.tolist(), strict=True)


def errors(folder: Path) -> Iterator[tuple[str, int, float]]:
    """(sampler, calls of the network, Frechet distance), from EDM's network."""
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    design = [row for row in rows if row["columns"].get("study") == "design"]
    for name, columns in SAMPLERS.items():
        for row in design:
            if columns.items() <= row["columns"].items():
                yield name, row["measures"]["evaluations"], row["measures"]["frechet"]


def write_json(path: Path, tree: Mapping[str, Any]) -> None:
    """One file of metrics."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


def write_csv(path: Path, x: str, y: str, rows: Iterable[tuple[str, float, float]]) -> None:
    """One table of curves: which one, x and y."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["curve", x, y])
        table.writerows([name, f"{a:.6g}", f"{b:.6g}"] for name, a, b in rows)


def main(profile: str) -> None:
    """Write the summary of a profile."""
    results = Path("results", profile)
    out = results / "summary"
    curves = trainings(results)
    write_json(out / "training.json", last(curves))
    for name, stages in PLOTTED.items():
        rows = [(run, n, y) for stage in stages for run, curve in curves[stage].items() for n, y in curve]
        write_csv(out / f"loss_{name}.csv", "images", "loss", rows)
    if profile == "smoke":
        return
    numbers = metrics(results / "findings") | {"16_text_to_image": prompted(results / "text_to_image/measures")}
    for finding, values in numbers.items():
        write_json(out / f"metrics/{finding}.json", values)
    write_csv(out / "levels.csv", "level", "density", levels(results / "zsnr/evaluate/0"))
    write_csv(out / "errors.csv", "calls", "frechet", errors(results / "edm/sweep"))


if __name__ == "__main__":
    main(*sys.argv[1:])
