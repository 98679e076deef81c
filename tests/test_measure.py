"""What guidance does to a picture, in closed form; pictures drawn on request, kept, and read again by seed."""

import dataclasses
import math

import pytest
import torch
from interrupted import seeded
from torch import nn

from lab.measure import evaluation, saturation, store
from lab.measure.evaluation import Cell, draw_cell
from lab.measure.metrics import interval
from lab.measure.store import Row
from lab.measure.study import Study, cell_of
from lab.models import data
from lab.models.network import ConditionalUNet
from lab.models.variants import ABLATIONS, VARIANTS, find
from zsnr.denoisers import NetworkDenoiser
from zsnr.guidance import guided
from zsnr.noise import generators, randn
from zsnr.samplers import SAMPLERS

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
    x = seeded(4, 3, 8, 8)  # it grows with a picture, and does not see its level
    torch.testing.assert_close(saturation.contrast(2 * x + 1), 2 * x.flatten(1).std(1))


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


@pytest.mark.parametrize("kept", [0, 2, 99])
@pytest.mark.parametrize("classifier", [None, Corners()], ids=["levels", "all"])
def test_a_row_of_a_cell_is_saved_and_loaded(kept, classifier, tmp_path):
    x, cell, axes = seeded(5, 1, 32, 32), Cell("zsnr", "trailing", nfe=25, w=7.5), seeded(4, 6).T
    row = evaluation.row(cell, x, {"n": 5}, replica=2, kept=kept, classifier=classifier, axes=axes)
    store.save(tmp_path / "new/folder", [row], {"steps": [0, 999]})
    again = store.load(tmp_path / "new/folder")
    (found,) = again
    assert again.facts == {"steps": [0, 999]}
    assert found["n"] == 5
    assert cell_of(found) == cell
    assert again.one(model="zsnr", replica=2, w=7.5) is found
    single = (
        saturation.per_picture(x, classifier) if classifier else {"level": data.level(x), "mean": x.mean((1, 2, 3))}
    )
    expected = {**single, "axes": axes, "pictures": x[:kept].clamp(-1, 1)}
    assert found.tensors.keys() == expected.keys()
    for name, value in expected.items():
        rounding = 0.5 / 127.5 + 2**-11 if name == "pictures" else 0  # to a byte, from half precision
        torch.testing.assert_close(found.tensors[name], value, atol=rounding, rtol=0)


def test_the_store_finds_rows_by_columns_and_says_what_there_is(tmp_path):
    rows = [Row({"model": m, "n": n}, {"value": m + str(n)}, {"x": torch.full((2,), n)}) for m in "ab" for n in (1, 2)]
    for folder in ("one", "two"):
        store.save(tmp_path / folder, rows[:3] if folder == "one" else rows[3:], {"of": folder})
    found = store.load(tmp_path / "one", tmp_path / "two")
    assert [row["value"] for row in found] == ["a1", "a2", "b1", "b2"]
    assert [row["value"] for row in found.where(model="b")] == ["b1", "b2"]
    assert found.one(model="b", n=2).tensors["x"].tolist() == [2, 2]
    assert found.values("model") == ["a", "b"]
    assert found.facts == {"of": "one"}
    with pytest.raises(KeyError, match="no column sampler; there are model, n"):
        found.where(sampler="ddim")
    with pytest.raises(
        LookupError, match=r"2 rows with \{'n': 1\} in place of one, among: \{'model': 'a', 'n': 1\}; \{'mod"
    ):
        found.one(n=1)
    with pytest.raises(LookupError, match="0 rows"):
        found.one(model="c")
    with pytest.raises(KeyError, match="no 'level' in a row of value, model, n"):
        found.rows[0]["level"]
    with pytest.raises(FileNotFoundError, match="dvc repro --pull"):
        store.load(tmp_path / "three")
    before = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    store.save(tmp_path / "one", rows[:3], {"of": "one"})
    assert {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()} == before


# pictures on request


@pytest.fixture(scope="module")
def unet() -> ConditionalUNet:
    """A tiny network whose answer depends on everything; a new one would answer 0.

    32 wide: with 16, each channel is a group of its own to the norms, which take out all that the condition adds.
    """
    torch.manual_seed(0)
    net = ConditionalUNet(widths=(32,))
    for name, parameter in net.named_parameters():
        if "conv_out" in name or "head" in name:
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
DDIM, HEUN = Cell("zsnr", "trailing", nfe=3), Cell("zsnr", "trailing", "heun", 5)


def by_hand(unet, cell, seeds, start=None) -> torch.Tensor:
    """As `draw_cell`, in one batch and in as many words as it takes."""
    kind, device = find(cell.model), next(unet.parameters()).device
    angles = cell.grid()
    angles = angles[round((1 - cell.strength) * (len(angles) - 1)) :]
    word = data.WORDS.index(cell.prompt) if cell.prompt else 5

    def asked(conditions):
        labels = torch.tensor(conditions, device=device)
        return NetworkDenoiser(unet, kind.schedule, kind.prediction, class_labels=labels)

    denoiser = asked([[seed % 10, word] for seed in seeds])
    if cell.w != 1:
        denoiser = guided(denoiser, asked([NOTHING for _ in seeds]), cell.w, cell.phi, cell.space)
    own = generators(seeds)
    noise = randn((len(seeds), 1, 32, 32), own, device=device)
    if cell.start == "offset":
        noise += 0.1 * randn((len(seeds), 1, 1, 1), own, device=device)
    return SAMPLERS[cell.sampler](denoiser, noise if start is None else start.to(noise), angles).cpu()


CELLS = {
    "base": Cell("base", "leading", nfe=3),
    "offset": Cell("offset", "leading", nfe=3, start="offset"),
    "zsnr": HEUN,
    "x0": DDIM.but(model="x0"),
    "no-rescale": DDIM.but(model="no-rescale"),
}
every_cell = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)


@every_cell
def test_the_plain_cell_is_without_word_guidance_or_start(cell, unet, calls):
    x = draw_cell(unet, cell, 3, "float32", 8)
    assert x.shape == (3, 1, 32, 32)
    assert [conditions for _, conditions in calls] == [[[8, 5], [9, 5], [0, 5]]] * cell.nfe
    assert torch.equal(x, by_hand(unet, cell, [8, 9, 10]))
    assert x.isfinite().all()
    assert x.std() > 0.1


@pytest.mark.parametrize("word", [0, 4])
def test_a_word_is_said_beside_the_class(word, unet, calls):
    cell = DDIM.but(prompt=data.WORDS[word])
    x = draw_cell(unet, cell, 2, "float32")
    assert [conditions for _, conditions in calls] == [[[0, word], [1, word]]] * 3
    assert torch.equal(x, by_hand(unet, cell, [0, 1]))
    assert not torch.allclose(x, draw_cell(unet, DDIM, 2, "float32"), atol=1e-3)


@pytest.mark.parametrize(
    ("variant", "space"), [("base", "v"), ("base", "eps"), ("offset", "x0"), ("zsnr", "v"), ("x0", "x0"), ("x0", "eps")]
)
def test_guidance_is_against_no_condition_at_all(variant, space, unet, calls):
    plain = CELLS[variant].but(prompt="dark")
    cell = plain.but(w=7.5, phi=0.7, space=space)
    x = draw_cell(unet, cell, 2, "float32", 4)
    assert [c for _, c in calls] == [[[4, 1], [5, 1]], [NOTHING, NOTHING]] * cell.nfe
    assert torch.equal(x, by_hand(unet, cell, [4, 5]))
    assert x.isfinite().all()
    assert not torch.allclose(x, draw_cell(unet, plain, 2, "float32", 4), atol=1e-2)


@every_cell
def test_guidance_of_scale_1_is_none_and_costs_none(cell, unet, calls):
    one = draw_cell(unet, cell.but(w=1.0, phi=0.7), 2, "float32")
    assert len(calls) == cell.nfe
    assert torch.equal(one, draw_cell(unet, cell, 2, "float32"))


@pytest.mark.parametrize("guidance", [{}, {"w": 3.0, "phi": 0.7, "space": "eps"}], ids=["plain", "guided"])
@pytest.mark.parametrize("variant", ["offset", "x0"])
def test_a_picture_does_not_depend_on_how_a_set_is_split(variant, guidance, unet):
    cell = CELLS[variant].but(prompt="light", **guidance)
    whole = draw_cell(unet, cell, 4, "float32", 7)
    parts = [draw_cell(unet, cell, n, "float32", first) for first, n in ((7, 3), (10, 1))]
    torch.testing.assert_close(whole, torch.cat(parts), rtol=1e-4, atol=1e-4)


def test_nor_on_the_batches_that_draw_takes(unet, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    starts = []

    def start(noise, seeds, own, phi):
        starts.append((len(noise), seeds, len(own), phi))
        return noise

    one = DDIM.but(nfe=1)
    whole = draw_cell(unet.cpu(), one, 66, "float32", 3, start=start)
    assert starts == [(64, range(3, 67), 64, math.pi / 2), (2, range(67, 69), 2, math.pi / 2)]
    torch.testing.assert_close(whole[64:], draw_cell(unet, one, 2, "float32", 67), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("left", [3, 2, 1])
@pytest.mark.parametrize("cell", [DDIM, HEUN], ids=["ddim", "heun"])
def test_a_start_replaces_the_noise_at_the_first_angle_that_is_left(cell, left, unet):
    picture, seen = seeded(2, 1, 32, 32, seed=5), []
    cell = cell.but(strength=left / 3)

    def start(noise, seeds, own, phi):
        seen.append((noise.clone().cpu(), seeds, phi))
        return picture.to(noise)

    x = draw_cell(unet, cell, 2, "float32", 6, start=start)
    ((noise, seeds, phi),) = seen
    assert torch.equal(noise, randn((2, 1, 32, 32), generators([6, 7])))
    assert (seeds, phi) == (range(6, 8), cell.grid()[3 - left].item())
    assert torch.equal(x, by_hand(unet, cell, [6, 7], start=picture))
    same = draw_cell(unet, cell, 2, "float32", 6, start=lambda noise, *_: noise)
    assert torch.equal(same, draw_cell(unet, cell, 2, "float32", 6))
    assert not torch.allclose(same, x, atol=1e-2)


def test_a_start_that_is_a_noised_picture_comes_back_from_a_perfect_network():
    """An image-to-image start of small noise keeps the picture; none of it is left of one at zero SNR."""
    y = 0.5 * seeded(2, 1, 32, 32, seed=5).clamp(-1, 1)

    class Perfect(nn.Module):
        config = ConditionalUNet(widths=(16,)).config

        def forward(self, x, step, class_labels):
            return y.to(x)  # an x0 prediction

    seen = []

    def start(noise, seeds, own, phi):
        seen.append(phi)
        return math.cos(phi) * y.to(noise) + math.sin(phi) * noise

    for strength in (1.0, 0.4, 0.1):
        cell = Cell("x0", "trailing", nfe=10, strength=strength)
        x = draw_cell(Perfect(), cell, 2, "float32", start=start)
        torch.testing.assert_close(x, y, rtol=0, atol=1e-5)
    assert seen == sorted(seen, reverse=True)
    assert seen[0] == math.pi / 2


@pytest.mark.parametrize(("sampler", "nfe", "after"), [("ddim", 4, [4, 2, 1]), ("heun", 7, [7, 3, 1])])
def test_skipped_steps_are_not_evaluated(sampler, nfe, after, unet, calls):
    counted = []
    for skip in (0, 2, 3):
        cell = Cell("zsnr", "trailing", sampler, nfe, strength=1 - skip / 4)
        calls.clear()
        draw_cell(unet, cell, 1, "float32")
        counted.append(len(calls))
        assert calls[0][0] == pytest.approx(999 - 250 * skip), "the first step that is left"
        calls.clear()
        draw_cell(unet, cell.but(w=2.0), 1, "float32")
        assert len(calls) == 2 * counted[-1]
    assert counted == after


def test_there_must_be_a_step_left(unet, calls):
    with pytest.raises(ValueError, match="at least one step"):
        draw_cell(unet, DDIM.but(strength=0.0), 1, "float32")
    assert not calls


def test_bfloat16_reaches_both_branches(unet, monkeypatch):
    monkeypatch.setattr("zsnr.finetune.recipe.native_bf16", lambda device: True)
    cell = DDIM.but(prompt="dark", w=3.0, phi=0.7)
    exact, rough = (draw_cell(unet, cell, 2, p) for p in ("float32", "auto"))
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


CELL, ABLATED = Cell("zsnr", "trailing", nfe=5), Cell("x0", "trailing", nfe=5)
TRUTH = 0.5


def evaluated(cell: Cell, replica: int, seed: int) -> Row:
    """What a stage leaves of one cell."""
    x = 0.3 * seeded(40, 1, 32, 32, seed=seed) + seeded(40, 1, 1, 1, seed=seed + 100)
    level = data.level(x)
    found = {"std": level.std().item(), "std_ratio": level.std().item() / TRUTH}
    measures = {"level": found | {"mean": level.mean().item(), "bias": level.mean().item() - 0.1}, "n": 40}
    return evaluation.row(cell, x, measures, replica=replica, kept=4)


@pytest.fixture
def results(tmp_path):
    """Three seeds, the first two of which were ablated; the levels of each, by cell."""
    rows = {CELL: [evaluated(CELL, k, k) for k in range(3)], ABLATED: [evaluated(ABLATED, k, 10 + k) for k in range(2)]}
    for cell, stage in ((CELL, "evaluate"), (ABLATED, "evaluate_ablations")):
        for k, row in enumerate(rows[cell]):
            store.save(tmp_path / stage / str(k), [row])
    return tmp_path, {cell: [row.tensors["level"] for row in found] for cell, found in rows.items()}


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
        assert all(map(torch.equal, study.samples(cell, "level"), levels[cell]))
        assert [row["replica"] for row in study.of(cell)] == list(range(len(levels[cell])))
    assert study.seeds == [0, 1, 2]
    assert study.cells(model="x0") == [ABLATED]
    assert study.pictures(ABLATED).shape == (4, 1, 32, 32)
    assert study.text(ABLATED, "n") == "40.000 [40.000, 40.000]"


def test_a_study_without_ablations_is_what_it_was(results):
    folder, levels = results
    (folder / "evaluate_ablations").rename(folder / "elsewhere")
    study = Study(folder)
    assert ABLATED not in study
    assert study.values(CELL, "level", "std_ratio") == pytest.approx(ratios(levels[CELL]), rel=1e-6)
    with pytest.raises(KeyError, match=f"no cell {ABLATED}; there are {CELL}"):
        study.values(ABLATED, "level", "std_ratio")


def test_the_interval_of_one_ablated_seed_is_over_its_pictures(results):
    folder, levels = results
    (folder / "evaluate_ablations/1").rename(folder / "elsewhere")
    study, (ratio,) = Study(folder), ratios(levels[ABLATED][:1])
    assert study.values(ABLATED, "level", "std_ratio") == pytest.approx([ratio])
    low, high = study.interval(ABLATED, "level", "std_ratio")
    assert low < ratio < high
    assert high - low == pytest.approx(2 * 1.96 * ratio / math.sqrt(2 * 39), rel=0.35)


def test_differences_of_ablations_are_paired_by_seed(results):
    folder, levels = results
    other, more = ABLATED.but(model="no-rescale"), []
    for k in range(2):
        new = evaluated(other, k, 20 + k)
        more.append(new.tensors["level"])
        store.save(folder / f"evaluate_ablations/{k}", [*store.load(folder / f"evaluate_ablations/{k}"), new])
    mean, (low, high) = Study(folder).difference(ABLATED, other, "level", "std_ratio")
    pairs = [a - b for a, b in zip(ratios(levels[ABLATED]), ratios(more), strict=True)]
    assert mean == pytest.approx(sum(pairs) / 2)
    assert (low, high) == pytest.approx(interval(pairs))
    with pytest.raises(ValueError, match=r"shorter|longer"):  # three seeds against two
        Study(folder).difference(CELL, other, "level", "std_ratio")


def test_an_ablation_that_was_not_finished_is_refused(results):
    folder, _ = results
    (folder / "evaluate_ablations/1/rows.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match="dvc repro"):
        Study(folder)
