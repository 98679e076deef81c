"""The audit: right on schedulers whose behaviour is known, and silent where they are right."""

import inspect
import itertools
import json
import math
import os
import re
import warnings

import diffusers
import pytest
import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from safetensors.torch import save_file

import zsnr
from lab.models import tiny
from zsnr import brightness
from zsnr.audit import AuditError, audit, known
from zsnr.audit.__main__ import main
from zsnr.audit.noise_levels import ANGLES
from zsnr.audit.probe import Probe
from zsnr.audit.report import ranges
from zsnr.diffusers import Card
from zsnr.diffusers.config import BETAS

SD = tiny.STABLE_DIFFUSION_1 | {"skip_prk_steps": True}
TABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ZERO = SD | {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "set_alpha_to_one": True}
ZERO |= {"rescale_betas_zero_snr": True}
T = 1000
FEW = [1, 2, 3, 7, 10, 25, 50, 61, 100, 125, 333, 999]
# trailing spacing counted in rationals has n steps; diffusers' floating-point arange has one more where it rounds so
EXTRA = [n for n in range(1, T + 1) if len(torch.arange(T, 0, -T / n, dtype=torch.float64)) != n]
DIVISORS = [n for n in range(1, T + 1) if T % n == 0]


@pytest.fixture(autouse=True)
def quiet():
    diffusers.utils.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def make(name, config):
    return getattr(diffusers, name).from_config(config)


def found(report, severity=None):
    return {one.name: one for one in report.findings if severity in (None, one.severity)}


PUBLIC = sorted({*dir(diffusers)} & {*dir(diffusers.schedulers)})  # pipelines may need more to be imported
KINDS = {name: kind for name in PUBLIC if inspect.isclass(kind := getattr(diffusers, name))}
NAMES = [name for name, kind in KINDS.items() if issubclass(kind, SchedulerMixin) and kind is not SchedulerMixin]
TABLES = [n for n in NAMES if "beta_start" in inspect.signature(KINDS[n]).parameters]


# the errors of diffusers, found by themselves


def test_every_grid_and_the_ends_of_every_count_of_ddim():
    """984 = 1000 less the 16 divisors of 1000: T // N is not T / N."""
    report = audit(make("DDIMScheduler", ZERO))
    bugs = found(report, "bug")
    assert set(bugs) == {"step outside the table", "step target"}
    assert bugs["step outside the table"].counts == EXTRA
    assert len(EXTRA) == 62
    missed = sorted(set(range(1, T + 1)) - set(DIVISORS))
    assert [n for n, error in report.errors.items() if error > 0.5] == missed
    assert len(missed) == 984
    # one training step of less than 20 is worth mending, one of more is not
    assert bugs["step target"].counts == [n for n in missed if n > 50]
    assert found(report, "note")["slight miss"].counts == [n for n in missed if n < 50]
    assert report.facts["counts tried"] == T
    assert report.facts["steps probed"] >= 3 * (T - 2)
    assert report.facts["terminal SNR"] == 0
    assert report.facts["final sigma"] < 1e-6
    assert not found(report, "flaw")
    assert report.ok
    assert report.verdict.startswith("schedule sound, scheduler right at 10, 20, 25, 28, 30, 50 steps, wrong elsewhere")
    assert "zsnr.ZeroSNRScheduler" in bugs["step target"].remedy
    order = [one.severity for one in audit(make("PNDMScheduler", ZERO), counts=[3, 10, 61]).findings]
    assert order == sorted(order, key=["bug", "flaw", "note"].index)
    assert {*order} >= {"bug", "flaw"}


def test_the_usual_probes_miss_nothing_that_all_steps_show():
    for spacing in ("trailing", "linspace", "leading"):
        scheduler = make("DDIMScheduler", ZERO | {"timestep_spacing": spacing})
        chosen = [*range(1, 80), 333, 400, 501]
        some, every = audit(scheduler, counts=chosen), audit(scheduler, counts=chosen, exhaustive=True)
        assert every.facts["steps probed"] > 10 * some.facts["steps probed"]
        names = ("step target", "slight miss", "step outside the table")
        counts = [[getattr(found(r).get(name), "counts", None) for name in names] for r in (some, every)]
        assert counts[0] == counts[1]


def test_ddim_where_a_step_lands_is_what_its_source_says():
    """prev = t - T // N, whatever the grid: here for all steps of one count."""
    probe = Probe(make("DDIMScheduler", ZERO | {"timestep_spacing": "linspace"}))
    grid = probe.grid(7)
    for one, t in zip(probe.run(grid), grid, strict=True):
        assert one.start == pytest.approx(t)
        assert one.reached == pytest.approx(max(t - T // 7, -1), abs=1e-3)


def test_leading_ddim_steps_right_but_never_visits_T():
    report = audit(make("DDIMScheduler", ZERO | {"timestep_spacing": "leading", "steps_offset": 0}))
    assert not found(report, "bug")
    late = found(report, "flaw")["T is not visited"]
    assert set(late.counts) == {n for n in range(1, T + 1) if (n - 1) * (T // n) < T - 1}


NO_NUMBER = ("DEISMultistep", "DPMSolverSinglestep", "SASolver", "HeunDiscrete", "LMSDiscrete", "EulerDiscrete")
BROKEN = {name: {"not a number"} for name in NO_NUMBER} | {"DDIM": set()}
BROKEN |= {"KDPM2Discrete": {"step outside the table"}}  # its time steps themselves are NaN


@pytest.mark.parametrize(("name", "bugs"), BROKEN.items())
def test_no_number_from_a_table_that_ends_in_zero(name, bugs):
    betas = zsnr.rescale_zero_terminal_snr(zsnr.schedule.stable_diffusion()).betas.tolist()
    scheduler = KINDS[name + "Scheduler"](trained_betas=betas, prediction_type="v_prediction")
    assert set(found(audit(scheduler, counts=[5, 10]), "bug")) == bugs


def test_eta_1_from_zero_snr_and_options_that_step_does_not_take():
    scheduler = make("DDIMScheduler", ZERO)
    broken = found(audit(scheduler, counts=DIVISORS, eta=1.0))["not a number"].counts
    x = torch.ones(1, 1, 1, 1)
    for n in DIVISORS:  # by hand: one step
        scheduler.set_timesteps(n)
        finite = scheduler.step(x, scheduler.timesteps[0], x, eta=1.0).prev_sample.isfinite().all()
        assert (n in broken) == (not finite)
    with pytest.raises(ValueError, match="takes no churn"):
        audit(scheduler, counts=[5], churn=1.0)


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "EDMEulerScheduler"])
def test_churn_is_evaluated_at_the_wrong_level(name):
    """The noise after a churned step, by hand, with the network asked before the noise is added."""
    scheduler, n, churn, sd = make(name, SD if "Discrete" in name else {}), 10, 2.0, 0.5
    assert "step target" not in found(audit(scheduler, counts=[n]))
    assert "step target" in found(audit(scheduler, counts=[n], s_churn=churn))
    probe = Probe(scheduler, {"s_churn": churn})
    one, levels = probe.run(probe.grid(n))[0], probe.levels
    sigma, following = probe.scheduler.sigmas[:2].tolist()
    hat = sigma * (1 + min(churn / n, 2**0.5 - 1))
    added = math.sqrt(hat**2 - sigma**2)
    if "Discrete" in name:  # eps is the answer: x + added z + (next - hat) eps
        noise = math.hypot(sigma + following - hat, added)
    else:  # D = c_skip (x + added z) + c_out F at hat, F the answer at sigma; x0 is off, too
        skip, out = sd**2 / (hat**2 + sd**2), hat * sd / math.hypot(hat, sd)
        answer = [sigma / (sd * math.hypot(sigma, sd)), -sd / math.hypot(sigma, sd), 0.0]
        state = [1.0, sigma, added]
        D = [skip * x + out * F for x, F in zip(state, answer, strict=True)]
        final = [x + (following - hat) * (x - d) / hat for x, d in zip(state, D, strict=True)]
        noise = math.hypot(*final[1:]) / final[0]
    low, high = (levels.position(math.atan(noise * share / levels.sigma_data)) for share in (1 - 1e-4, 1 + 1e-4))
    assert low < one.reached < high


def test_custom_sigmas_of_edm_euler():
    assert "custom sigmas" in found(audit(make("EDMEulerScheduler", {}), counts=[5]), "bug")
    for name in ("EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler"):
        assert "custom sigmas" not in found(audit(make(name, SD if "Flow" not in name else {}), counts=[5]))
    assert "custom sigmas" in found(audit(make("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}), counts=[5]), "note")


# what is right is not called wrong


@pytest.mark.parametrize("name", NAMES)
def test_no_false_alarm(name):
    """With a schedule without the flaw and counts that divide T, all is well, but for errors known and named here.

    Whether a scheduler knows zero SNR can be read off its signature.
    """
    try:
        scheduler = make(name, ZERO if name in TABLES else {})
    except TypeError:
        return  # a scheduler of tokens that needs to know how many there are
    real = {  # read from the source, and reproduced in finding 15
        "IPNDMScheduler": {"step target"},  # divides by cos = 0 at its first step
        "PNDMScheduler": {"step target"},  # extrapolates v where it should extrapolate eps
        "EDMEulerScheduler": {"custom sigmas"},
    }.get(name, set())
    try:
        report = audit(scheduler, counts=[2, 4, 10, 20, 50], exhaustive=True)
    except AuditError:
        assert name not in TABLES or name == "RePaintScheduler" or "Inverse" in name
        return
    knows = name not in TABLES or "rescale_betas_zero_snr" in inspect.signature(KINDS[name]).parameters
    assert set(found(report, "bug")) == real | (set() if knows else {"zero SNR ignored"})
    assert set(found(report, "flaw")) == (set() if knows else {"terminal SNR"})
    assert name not in TABLES or (report.facts["terminal SNR"] == 0) == knows
    assert report.ok == (knows and not real)


def test_eight_schedulers_ignore_the_flag():
    known = [n for n in TABLES if "rescale_betas_zero_snr" in inspect.signature(KINDS[n]).parameters]
    judged = [n for n in TABLES if n not in known and "Inverse" not in n and n != "RePaintScheduler"]
    ignored = [n for n in judged if "zero SNR ignored" in found(audit(make(n, ZERO), counts=[10]), "bug")]
    names = ("DEISMultistep", "DPMSolverSinglestep", "HeunDiscrete", "KDPM2AncestralDiscrete", "KDPM2Discrete")
    assert ignored == [n + "Scheduler" for n in (*names, "LMSDiscrete", "PNDM", "SASolver")]


VARIANCES = [("DDPM", {"variance_type": v}, [10, 50, 100]) for v in ("fixed_small", "fixed_large", "learned_range")]
PREDICTIONS = [
    (name, {"prediction_type": prediction, "algorithm_type": "sde-dpmsolver++"}, [4, 10, 50])
    for name in ("DDPM", "DDIM", "LCM", "TCD", "EulerAncestralDiscrete", "DPMSolverMultistep")
    for prediction in ("epsilon", "v_prediction", "sample")
]


@pytest.mark.parametrize(("name", "config", "counts"), VARIANCES + PREDICTIONS)
def test_each_prediction_and_choice_of_variance_lands_on_its_target(name, config, counts):
    if (name, config.get("prediction_type")) == ("EulerAncestralDiscrete", "sample"):
        with pytest.raises(AuditError):  # not implemented there
            audit(make(name + "Scheduler", SD | config), counts=counts)
    else:
        assert not found(audit(make(name + "Scheduler", SD | config), counts=counts, exhaustive=True), "bug")


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_karras_sigmas_are_rounded_to_time_steps_but_not_wrong(name):
    report = audit(make(name, ZERO | {"use_karras_sigmas": True}), counts=[10, 20, 50])
    assert not found(report, "bug")
    assert report.facts["sigma > 80 at 50 steps"] > 0.5  # 26 of 50
    assert "wasted steps" in found(report, "note")


# a scheduler made wrong on purpose is found out


class Wrong(diffusers.DDIMScheduler):
    def step(self, model_output, timestep, sample, **options):
        out = super().step(model_output, timestep, sample, **options)
        return (out[0] * 1.05, *out[1:])


class Late(diffusers.EulerDiscreteScheduler):
    def set_timesteps(self, n, device=None):
        super().set_timesteps(n, device)
        self.timesteps = self.timesteps + 0.0
        self.timesteps[2] += 5


class Grids(diffusers.EulerDiscreteScheduler):
    """Wrong at three counts: one step too many, a step up, a step told twice."""

    def set_timesteps(self, num_inference_steps, device=None):
        super().set_timesteps(num_inference_steps, device)
        order = {6: [0, 0, 1, 2, 3, 4, 5], 8: [1, 0, 2, 3, 4, 5, 6, 7], 10: [0, 1, 2, 3, 3, 5, 6, 7, 8, 9]}
        if num_inference_steps in order:
            index = torch.tensor(order[num_inference_steps])
            self.timesteps, self.sigmas = self.timesteps[index], self.sigmas[torch.cat([index, torch.tensor([-1])])]


class Loud(diffusers.EulerDiscreteScheduler):
    init_noise_sigma = 20.0


def test_grids_that_are_wrong_on_purpose():
    report = audit(Grids(**TABLE), counts=range(1, 13))
    bad = ("length", "bug", [6]), ("order", "bug", [8]), ("repeats", "note", [6, 10])
    assert [(name, found(report)[name].severity, found(report)[name].counts) for name, _, _ in bad] == [*bad]
    right = found(audit(make("HeunDiscreteScheduler", TABLE), counts=FEW))
    assert not {"length", "order", "repeats", "start"} & set(right)


def test_the_start():
    assert "start" in found(audit(Loud(**TABLE), counts=[10]), "bug")
    assert "80.0062" in found(audit(make("EDMEulerScheduler", {}), counts=[10]), "note")["start"].what
    for name, spacing in itertools.product(("EulerDiscrete", "HeunDiscrete", "DDIM"), ("leading", "trailing")):
        scheduler = make(name + "Scheduler", TABLE | {"timestep_spacing": spacing})
        assert "start" not in found(audit(scheduler, counts=[10, 50]))


def test_refusals_are_notes_and_crashes_are_bugs():
    report = audit(make("LCMScheduler", ZERO))
    assert report.ok
    assert found(report, "note")["refused"].counts == list(range(51, 1001))
    assert found(audit(make("UnCLIPScheduler", {}), counts=[1, 2]), "bug")["error"].counts == [1]


def test_the_tables_in_single_and_half_precision():
    cosine = audit(make("DDIMScheduler", {"beta_schedule": "squaredcos_cap_v2"}), counts=[10])
    assert "t = 999" in found(cosine, "note")["float16"].what
    scheduler = make("DDIMScheduler", SD)
    report = audit(scheduler, counts=[10])
    exact = zsnr.from_betas(scheduler.betas).sqrt_alpha_bar
    drift = (scheduler.alphas_cumprod.double().sqrt() / exact - 1).abs().max().item()
    assert 0 < drift < 1e-5
    assert report.facts["float32 drift"] == pytest.approx(drift)
    assert 1e-5 < report.facts["float16 drift"] < 1e-2
    assert "float16" not in found(report)


def test_a_shortcut_that_misses_is_not_the_schedulers_fault():
    """LMS has no history where it is made to start."""
    report = audit(make("LMSDiscreteScheduler", SD), counts=[30])
    assert report.facts["steps probed"] == 30
    assert report.facts["final sigma"] < 1e-5
    assert not found(report, "bug")


@pytest.mark.parametrize("config", [{"_class_name": "SCMScheduler"}, known()["Cosmos 1.0"]["config"]])
def test_states_are_in_the_schedulers_own_units(config):
    """So that no shortcut misses: SCM's states have sigma_data's std, EDM may end at sigma_min."""
    report = audit(config, counts=[50])
    assert report.facts["steps probed"] < 8
    assert "step target" not in found(report)
    assert report.facts["final sigma"] == pytest.approx(config.get("sigma_min", 0.0), rel=0.05)


def test_wrong_on_purpose():
    assert "off the curve" in found(audit(Wrong(**TABLE), counts=[10]))
    assert found(audit(Late(**TABLE), counts=[10]), "bug")["step target"].counts == [10]
    lost = audit(make("IPNDMScheduler", {}), counts=[1])  # a picture that is lost is no clean picture
    assert found(lost, "bug")["off the curve"].counts == [1]


# verdicts of published configurations, by reasoning


def expected(config, shape):
    """(bugs, flaws), from the paper's argument and diffusers' arithmetic, not from the audit."""
    name, bugs, flaws = config["_class_name"], set(), set()
    spacing = config.get("timestep_spacing", "linspace" if "DPMSolver" in name else "leading")
    if "beta_start" in config and config.get("timestep_type") != "continuous":
        make = BETAS.get(config["beta_schedule"], lambda T, *_: zsnr.schedule.cosine(T))
        schedule = make(T, config["beta_start"], config["beta_end"])
        zero = config.get("rescale_betas_zero_snr", False)
        alpha_bar = 0.0 if zero else schedule.alpha_bar[-1].item()
        L = 0.25 * math.prod(shape[1:])
        if brightness.predicted(alpha_bar, L)[1] < 0.9:
            flaws.add("terminal SNR")
        if spacing == "leading" and name != "LCMScheduler":  # LCM counts its own steps from T down
            t = 49 * (T // 50) + config.get("steps_offset", 0)
            first = (zsnr.rescale_zero_terminal_snr(schedule) if zero else schedule).alpha_bar[t].item()
            if zero or brightness.predicted(first, L)[1] < 0.9:
                flaws.add("T is not visited")
        if config.get("prediction_type", "epsilon") == "epsilon" and zero:
            flaws.add("eps at zero SNR")
        if spacing == "trailing":  # 61 is tried: one step too many
            bugs.add("step outside the table")
            if "DDIM" in name:
                bugs.add("step target")  # T // N
    if name == "EDMEulerScheduler":
        bugs |= {"custom sigmas"}
        if config["final_sigmas_type"] == "sigma_min":
            bugs |= {"step target"}  # with one step, the last sigma is the first: nothing happens
    return bugs, flaws


@pytest.mark.parametrize("entry", known().values(), ids=known())
def test_published_configurations(entry):
    assert set(entry) - {"needs"} == {"source", "seen", "shape", "config"}
    assert entry["seen"] in ("quoted", "memory")
    report = audit(entry["config"], shape=entry["shape"], counts=FEW)
    bugs, flaws = expected(entry["config"], entry["shape"])
    assert set(found(report, "bug")) == bugs
    assert set(found(report, "flaw")) == flaws
    assert report.ok == (not bugs | flaws)


def test_the_leak_is_that_of_the_law():
    report = audit(make("DDIMScheduler", SD), shape=(4, 128, 128), counts=[50])
    alpha_bar = zsnr.schedule.stable_diffusion().alpha_bar[-1].item()
    mean, ratio = brightness.predicted(alpha_bar, 0.25 * 128**2, 1.0)
    assert report.facts["terminal alpha_bar"] == pytest.approx(alpha_bar, rel=1e-5)
    assert report.facts["mean lost at T"] == pytest.approx(1 - mean, rel=1e-5)
    assert report.facts["std kept at T"] == pytest.approx(ratio, rel=1e-5)
    assert report.facts["final sigma"] == pytest.approx(zsnr.schedule.stable_diffusion().sigma[0].item(), rel=1e-4)
    assert "final sigma" in found(report, "note")
    assert "final sigma" not in found(audit(make("DDIMScheduler", ZERO), counts=[50]))


def test_a_schedule_alone():
    assert audit(zsnr.rescale_zero_terminal_snr(zsnr.schedule.stable_diffusion())).ok
    assert not audit(zsnr.schedule.stable_diffusion()).ok
    assert audit(zsnr.schedule.linear(), shape=(3, 32, 32)).ok


def test_eps_at_zero_snr_is_refused_with_the_remedy():
    report = audit(make("DDIMScheduler", ZERO | {"prediction_type": "epsilon"}), counts=[10])
    assert "fine-tune to v-prediction" in found(report, "flaw")["eps at zero SNR"].remedy


# where it comes from


def test_pipelines_live_and_saved_and_the_command_line(tmp_path, capsys):
    pipeline = tiny.unconditional(**{k: v for k, v in ZERO.items() if k not in SD or ZERO[k] != SD[k]})
    live = audit(pipeline, counts=[10])
    assert live.ok
    assert live.facts["shape"] == "3x16x16"
    pipeline.save_pretrained(tmp_path)
    folder, size = tmp_path / "scheduler", (3, 16, 16)
    given = [(folder, size), (folder / "scheduler_config.json", size), (dict(pipeline.scheduler.config), size)]
    for subject, shape in [(tmp_path, None), *given]:
        assert audit(subject, shape, counts=[10]).json() == live.json()

    diffusers.FlowMatchEulerDiscreteScheduler().save_config(tmp_path / "flow")
    assert main([str(tmp_path / "flow" / "scheduler_config.json")]) == 0
    assert "FlowMatchEulerDiscreteScheduler: sound" in capsys.readouterr().out
    assert main([str(tmp_path), "--steps", "10", "61"]) == 1
    assert "schedule sound, scheduler wrong at 61 steps" in capsys.readouterr().out
    assert main([str(tmp_path), "--json", "--shape", "3,64,64"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["facts"]["shape"] == "3x64x64"
    assert {one["name"] for one in out["findings"]} >= {"step outside the table", "step target"}
    assert main([str(tmp_path), "--step", "eta=1"]) == 1
    assert "NaN" in capsys.readouterr().out
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert main([str(tmp_path), "--step", "eta"]) == main([str(tmp_path), "--shape", "4x4"]) == 2
    assert "write --step eta=1" in (error := capsys.readouterr().err)
    assert "write --shape 4,64,64" in error


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no scheduler_config.json"),
        ({"scheduler_config.json": "{"}, "not readable JSON"),
        ({"scheduler_config.json": "[1]"}, "holds a list"),
        ({"scheduler_config.json": '{"in_channels": 4}'}, 'no "_class_name"'),
        ({"scheduler_config.json": '{"_class_name": "DDIMScheduler"}'}, "no betas"),
        ({"scheduler_config.json": '{"_class_name": "NoScheduler"}'}, "no scheduler 'NoScheduler'"),
        ({"scheduler_config.json": '{"_class_name": "UNet2DModel"}'}, "no scheduler 'UNet2DModel'"),
        ({"scheduler_config.json": '{"_class_name": "AmusedScheduler", "mask_token_id": 1}'}, "cannot be judged"),
        ({"model_index.json": '{"unet": []}'}, "names no scheduler"),
        ({"model_index.json": '{"scheduler": []}'}, "no scheduler_config.json"),
        (
            {"scheduler_config.json": '{"_class_name": "DDIMScheduler", "beta_schedule": "none"}'},
            "making DDIMScheduler from",
        ),
    ],
)
def test_errors_name_the_remedy(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(AuditError, match=message) as error:
        audit(tmp_path)
    assert any(word in str(error.value) for word in ("give", "add", "upgrade", "cannot be"))


SHAPES = [(4, 64), (0, 64, 64), (4, -8, 8), (1, 4, 64, 64)]


@pytest.mark.parametrize(
    ("subject", "options", "message"),
    [
        (3, {}, "cannot audit a int"),
        (diffusers.DDIMScheduler, {}, "DDIMScheduler is a class: give an object"),
        (make("DDIMScheduler", SD), {"counts": [1001]}, "choose 1 to 1000"),
        *((diffusers.DDIMScheduler(), {"shape": shape}, r"give \(channels, height, width\)") for shape in SHAPES),
    ],
)
def test_what_is_no_subject(subject, options, message):
    with pytest.raises(AuditError, match=message):
        audit(subject, **options)


def sd(**changed):
    return {"_class_name": "DDIMScheduler", "timestep_spacing": "leading", "steps_offset": 1} | TABLE | changed


def flow(**changed):
    return {"_class_name": "FlowMatchEulerDiscreteScheduler"} | changed


def edm(**changed):
    return {"_class_name": "EDMEulerScheduler"} | changed


@pytest.mark.parametrize(
    ("config", "message"),
    [
        *(
            (sd(num_train_timesteps=T), rf"num_train_timesteps = '?{T}")
            for T in (0, -1, 1.5, 100_000, 10**7, "x", None)
        ),
        *(
            (
                {"_class_name": name, **given, count: 10**9},
                f"{count} = 1000000000; give",
            )  # a list so long takes minutes
            for name, count, given in (
                ("EntropyBoundScheduler", "num_inference_steps", {}),
                ("VQDiffusionScheduler", "num_train_timesteps", {"num_vec_classes": 8}),
                ("HeliosScheduler", "stages", {}),
                ("LCMScheduler", "original_inference_steps", TABLE),
                ("SASolverScheduler", "predictor_order", TABLE),
                ("PiflowScheduler", "n_grid", {}),
            )
        ),
        *((sd(trained_betas=[0.001] * n), f"has {n} entries") for n in (1, 2, 10, 500)),
        *((sd(trained_betas=[0.001] * 999 + [b]), rf"betas\[999\] = {b}") for b in (math.nan, math.inf, 1.5, -0.1)),
        (sd(trained_betas=[0.001] * 500 + [1.0] * 500), r"betas\[500\] = 1, "),
        (sd(trained_betas=[0.5] * 1000), r"alphas_cumprod\[149\] = 0, "),
        (sd(trained_betas=[1.0] * 1000), r"betas\[0\] = 1, "),
        (sd(trained_betas=[0.0] * 1000), "all of its betas are 0"),
        *((edm(**{name: 0}), f"{name} = 0; give") for name in ("sigma_min", "sigma_max", "sigma_data")),
        (flow(use_dynamic_shifting=True, max_image_seq_len=256), "base_image_seq_len = 256, max_image_seq_len = 256"),
        (sd(num_train_timesteps=10**400), r"num_train_timesteps = 10+\.\.\.0+; give"),
        (sd(lower_order_final=10**400), r"lower_order_final = 10+\.\.\.0+; give"),
        (
            {"_class_name": "CogVideoXDDIMScheduler", "num_train_timesteps": 1, "prediction_type": "flow_prediction"}
            | {"beta_start": 0.05, "beta_end": 0.3, "beta_schedule": "linear"},
            "where there is no noise",
        ),
        (sd(trained_betas=0.5), "has 0 entries"),
        *((sd(**{name: []}), "cannot be") for name in ("prediction_type", "beta_start", "timestep_spacing")),
    ],
)
def test_what_cannot_be_is_named_and_not_judged(tmp_path, capsys, config, message):
    if (name := config.get("_class_name")) and not hasattr(zsnr.diffusers, name) and not hasattr(diffusers, name):
        pytest.skip(f"diffusers {diffusers.__version__} has no {name}")
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8-sig")  # with a byte order mark
    assert main([str(tmp_path / "config.json")]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert "Traceback" not in error


def test_the_command_shows_flaws_first_and_says_what_they_are(tmp_path, capsys):
    (tmp_path / "scheduler_config.json").write_text(json.dumps(sd()))
    assert main([str(tmp_path)]) == 1
    said = capsys.readouterr().out
    order = re.findall("^(FLAW|BUG|NOTE) ", said, re.M)
    assert order == sorted(order, key=("FLAW", "BUG", "NOTE").index)
    assert {"FLAW", "BUG"} <= {*order}
    assert "FLAW: what keeps" in said


@pytest.mark.parametrize("T", [1, 2, 3, 10, 2000])
def test_tables_of_any_length_are_judged(T):
    assert audit(sd(num_train_timesteps=T, beta_schedule="squaredcos_cap_v2")).facts["steps in training"] == T


def test_what_a_class_lacks_is_said(monkeypatch):
    from diffusers.utils.dummy_torch_and_torchsde_objects import DPMSolverSDEScheduler

    monkeypatch.setattr(diffusers, "DPMSolverSDEScheduler", DPMSolverSDEScheduler)
    with pytest.raises(AuditError, match="pip install torchsde"):
        audit(sd(_class_name="DPMSolverSDEScheduler"))


def test_errors_of_the_audit_itself_are_not_hidden(tmp_path, capsys, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps(flow()))
    monkeypatch.setattr("zsnr.audit.checks.steps", lambda *_: 1 / 0)
    assert main([str(tmp_path / "config.json")]) == 2
    assert "ZeroDivisionError" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):
        audit(flow())


@pytest.mark.parametrize("name", ["DDIM", "EulerDiscrete", "FlowMatchEulerDiscrete", "EDMEuler", "UniPCMultistep"])
def test_the_config_of_a_live_scheduler_needs_no_name(name):
    scheduler = KINDS[name + "Scheduler"]()
    given, live = audit(scheduler.config, counts=[10]), audit(scheduler, counts=[10])
    assert (given.subject, given.findings) == (live.subject, live.findings)
    assert "arguments the config holds" in given.facts["class"]
    with pytest.raises(AuditError, match="_class_name"):  # LMS's has the same arguments
        audit(KINDS["KDPM2DiscreteScheduler"]().config)


@pytest.mark.parametrize("name", ["Wan 2.1", "Sana"])
def test_whole_time_steps_of_flows_are_rounding(name):
    report = audit(known()[name]["config"], counts=[1, 7, 20, 50, 259, 594, 1000])
    assert not found(report, "bug")
    assert "rounded" in found(report, "note")
    assert report.facts["T is visited"] == "7 of 7 counts"


def test_time_may_run_from_noise_to_image():
    report = audit(flow(invert_sigmas=True), counts=FEW)
    assert report.verdict == "sound"
    assert report.facts["terminal SNR"] == report.facts["mean lost at 50 steps"] == 0


UNET, XL = "model.diffusion_model.input_blocks.0.0.weight", "conditioner.embedders.1.model.ln_final.weight"


@pytest.mark.parametrize(
    ("keys", "metadata", "prediction", "alpha_bar", "flaws"),
    [
        ((), {}, "eps", 0.00466, {"terminal SNR"}),
        ((), {"modelspec.prediction_type": "v"}, "v", 0.00466, {"terminal SNR"}),
        (("v_pred",), {}, "v", 0.00466, {"terminal SNR"}),
        (("v_pred", "ztsnr"), {}, "v", 0, set()),
        (("ztsnr",), {"modelspec.predict_key": "epsilon"}, "eps", 0, {"eps at zero SNR"}),
        (("edm_mean", "edm_std"), {}, "eps", 1 / (1 + 160**2), set()),
        (("edm_vpred.sigma_max",), {}, "v", 1 / (1 + 80**2), {"terminal SNR"}),
    ],
)
def test_checkpoints_in_one_file(tmp_path, keys, metadata, prediction, alpha_bar, flaws):
    file = tmp_path / "model.safetensors"
    save_file({key: torch.tensor(80.0) for key in (UNET, XL, *keys)}, file, metadata)
    report = audit(file)
    assert report.facts["prediction"] == prediction
    assert report.facts["terminal alpha_bar"] == pytest.approx(alpha_bar, rel=1e-3)
    assert report.facts["shape"] == "4x128x128"
    assert ("assumed" in report.facts) == (not any(key.startswith("edm") for key in keys))
    assert set(found(report, "flaw")) == flaws
    save_file({key: torch.zeros(1) for key in ("lora_unet", *keys)}, file)
    assert main([str(file)]) == 2
    file.write_bytes(b"nothing")
    assert main([str(file)]) == 2


@pytest.mark.parametrize(
    ("keys", "metadata", "followed", "message"),
    [
        (("v_pred",), {"modelspec.prediction_type": "epsilon"}, "v", r"key v_pred \(v\), .*prediction_type \(eps\)"),
        (("v_pred", "edm_mean"), {}, "v", r"key v_pred \(v\), key edm_mean \(eps\)"),
        (
            ("v_pred",),
            {"zsnr_card": Card("x0", zsnr.schedule.linear()).to_json()},
            "x0",
            r"card \(x0\), key v_pred \(v",
        ),
        ((), {"modelspec.prediction_type": "v", "modelspec.predict_key": "epsilon"}, "v", r"type \(v\), .*key \(eps\)"),
        (("ztsnr", "edm_mean"), {}, "eps", r"key edm_mean \(alpha_bar = .*3.9e-05\), key ztsnr \(alpha_bar = 0\)"),
        (("v_pred", "edm_vpred.sigma_max"), {"modelspec.prediction_type": "v_prediction"}, "v", ""),
        (
            ("ztsnr",),
            {"zsnr_card": Card("v", zsnr.rescale_zero_terminal_snr(zsnr.schedule.linear())).to_json()},
            "v",
            "",
        ),
    ],
)
def test_a_checkpoint_that_contradicts_itself_is_a_flaw(tmp_path, keys, metadata, followed, message):
    file = tmp_path / "model.safetensors"
    save_file({key: torch.tensor(80.0) for key in (UNET, *keys)}, file, metadata)
    report = audit(file)
    assert report.facts["prediction"] == followed
    one = found(report, "flaw").get("contradiction")
    assert re.search(message, one.what) if message else one is None


@pytest.mark.parametrize(
    ("keys", "metadata", "message"),
    [
        (("edm_vpred.sigma_max",), {}, r"edm_vpred.sigma_max = 0\.0; give a number above 0"),
        ((), {"modelspec.prediction_type": "flow"}, "modelspec.prediction_type is 'flow'; .* epsilon"),
        ((), {"zsnr_card": Card("F", None).to_json()}, "EDM's preconditioning"),
        ((), {"zsnr_card": Card("v", zsnr.Schedule(torch.ones(3))).to_json()}, "no noise"),
    ],
)
def test_a_checkpoint_that_cannot_be_judged(tmp_path, capsys, keys, metadata, message):
    file = tmp_path / "model.safetensors"
    save_file({key: torch.tensor(0.0) for key in (UNET, *keys)}, file, metadata)
    assert main([str(file)]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert "Traceback" not in error


def test_a_pipe_that_is_closed_early_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps(flow(num_train_timesteps=10)))
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        monkeypatch.setattr("sys.stdout", closed)
        assert main([str(tmp_path / "config.json")]) == 0


def test_ranges():
    assert ranges([1, 2, 3, 7, 9, 10]) == "1-3, 7, 9-10"
    assert ranges([1, 3, 5], most=2) == "1, 3, ..."
    assert set(ANGLES) <= set(NAMES)
