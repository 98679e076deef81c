"""What no list of cases names: any config, caption, parameter or tensor is refused in words, or all is right."""

import contextlib
import functools
import inspect
import io
import json
import math
import os
import tempfile
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from test_audit import NAMES, UNET

import zsnr
from pipeline import parameters
from pipeline.checkout import Refused
from pipeline.parameters import _leaves as leaves
from zsnr import grids, guidance, prediction, schedule
from zsnr.audit.__main__ import main
from zsnr.diffusers import Card
from zsnr.finetune import FineTune, captions
from zsnr.samplers import SAMPLERS

pytestmark = pytest.mark.filterwarnings("ignore")  # of diffusers and numpy, about what is drawn here


@pytest.fixture(autouse=True, scope="module")
def quiet():
    diffusers.utils.logging.set_verbosity_error()


RIGHT = math.pi / 2


def run(n):
    """So many examples, the same every time; with ZSNR_EXAMPLES=5 in the environment, five times as many others."""
    times = int(os.environ.get("ZSNR_EXAMPLES", 0))
    settled = {"deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}
    return settings(max_examples=n * (times or 1), derandomize=not times, **settled)


def tried(make, *arguments, refusal=ValueError):
    """(what it makes, ""), or (None, why it refuses)."""
    try:
        return make(*arguments), ""
    except refusal as error:
        why = str(error)
    assert len(why) > 10
    return None, why


def some(names, values):
    """A dict of a few of the names."""
    return st.dictionaries(st.sampled_from(sorted(names)), values, max_size=4)


FEW = [0, 1, -1, 2, 0.5, 1e-3, 1e-300, 1e300, math.nan, math.inf, -math.inf]
NUMBERS = st.sampled_from(FEW) | st.floats(1e-6, 2) | st.integers(-3, 60)
ODD = st.one_of(
    NUMBERS, st.sampled_from([10**400, -(10**400), None, True, False, "", "x", "0.1", [], {}, [0.1], ["x"], {"a": 1}])
)
FALLING = st.lists(st.floats(1e-3, 0.5), min_size=1, max_size=8)
WORDS = {
    "beta_schedule": ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "exp", "laplace"],
    "prediction_type": ["epsilon", "sample", "v_prediction", "flow_prediction"],
    "timestep_spacing": ["leading", "linspace", "trailing"],
    "solver": ["ddim", "euler", "heun", "rk2"],
    "path": ["angle", "flow", "EDM", "VE", "VP"],
    "levels": [None, "karras", "power", "uniform", "geometric"],
}
SIZES = {"beta_start": st.floats(1e-4, 0.1), "beta_end": st.floats(0.1, 0.9), "num_train_timesteps": st.integers(1, 12)}
SIZES |= {"snr_shift_scale": st.floats(0.2, 4), "trained_betas": st.none() | FALLING, "alpha": st.floats(0.3, 2)}
SIZES |= {"S_churn": st.floats(0, 3), "sigma_max": st.none() | st.floats(0.5, 99), "rho": st.floats(0.5, 9)}
FLAGS = ["rescale_betas_zero_snr", "use_karras_sigmas", "clip_sample", "use_flow_sigmas", "thresholding"]
USUAL = {name: st.sampled_from(words) for name, words in WORDS.items()} | SIZES | {f: st.booleans() for f in FLAGS}
SHORT = {"num_train_timesteps": 8, "beta_start": 0.05, "beta_end": 0.3, "beta_schedule": "linear"}


@st.composite
def configs(draw, name):
    """A class's config: short, with usual values of some arguments and, in half of them, odd ones of others."""
    kind = zsnr.ZeroSNRScheduler if name == "ZeroSNRScheduler" else getattr(diffusers, name, zsnr.ZeroSNRScheduler)
    known = {*inspect.signature(kind).parameters} - {"kwargs"}
    usual = draw(st.fixed_dictionaries({}, optional={k: v for k, v in USUAL.items() if k in known}))
    odd = draw(st.just({}) | some({*known, *SHORT}, ODD))
    return {"_class_name": name, **{k: v for k, v in SHORT.items() if k in known}, **usual, **odd}


def off(a, b):
    """The largest difference."""
    return (a - b).abs().max().item()


def alpha_bars(config):
    """alpha_bar of a config, in numpy, by the definitions; None of a beta_schedule that is not known here."""
    T, low, high = config["num_train_timesteps"], config["beta_start"], config["beta_end"]
    if config.get("trained_betas") is not None:
        betas = np.array(config["trained_betas"])
    elif config["beta_schedule"] == "squaredcos_cap_v2":
        f = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * RIGHT) ** 2
        betas = np.minimum(1 - f[1:] / f[:-1], 0.999)
    elif config["beta_schedule"] in ("linear", "scaled_linear"):
        p = 1 if config["beta_schedule"] == "linear" else 2
        betas = np.linspace(low ** (1 / p), high ** (1 / p), T) ** p
    elif config["beta_schedule"] == "exp":
        betas = np.full(T, 1 - np.exp(-12 / T))
    else:
        return None
    found = np.cumprod(1 - betas)
    found = found / (config.get("snr_shift_scale", 1) * (1 - found) + found)
    if config.get("rescale_betas_zero_snr") and found[-1]:
        a = np.sqrt(found)
        found = ((a - a[-1]) * a[0] / (a[0] - a[-1])) ** 2
    return found


def audited(path, *options):
    """What `python -m zsnr.audit` says of a path, which is a reason or a report, and the report's facts."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as error:
        status = main([str(path), "--json", *options])
    said, why = out.getvalue(), error.getvalue()
    assert status in (0, 1, 2)
    assert "Traceback" not in why, why
    if status == 2:
        assert len(why) > 20
        assert not said
        return None
    report = json.loads(said, parse_constant=pytest.fail)  # strict: no NaN
    assert report["ok"] == (status == 0)
    assert 0 <= report["facts"]["terminal alpha_bar"] < 1
    return report["facts"]


# configs

HERE = Path(tempfile.mkdtemp(prefix="zsnr-properties-"))


@run(200)
@given(st.sampled_from([*NAMES, *["ZeroSNRScheduler", "DDIMScheduler"] * 5, "NoScheduler"]).flatmap(configs))
def test_the_audit_judges_a_config_or_says_why_not(config):
    file = HERE / "scheduler_config.json"
    file.write_text(json.dumps(config))
    facts = audited(file)
    usual = facts and config.get("prediction_type") != "flow_prediction"
    if usual and config["_class_name"] in ("ZeroSNRScheduler", "DDIMScheduler", "DDPMScheduler"):
        if (expected := alpha_bars(config)) is not None:
            assert facts["terminal alpha_bar"] == pytest.approx(expected[-1], rel=1e-4, abs=1e-7)
        assert facts["steps in training"] == len(config.get("trained_betas") or range(config["num_train_timesteps"]))


JSON = st.recursive(ODD, lambda inner: st.lists(inner, max_size=3) | some(["scheduler", "_class_name", "x"], inner))


@run(100)
@given(JSON, st.sampled_from(["model_index.json", "scheduler_config.json", "unet.json"]), ODD)
def test_the_audit_says_why_any_other_json_is_no_config(content, name, more):
    (HERE / name).write_text(json.dumps(content))
    assert audited(HERE / name, f"--step=eta={more}", "--shape=4,8,8") is None


KEYS = {UNET: "", "ztsnr": "", "v_pred": "v", "edm_mean": "eps", "edm_vpred.sigma_max": "v"}
SPECS = {"epsilon": "eps", "v": "v", "v_prediction": "v", "sample": "", "flow": "", Card("F", None).to_json(): ""}


@run(100)
@given(
    st.lists(st.sampled_from([*KEYS]), unique=True),
    NUMBERS,
    some(["modelspec.prediction_type", "modelspec.predict_key", "zsnr_card"], st.sampled_from([*SPECS])),
)
def test_the_audit_reads_a_checkpoint_or_says_why_not(keys, value, metadata):
    file = HERE / "model.safetensors"
    save_file({key: torch.tensor(float(value)) for key in [*keys, "x"]}, file, metadata)
    said = {KEYS[key] for key in keys} | {SPECS[spec] for spec in metadata.values()}
    if facts := audited(file):
        assert UNET in keys
        assert "zsnr_card" not in metadata
        assert facts["prediction"] in (said - {""} or {"eps"})


@run(250)
@given(configs("ZeroSNRScheduler"), st.integers(1, 12), st.integers(0, 99))
def test_the_drop_in_refuses_a_config_or_follows_its_schedule(config, N, seed):
    """A network that knows the one picture answers by the table in numpy: every call must give that picture."""
    ours, _ = tried(zsnr.ZeroSNRScheduler.from_config, config)
    if ours is None or tried(ours.set_timesteps, N)[1]:
        return
    expected = np.sqrt(alpha_bars(config))
    np.testing.assert_allclose(ours.schedule.sqrt_alpha_bar, expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(ours.alphas_cumprod, expected**2, rtol=1e-5, atol=1e-9)
    phi = np.concatenate([[0], np.arctan2(np.sqrt(1 - expected**2), expected)])  # of the image and of all steps
    x0, eps = torch.rand(2, 1, 3, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x0 *= min(1.0, config.get("clip_sample_range", 1.0)) if config.get("clip_sample") else 1.0
    ddim = ours.config.solver == "ddim" and not ours.config.S_churn
    x, last = None, math.inf
    for t in ours.timesteps.tolist():
        assert -1 < t <= len(expected) - 1
        angle = np.interp(t / 1e-6 if t < 0 else t, np.arange(-1, len(expected)), phi)
        c, s = (0.0, 1.0) if abs(angle - RIGHT) < 1e-12 else (math.cos(angle), math.sin(angle))
        noised = ours.add_noise(x0, eps, torch.tensor([t], dtype=torch.float64))
        assert off(noised, c * x0 + s * eps) < 1e-5
        x = c * x0 + s * eps if x is None else x
        if ddim:
            assert t < last
            assert off(x, c * x0 + s * eps) < 1e-4
        last, now = t, (x - c * x0) / s
        output = {"epsilon": now, "sample": x0, "v_prediction": c * now - s * x0}[ours.config.prediction_type]
        x, found = ours.step(output, t, x, generator=torch.Generator().manual_seed(seed), return_dict=False)
        assert off(found, x0) < 1e-3
    assert off(x, x0) < 1e-3


# captions

NAMED = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12)
TEXTS = st.text(max_size=30) | st.text(st.characters(categories=["Cs", "Lu", "Zs", "Cc"]), max_size=4)
FORMATS = {"PNG": ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"], "JPEG": ["RGB", "L", "CMYK"], "WEBP": ["RGB", "RGBA"]}
FORMATS |= {"TIFF": ["RGB", "F"], "GIF": ["P"], "BMP": ["RGB"]}
PICTURES = st.tuples(
    st.sampled_from([(kind, mode) for kind, modes in FORMATS.items() for mode in modes]),
    st.sampled_from([".png", ".jpg", ".JPEG", ".webp", ".gif"]),
    st.tuples(*[st.sampled_from([1, 2, 7, 30, 300])] * 2),
    TEXTS,
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]),
)


@run(150)
@given(st.dictionaries(NAMED, PICTURES, max_size=4), st.sampled_from(["txt", "json"]), st.booleans())
def test_captions_are_those_that_were_written_or_are_refused(pictures, way, blank):
    with tempfile.TemporaryDirectory(dir=HERE) as name:
        folder, expected, lines, wrong = Path(name), {}, [], False
        for stem, ((kind, mode), suffix, size, text, encoding) in pictures.items():
            file = folder / (stem + suffix)
            try:
                Image.new(mode, size).save(file, kind)
            except OSError:  # the name is too long, in bytes
                continue
            if suffix == ".gif" or stem[0] == ".":
                continue
            if way == "json":
                lines.append(json.dumps({"file_name": file.name, "text": text}))
                expected[file] = json.loads(lines[-1])["text"].strip()  # two halves of a pair are a whole
                readable = not any("\ud800" <= z <= "\udfff" for z in expected[file])
            else:
                data = text.encode(encoding, "surrogatepass" if encoding[:3] == "utf" else "replace")
                file.with_suffix(".txt").write_bytes(data)
                with contextlib.suppress(UnicodeDecodeError):
                    expected[file] = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").strip()
                readable = file in expected
            wrong = wrong or not readable
        if way == "json" and lines:
            (folder / "metadata.jsonl").write_text("\n".join(lines + [""] * blank), encoding="utf-8")
        found, why = tried(captions.captioned, folder, refusal=(ValueError, FileNotFoundError))
        assert bool(why) == (wrong or not expected), why
        assert why or dict(found) == expected
        for file, _ in found or ():
            kind, mode = pictures[file.stem][0]
            digest, why = captions.digest(file)
            assert bool(digest) != bool(why)
            assert bool(digest) == (kind in captions.FORMATS)
            if digest:
                pixels, sizes = captions.picture(file, 5)
                level = 1.0 if mode in ("RGBA", "LA", "CMYK") else -1.0  # all is 0: transparent, no ink, or black
                assert pixels.shape == (3, 5, 5)
                assert off(pixels, level) < 0.02
                assert sizes.tolist()[4:] == [5, 5]


# parameters

LITERALS = st.sampled_from([None, True, False, 0, 3, 0.5, "x", "", [1], [], [0.5, "x"]])
GROUPS = st.dictionaries(st.sampled_from("ef"), LITERALS, min_size=1)


@run(150)
@given(
    st.dictionaries(st.sampled_from("abcd"), LITERALS | GROUPS, min_size=1),
    st.dictionaries(st.sampled_from("abcdefg"), ODD | st.dictionaries(st.sampled_from("abcdef"), ODD), max_size=5),
    st.lists(st.builds("{}={}".format, st.sampled_from("abcdefg="), ODD), max_size=2),
    st.booleans(),
)
def test_parameters_have_the_one_value_that_stands_for_them(defaults, section, line, own):
    fill = functools.partial(parameters.fill, defaults, {"full": {"train": section}}, "full", ["train"], line, own=own)
    found, why = tried(fill, refusal=Refused)
    flat, wanted = dict(leaves(found or {})), dict(leaves(defaults))
    assert why or flat.keys() == wanted.keys()
    for name, value in flat.items():
        assert wanted[name] is None or type(value) is type(wanted[name])
        assert not isinstance(value, float) or math.isfinite(value)
        places = [
            inner for key, inner in [*leaves(section), *section.items()] if key == name and type(inner) is not dict
        ]
        asked = [item[2:] for item in line if item[0] == name]
        assert str(value) in asked or value == json.loads(asked[0]) if asked else value in (places or [wanted[name]])


RECIPE_FIELDS = [*inspect.signature(FineTune).parameters]


@run(150)
@given(some(RECIPE_FIELDS, ODD), st.integers(0, 99))
def test_a_recipe_is_refused_by_name_or_has_finite_rates(fields, step):
    recipe = FineTune(**fields)
    if why := tried(recipe.check)[1]:
        assert any(name in why for name in fields)
        return
    assert recipe.steps * recipe.batch >= recipe.images > (recipe.steps - 1) * recipe.batch
    step = min(step, recipe.steps - 1)
    assert 0 <= recipe.ramp(step) <= 1
    assert 0 <= recipe.rate(step) <= recipe.lr
    assert 0 <= recipe.decay(step) <= 1


@run(100)
@given(st.text("abc:-[]{}&*!?|>'\"%@`#,.0129 \n\t\0~<=_é", max_size=30))
def test_params_yaml_is_a_tree_or_refused(text):
    (HERE / "params.yaml").write_text(text)
    with contextlib.suppress(Refused):
        assert isinstance(parameters.load(HERE / "params.yaml"), dict)


# tensors

TABLES = st.lists(st.floats(0, 1) | st.sampled_from([math.nan, -1e-9, 1.5, math.inf, 0.0, 1.0]), max_size=6)
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.complex64]


@run(200)
@example([1e-200], False, "sqrt", 1)  # its square is 0, and it is not
@example([2.2e-309], False, "sqrt", 0.001)  # 1 / it overflows, and it is not 0
@given(TABLES, st.booleans(), st.sampled_from(["alpha_bar", "betas", "sqrt"]), NUMBERS)
def test_a_schedule_is_refused_or_keeps_its_laws(values, fall, kind, k):
    values = sorted(values, reverse=True) if fall else values
    make = {"alpha_bar": zsnr.from_alpha_bar, "betas": zsnr.from_betas, "sqrt": zsnr.Schedule}[kind]
    a = np.array(values, dtype=float)
    a = np.cumprod(1 - a) if kind == "betas" else a
    right = len(a) > 0 and (np.array(values) >= 0).all() and (np.array(values) <= 1).all()
    right = right and (np.diff(a) <= 0).all() and (a[:-1] > 0).all()
    made, why = tried(make, values)
    assert bool(why) != right
    if why:
        return
    a = a if kind == "sqrt" else np.sqrt(a)
    np.testing.assert_allclose(made.sqrt_alpha_bar, a, rtol=1e-12)
    assert made.zero_snr == (a[-1] == 0)
    assert made.angle.diff().min().item() >= 0 if len(a) > 1 else True
    for step in range(len(a)):
        assert made.angle_at(step) == made.angle[step].item()
    with contextlib.suppress(ValueError):
        shifted = made.shifted(k)
        assert 0 < k < math.inf
        told = np.isfinite(made.sigma) | (a == 0)  # 1 / alpha overflows for a subnormal alpha, which is not zero SNR
        np.testing.assert_allclose(shifted.sigma[told], made.sigma[told] * math.sqrt(k), rtol=1e-3, atol=1e-3)
    with contextlib.suppress(ValueError):
        zero = schedule.rescale_zero_terminal_snr(made)
        assert zero.zero_snr
        assert zero.sqrt_alpha_bar[0].item() == pytest.approx(a[0], rel=1e-12)


MAKES = {"uniform": 1, "power": 2, "skewed": 3, "geometric": 1, "karras": 4}


@run(200)
@given(st.sampled_from(sorted(MAKES)), st.integers(-1, 40), st.lists(NUMBERS, min_size=4, max_size=4))
def test_a_grid_is_refused_or_falls_from_where_it_was_told_to_the_image(name, N, numbers):
    angles, why = tried(lambda: grids.check_grid(getattr(grids, name)(N, *numbers[: MAKES[name]])))
    if why:
        return
    assert len(angles) == N + 1
    start = {"geometric": RIGHT, "karras": math.atan(numbers[1] / (numbers[3] or 1))}
    assert angles[0] == pytest.approx(start.get(name, numbers[MAKES[name] - 1]))


ANGLES = st.lists(st.floats(0.01, 1.5) | st.just(RIGHT), min_size=1, max_size=7, unique=True)
ANGLES = ANGLES.map(lambda z: torch.tensor([*sorted(z, reverse=True), 0.0], dtype=torch.float64))
SHAPES = st.lists(st.integers(0, 3), max_size=4)
TENSORS = st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.complex64])
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 0.1, torch.bfloat16: 0.5}


@run(200)
@given(st.sampled_from(sorted(SAMPLERS)), SHAPES, TENSORS, ANGLES, st.sampled_from([0.0] * 4 + [math.nan, math.inf]))
@example("churn", [1], torch.bfloat16, torch.tensor([RIGHT, 0.01, 0.0], dtype=torch.float64), 0.0)  # by way of -129
def test_a_sampler_draws_the_one_picture_there_is_in_any_shape_or_refuses(name, shape, dtype, grid, spoilt):
    """x0 = 0.25, so v = (cos(phi) x - 0.25) / sin(phi), whatever the noise."""

    largest = [1.0]  # of all states: what is rounded

    def denoiser(x, phi):
        largest.append(x.abs().max().item() if x.numel() else 0.0)
        c, s = prediction.cos_sin(phi)
        return (c * x - 0.25) / s

    generator = torch.Generator().manual_seed(0)
    noise = (torch.randn(shape, generator=generator, dtype=torch.float64) + spoilt).to(dtype)
    options = {"S_churn": 1.0} if name == "churn" else {}
    if name in ("ddpm", "euler_maruyama", "churn"):
        options["generators"] = generator
    x, why = tried(functools.partial(SAMPLERS[name], denoiser, noise, grid, **options))
    refused = not shape or not dtype.is_floating_point or bool(spoilt and noise.numel())
    assert bool(why) == refused or (why and name == "euler_maruyama"), why
    if why:
        return
    assert (x.shape, x.dtype) == (noise.shape, dtype)
    assert not x.numel() or off(x, 0.25) < TOLERANCE[dtype] * (
        max(largest) if name == "churn" and dtype.itemsize < 4 else 1
    )


SCALES = st.floats(-20, 20) | st.sampled_from([0.0, 1.0, math.nan, math.inf, -math.inf])


@run(150)
@given(SCALES, NUMBERS, st.sampled_from(["v", "x0", "eps", "F"]), st.floats(0.01, 1.5) | st.just(RIGHT), st.booleans())
def test_guidance_is_refused_or_moves_the_answer_and_takes_back_its_contrast(scale, rescale, space, phi, flat):
    c, s = prediction.cos_sin(phi)
    x, pos, neg = torch.randn(3, 2, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pos = pos * 0 if flat else pos
    v, why = tried(lambda: guidance.guided(lambda *_: pos, lambda *_: neg, scale, rescale, space)(x, phi))
    assert bool(why) != (abs(scale) < math.inf and 0 <= rescale <= 1 and space != "F")
    if why:
        return
    plain = neg + scale * (pos - neg) if scale != 1 else pos
    form = {"v": lambda v: v, "x0": lambda v: c * x - s * v, "eps": lambda v: s * x + c * v}[space]
    if scale == 1 or (space == "eps" and c < 1e-3):
        assert scale != 1 or off(v, pos) == 0
        return
    k = rescale * guidance.std(form(pos)) / guidance.std(form(plain)) + 1 - rescale
    size = form(plain).abs().max().item() + x.abs().max().item()
    assert off(form(v), k * form(plain)) < 1e-9 * size


@run(150)
@given(st.sampled_from(["eps", "x0", "v"]), st.sampled_from(["eps", "x0", "v"]), SHAPES, TENSORS, ANGLES)
def test_an_answer_is_converted_in_the_states_own_dtype_or_refused(kind, to, shape, dtype, grid):
    phi, convert = grid[0].item(), {"eps": prediction.to_eps, "x0": prediction.to_x0, "v": prediction.to_v}[to]
    c, s = prediction.cos_sin(phi)
    x0, eps = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truth, x = {"eps": eps, "x0": x0, "v": c * eps - s * x0}, c * x0 + s * eps
    with pytest.raises(ValueError, match="answer of shape"):
        convert(torch.ones(*shape, 7), x, phi, kind)
    if kind == "eps" != to and phi == RIGHT:
        with pytest.raises(ValueError, match="says nothing"):
            convert(truth[kind], x, phi, kind)
    elif dtype in TOLERANCE:
        found = convert(truth[kind].to(dtype), x.float(), phi, kind)
        assert (found.shape, found.dtype) == (x.shape, torch.float32)
        size = TOLERANCE[dtype] / min(s, c or 1.0) + 1e-4 / min(s, c or 1.0)
        assert not found.numel() or off(found, truth[to]) < size
