"""What guidance does to a picture, in closed form; pictures drawn on request, kept, and read again by seed."""

import dataclasses
import json
import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lab.measure import evaluation, saturation
from lab.measure.evaluation import Cell, draw
from lab.measure.metrics import Classifier, interval
from lab.measure.study import Study
from lab.models import data
from lab.models.network import ConditionalUNet
from lab.models.variants import ABLATIONS, VARIANTS, find
from zsnr.denoisers import NetworkDenoiser
from zsnr.guidance import guided
from zsnr.noise import generators, randn
from zsnr.samplers import SAMPLERS


def seeded(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# single pictures


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_saturated_is_the_share_of_values_out_of_range(share):
    x = torch.full((3, 1, 8, 8), 0.9)
    n = round(share * 64)
    x.view(3, -1)[0, :n] = 1.03
    x.view(3, -1)[1, :n] = -5.0
    assert saturation.saturated(x).tolist() == [share, share, 0.0]


def test_values_at_the_ends_of_the_range_are_not_over_exposed():
    """Neither are those beyond by rounding, up to 2.5 grey levels."""
    x = torch.tensor([-1.0, 1.0, 1.0 + 2 / 127.5, -1.0 - 2.5 / 127.5, 1.02]).view(-1, 1, 1, 1)
    assert saturation.saturated(x).tolist() == [0.0] * 5
    x = torch.tensor([1.0 + 3 / 127.5, -1.0 - 3 / 127.5, math.inf]).view(-1, 1, 1, 1)
    assert saturation.saturated(x).tolist() == [1.0] * 3


def test_contrast_is_the_std_of_each_pictures_values():
    board = (torch.arange(64) % 2 * 2.0 - 1).view(1, 1, 8, 8)
    x = torch.cat([torch.full((1, 1, 8, 8), 0.3), 0.5 * board, 0.2 + 0.1 * board, seeded(1, 1, 8, 8)])
    half = math.sqrt(64 / 63)
    expected = torch.tensor([0.0, 0.5 * half, 0.1 * half, seeded(64).std()])
    torch.testing.assert_close(saturation.contrast(x), expected, rtol=1e-5, atol=1e-6)


def test_contrast_grows_with_a_picture_and_does_not_see_its_level():
    x = seeded(4, 3, 8, 8)
    torch.testing.assert_close(saturation.contrast(2 * x + 1), 2 * saturation.contrast(x))
    torch.testing.assert_close(saturation.contrast(x), x.flatten(1).std(1))


class Corners(nn.Module):
    """The class is the one of the first three pixels that is brightest."""

    head = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.largest = max(getattr(self, "largest", 0), len(x))
        return x[:, 0, 0, :3]


def test_what_is_said_of_each_picture():
    x = seeded(700, 1, 32, 32)
    classifier = Corners()
    found = saturation.per_picture(x, classifier)
    assert set(found) == {"level", "mean", "saturated", "contrast", "class"}
    assert {value.shape for value in found.values()} == {(700,)}
    assert torch.equal(found["class"], x[:, 0, 0, :3].argmax(1))
    assert classifier.largest <= 500
    torch.testing.assert_close(found["level"], data.level(x))
    torch.testing.assert_close(found["mean"], x.flatten(1).mean(1))
    share = 2 * torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor(-saturation.BEYOND))
    assert found["saturated"].mean().item() == pytest.approx(share.item(), rel=0.01)
    assert found["contrast"].mean().item() == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize("kept", [0, 2, 99, {"zsnr/a": 3, "base/b-w7.5": 1}])
def test_what_is_saved_is_loaded_by_evaluation(kept, tmp_path):
    torch.manual_seed(0)
    classifier = Classifier().eval()
    pictures = {"zsnr/a": seeded(5, 1, 32, 32), "base/b-w7.5": 2 * seeded(3, 1, 32, 32, seed=1)}
    measures = {"zsnr/a": {"n": 5, "level": {"std": 0.25}}, "steps": [0, 999]}
    more = {"axes": seeded(4, 6).T, "edit/input-level": torch.arange(3.0)}
    saturation.save(tmp_path / "new/folder", measures, pictures, classifier, kept, more)
    again, tensors = evaluation.load(tmp_path / "new/folder")
    assert again == measures
    expected = {"axes": more["axes"], "edit/input-level": more["edit/input-level"]}
    for name, x in pictures.items():
        expected |= {f"{name}/{key}": value for key, value in saturation.per_picture(x, classifier).items()}
        expected[f"{name}/pictures"] = x[: kept[name] if isinstance(kept, dict) else kept].half()
    assert tensors.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(tensors[name], value), name
        assert tensors[name].dtype == value.dtype


def test_saving_without_more_has_all_that_evaluation_saves(tmp_path):
    x, classifier = {"a": seeded(3, 1, 32, 32)}, Classifier().eval()
    saturation.save(tmp_path / "one", {}, x, classifier, 2)
    evaluation.save(tmp_path / "other", {}, x, 2)
    ours, theirs = evaluation.load(tmp_path / "one")[1], evaluation.load(tmp_path / "other")[1]
    assert set(theirs) < set(ours)
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


# pictures on request


@pytest.fixture(scope="module")
def unet() -> ConditionalUNet:
    """A tiny network whose answer depends on everything; a new one would answer 0.

    32 wide: with 16, each channel is a group of its own to the norms, which take out all that the condition adds.
    """
    torch.manual_seed(0)
    net = ConditionalUNet(widths=(32,))
    for name, parameter in net.named_parameters():
        if "conv_out" in name:
            nn.init.normal_(parameter, std=0.2)
        elif "time_emb_proj" in name:
            parameter.data *= 4
    return net.eval()


@pytest.fixture
def calls(unet):
    """(step, conditions) of each evaluation of the network."""
    seen = []
    hook = unet.register_forward_pre_hook(
        lambda net, args, kwargs: seen.append((args[1][0].item(), kwargs["class_labels"].tolist())), with_kwargs=True
    )
    yield seen
    hook.remove()


NOTHING = [10, 5]
DDIM, HEUN = Cell("trailing", "ddim", 3), Cell("trailing", "heun", 5)


def by_hand(unet, variant, cell, seeds, word=5, guidance=None, start=None, skip=0) -> torch.Tensor:
    """As `draw`, in one batch and in as many words as it takes."""
    kind, device = find(variant), next(unet.parameters()).device
    angles = cell.grid(kind.schedule)[skip:]

    def asked(conditions):
        labels = torch.tensor(conditions, device=device)
        return NetworkDenoiser(unet, kind.schedule, kind.prediction, class_labels=labels)

    denoiser = asked([[seed % 10, word] for seed in seeds])
    if guidance:
        denoiser = guided(denoiser, asked([NOTHING for _ in seeds]), **guidance)
    own = generators(seeds)
    noise = randn((len(seeds), 1, 32, 32), own, device=device)
    if cell.offset_noise:
        noise += cell.offset_noise * randn((len(seeds), 1, 1, 1), own, device=device)
    return SAMPLERS[cell.sampler](denoiser, noise if start is None else start.to(noise), angles).cpu()


CELLS = {
    "base": Cell("leading", "ddim", 3),
    "offset": Cell("leading", "ddim", 3, offset_noise=0.1),
    "zsnr": HEUN,
    "x0": DDIM,
    "no-rescale": DDIM,
}
every_variant = pytest.mark.parametrize(("variant", "cell"), CELLS.items(), ids=CELLS)


@every_variant
def test_the_plain_call_is_without_word_guidance_or_start(variant, cell, unet, calls):
    x = draw(unet, variant, cell, 3, "float32", 8)
    assert x.shape == (3, 1, 32, 32)
    assert [conditions for _, conditions in calls] == [[[8, 5], [9, 5], [0, 5]]] * cell.evaluations
    assert torch.equal(x, by_hand(unet, variant, cell, [8, 9, 10]))
    spelled = draw(unet, variant, cell, 3, "float32", first_seed=8, word=None, guidance=None, start=None, skip=0)
    assert torch.equal(x, spelled)
    assert x.isfinite().all()
    assert x.std() > 0.1


@pytest.mark.parametrize("word", [0, 4])
def test_a_word_is_said_beside_the_class(word, unet, calls):
    x = draw(unet, "zsnr", DDIM, 2, "float32", word=word)
    assert [conditions for _, conditions in calls] == [[[0, word], [1, word]]] * 3
    assert torch.equal(x, by_hand(unet, "zsnr", DDIM, [0, 1], word))
    assert not torch.allclose(x, draw(unet, "zsnr", DDIM, 2, "float32"), atol=1e-3)


def test_the_word_after_the_last_is_none(unet):
    assert torch.equal(draw(unet, "zsnr", DDIM, 2, "float32", word=5), draw(unet, "zsnr", DDIM, 2, "float32"))


@pytest.mark.parametrize(
    ("variant", "space"), [("base", "v"), ("base", "eps"), ("offset", "x0"), ("zsnr", "v"), ("x0", "x0"), ("x0", "eps")]
)
def test_guidance_is_against_no_condition_at_all(variant, space, unet, calls):
    cell = CELLS[variant]
    guidance = {"scale": 7.5, "rescale": 0.7, "space": space}
    x = draw(unet, variant, cell, 2, "float32", 4, word=1, guidance=guidance)
    assert [c for _, c in calls] == [[[4, 1], [5, 1]], [NOTHING, NOTHING]] * cell.evaluations
    assert torch.equal(x, by_hand(unet, variant, cell, [4, 5], 1, guidance))
    assert x.isfinite().all()
    assert not torch.allclose(x, draw(unet, variant, cell, 2, "float32", 4, word=1), atol=1e-2)


@every_variant
def test_guidance_of_scale_1_is_none_and_costs_none(variant, cell, unet, calls):
    one = draw(unet, variant, cell, 2, "float32", word=2, guidance={"scale": 1.0, "rescale": 0.7})
    assert len(calls) == cell.evaluations
    assert torch.equal(one, draw(unet, variant, cell, 2, "float32", word=2))
    assert torch.equal(one, draw(unet, variant, cell, 2, "float32", word=2, guidance={}))


@pytest.mark.parametrize("guidance", [None, {"scale": 3.0, "rescale": 0.7, "space": "eps"}], ids=["plain", "guided"])
@pytest.mark.parametrize("variant", ["offset", "x0"])
def test_a_picture_does_not_depend_on_how_a_set_is_split(variant, guidance, unet):
    cell, asked = CELLS[variant], {"word": 3, "guidance": guidance}
    whole = draw(unet, variant, cell, 4, "float32", 7, **asked)
    parts = [draw(unet, variant, cell, n, "float32", first, **asked) for first, n in ((7, 3), (10, 1))]
    torch.testing.assert_close(whole, torch.cat(parts), rtol=1e-4, atol=1e-4)


def test_nor_on_the_batches_that_draw_takes(unet, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    starts = []

    def start(noise, seeds, phi):
        starts.append((len(noise), seeds, phi))
        return noise

    one = Cell("trailing", "ddim", 1)
    whole = draw(unet.cpu(), "zsnr", one, 66, "float32", 3, start=start)
    assert starts == [(64, range(3, 67), math.pi / 2), (2, range(67, 69), math.pi / 2)]
    torch.testing.assert_close(whole[64:], draw(unet, "zsnr", one, 2, "float32", 67), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("skip", [0, 1, 2])
@pytest.mark.parametrize("cell", [DDIM, HEUN], ids=["ddim", "heun"])
def test_a_start_replaces_the_noise_at_the_first_angle_that_is_left(cell, skip, unet):
    picture, seen = seeded(2, 1, 32, 32, seed=5), []

    def start(noise, seeds, phi):
        seen.append((noise.clone().cpu(), seeds, phi))
        return picture.to(noise)

    x = draw(unet, "zsnr", cell, 2, "float32", 6, start=start, skip=skip)
    ((noise, seeds, phi),) = seen
    assert torch.equal(noise, randn((2, 1, 32, 32), generators([6, 7])))
    assert (seeds, phi) == (range(6, 8), cell.grid(find("zsnr").schedule)[skip].item())
    assert torch.equal(x, by_hand(unet, "zsnr", cell, [6, 7], start=picture, skip=skip))
    same = draw(unet, "zsnr", cell, 2, "float32", 6, start=lambda noise, seeds, phi: noise, skip=skip)
    assert torch.equal(same, draw(unet, "zsnr", cell, 2, "float32", 6, skip=skip))
    assert not torch.allclose(same, x, atol=1e-2)


def test_a_start_that_is_a_noised_picture_comes_back_from_a_perfect_network():
    """An image-to-image start of small noise keeps the picture; none of it is left of one at zero SNR."""
    y = 0.5 * seeded(2, 1, 32, 32, seed=5).clamp(-1, 1)

    class Perfect(nn.Module):
        config = ConditionalUNet(widths=(16,)).config

        def forward(self, x, step, class_labels):
            return y.to(x)  # an x0 prediction

    cell = Cell("trailing", "ddim", 10)
    seen = []

    def start(noise, seeds, phi):
        seen.append(phi)
        return math.cos(phi) * y.to(noise) + math.sin(phi) * noise

    for skip in (0, 6, 9):
        x = draw(Perfect(), "x0", cell, 2, "float32", start=start, skip=skip)
        torch.testing.assert_close(x, y, rtol=0, atol=1e-5)
    assert seen == sorted(seen, reverse=True)
    assert seen[0] == math.pi / 2


@pytest.mark.parametrize(("sampler", "evaluations", "after"), [("ddim", 4, [4, 2, 1]), ("heun", 7, [7, 3, 1])])
def test_skipped_steps_are_not_evaluated(sampler, evaluations, after, unet, calls):
    cell, counted = Cell("trailing", sampler, evaluations), []
    for skip in (0, 2, 3):
        calls.clear()
        draw(unet, "zsnr", cell, 1, "float32", skip=skip)
        counted.append(len(calls))
        assert calls[0][0] == pytest.approx(999 - 250 * skip), "the first step that is left"
        calls.clear()
        draw(unet, "zsnr", cell, 1, "float32", skip=skip, guidance={"scale": 2.0})
        assert len(calls) == 2 * counted[-1]
    assert counted == after


def test_there_must_be_a_step_left(unet, calls):
    with pytest.raises(ValueError, match="at least one step"):
        draw(unet, "zsnr", DDIM, 1, "float32", skip=3)
    assert not calls


def test_bfloat16_reaches_both_branches(unet):
    guidance = {"scale": 3.0, "rescale": 0.7}
    exact, rough = (draw(unet, "zsnr", DDIM, 2, p, word=1, guidance=guidance) for p in ("float32", "bf16"))
    assert rough.dtype == torch.float32
    assert 0 < (exact - rough).abs().max() < 0.5 * exact.abs().max()


# variants and studies


def test_each_ablation_leaves_out_one_thing():
    whole = dataclasses.asdict(VARIANTS["zsnr"])
    changed = {}
    for name, variant in ABLATIONS.items():
        assert find(name) is variant
        changed[name] = {k: v for k, v in dataclasses.asdict(variant).items() if v != whole[k]}
    assert changed == {"no-rescale": {"zero_snr": False}, "x0": {"prediction": "x0"}}
    assert not set(ABLATIONS) & set(VARIANTS)
    assert find("x0").schedule.zero_snr
    assert not find("no-rescale").schedule.zero_snr
    assert (find("x0").spacing, find("no-rescale").spacing) == ("trailing", "leading")


def test_an_unknown_variant_is_refused_with_those_there_are():
    names = ", ".join([*VARIANTS, *ABLATIONS])
    with pytest.raises(ValueError, match=f"unknown variant 'v'; choose one of {names}"):
        find("v")


CELL, ABLATED = "zsnr/trailing-ddim-5", "x0/trailing-ddim-5"
TRUTH = 0.5


def evaluated(folder, cell: str, seed: int) -> torch.Tensor:
    """What a stage leaves of one cell; returns its levels."""
    x = 0.3 * seeded(40, 1, 32, 32, seed=seed) + seeded(40, 1, 1, 1, seed=seed + 100)
    level = data.level(x)
    found = {"std": level.std().item(), "std_ratio": level.std().item() / TRUTH}
    measures = {cell: {"level": found | {"mean": level.mean().item(), "bias": level.mean().item() - 0.1}, "n": 40}}
    evaluation.save(folder, measures, {cell: x}, kept=4)
    return level


@pytest.fixture
def results(tmp_path):
    """Three seeds, the first two of which were ablated; the levels of each, by cell."""
    folders = {"evaluate": 0, "replicate/1": 1, "replicate/2": 2}
    levels = {CELL: [evaluated(tmp_path / folder, CELL, seed) for folder, seed in folders.items()]}
    levels[ABLATED] = [evaluated(tmp_path / f"ablate/{k}", ABLATED, 10 + k) for k in range(2)]
    return tmp_path, levels


def ratios(levels: list[torch.Tensor]) -> list[float]:
    return [level.std().item() / TRUTH for level in levels]


def test_a_study_has_the_ablations_with_their_seeds(results):
    folder, levels = results
    study = Study(folder)
    assert CELL in study
    assert ABLATED in study
    for cell in (CELL, ABLATED):
        assert study.values(cell, "level", "std_ratio") == pytest.approx(ratios(levels[cell]), rel=1e-6)
        assert study.mean(cell, "level", "std_ratio") == pytest.approx(sum(ratios(levels[cell])) / len(levels[cell]))
        assert study.interval(cell, "level", "std_ratio") == pytest.approx(interval(ratios(levels[cell])), rel=1e-6)
    for k in range(2):
        assert torch.equal(study.seed_samples[k][f"{ABLATED}/level"], levels[ABLATED][k])
        assert torch.equal(study.seed_samples[k][f"{CELL}/level"], levels[CELL][k])
    assert ABLATED not in study.seeds[2]
    assert f"{ABLATED}/level" not in study.seed_samples[2]
    assert study.pictures(ABLATED).shape == (4, 1, 32, 32)
    assert study.text(ABLATED, "n") == "40.000 [40.000, 40.000]"


def test_a_study_without_ablations_is_what_it_was(results):
    folder, levels = results
    (folder / "ablate").rename(folder / "elsewhere")
    study = Study(folder)
    assert ABLATED not in study
    assert study.values(CELL, "level", "std_ratio") == pytest.approx(ratios(levels[CELL]), rel=1e-6)
    with pytest.raises(KeyError, match=f"no cell '{ABLATED}'; there are {CELL}"):
        study.values(ABLATED, "level", "std_ratio")


def test_the_interval_of_one_ablated_seed_is_over_its_pictures(results):
    folder, levels = results
    (folder / "ablate/1").rename(folder / "elsewhere")
    study, (ratio,) = Study(folder), ratios(levels[ABLATED][:1])
    assert study.values(ABLATED, "level", "std_ratio") == pytest.approx([ratio])
    low, high = study.interval(ABLATED, "level", "std_ratio")
    assert low < ratio < high
    assert high - low == pytest.approx(2 * 1.96 * ratio / math.sqrt(2 * 39), rel=0.35)


def test_differences_of_ablations_are_paired_by_seed(results):
    folder, levels = results
    other = "no-rescale/trailing-ddim-5"
    more = []
    for k in range(2):
        more.append(evaluated(folder / "new", other, 20 + k))
        (measures, tensors), new = evaluation.load(folder / f"ablate/{k}"), evaluation.load(folder / "new")
        save_file(tensors | new[1], folder / f"ablate/{k}/samples.safetensors")
        (folder / f"ablate/{k}/measures.json").write_text(json.dumps(measures | new[0]))
    mean, (low, high) = Study(folder).difference(ABLATED, other, "level", "std_ratio")
    pairs = [a - b for a, b in zip(ratios(levels[ABLATED]), ratios(more), strict=True)]
    assert mean == pytest.approx(sum(pairs) / 2)
    assert (low, high) == pytest.approx(interval(pairs))
    with pytest.raises(ValueError, match=r"shorter|longer"):  # three seeds against two
        Study(folder).difference(CELL, other, "level", "std_ratio")


def test_an_ablation_that_was_not_finished_is_refused(results):
    folder, _ = results
    (folder / "ablate/1/measures.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no evaluation in .*ablate/1: `dvc repro --pull`"):
        Study(folder)
