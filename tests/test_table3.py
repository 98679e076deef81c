"""What stage table3 judges by, and what finding 20 makes of it, on cases whose answer is known."""

import math

import numpy as np
import pytest
import torch
from garments import garments

from lab.measure import evaluation, metrics
from lab.measure.evaluation import REAL
from lab.measure.store import Results, Row
from lab.models import data
from lab.studies import table3, table3_judge
from lab.studies.table3_judge import ALL_FIXES, NO_FIXES, PHI_0, kinds, without
from zsnr.finetune.loop import generator

SCALES = (1.0, 2.0, 7.5)


def study(distance):
    """A study of three seeds whose distances are distance(kind, w, seed)."""
    rows = [Row({**evaluation.columns(REAL), "replica": seed}) for seed in range(3)]
    for seed in range(3):
        for w in SCALES:
            for kind in (NO_FIXES, ALL_FIXES):
                cell = kinds(w, 25)[kind]
                rows.append(Row({**evaluation.columns(cell), "replica": seed}, {"distance": distance(kind, w, seed)}))
    return table3.Table3(Results(rows, {"w": 2.0}))


def test_the_second_head_learns_the_level():
    pictures = garments()
    network = table3_judge.train(pictures, images=32 * 250, batch=32)
    x, conditions = pictures.draw(300, generator(5))
    right = table3_judge.accuracy(network, x, conditions[:, 0])
    assert right["class"] > 0.9
    assert right["level"] > 0.5  # chance is a tenth
    index, level = torch.arange(300) % 40, 2 * torch.rand(300, generator=generator(6)) - 1
    truth = table3_judge.moments(table3_judge.features(network, x))
    near, narrow = (
        table3_judge.frechet(table3_judge.features(network, pictures.compose(index, k * level)), truth)
        for k in (1.0, 0.5)
    )
    assert narrow > 3 * near


def test_levels_fall_in_tenths():
    x = torch.tensor([-1.0, -0.81, -0.79, 0.01, 0.99, 1.3]).view(-1, 1, 1, 1).expand(-1, 1, 32, 32)
    assert table3_judge.bins(x).tolist() == [0, 0, 1, 5, 9, 9]


def test_the_distance_is_the_one_of_torchmetrics():
    torch.manual_seed(0)
    network, pictures = metrics.Classifier(), garments()
    real, other = pictures.draw(100, generator(1))[0], pictures.draw(80, generator(2))[0] * 0.5
    truth = table3_judge.moments(table3_judge.features(network, real))
    ours = table3_judge.frechet(table3_judge.features(network, other), truth)
    assert ours == pytest.approx(metrics.Frechet(network, real)(other), rel=1e-3)


def test_the_shared_scale_favours_neither_and_is_guided():
    distances = {
        NO_FIXES: {1.0: 0.0, 2.0: 5.0, 3.0: 1.0, 7.5: 9.0},
        ALL_FIXES: {1.0: 0.0, 2.0: 1.0, 3.0: 4.0, 7.5: 1.0},
    }
    assert table3_judge.shared(distances) == 3.0  # no fixes alone say 3, all fixes 2
    distances[NO_FIXES][2.0] = 3.5
    assert table3_judge.shared(distances) == 2.0


def test_a_seed_does_not_choose_its_own_scale():
    distances = {1.0: [0.0, 3.0, 3.0], 2.0: [2.0, 2.0, 2.0]}
    assert [table3.held_out(distances, seed) for seed in range(3)] == [2.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="one seed leaves no other"):
        table3.held_out({1.0: [0.0]}, 0)


def test_a_gain_is_paired_by_seed_each_kind_at_its_own_scale():
    """Seeds differ by far more than kinds, yet their interval does not see it."""
    least = {NO_FIXES: 1.0, ALL_FIXES: 7.5}
    seen = study(lambda kind, w, seed: 100 * seed + 5 * (w != least[kind]) + (3 + 0.1 * seed) * (kind == NO_FIXES))
    assert seen.chosen(NO_FIXES) == [1.0] * 3
    assert seen.chosen(ALL_FIXES) == [7.5] * 3
    value, (low, high) = seen.gain("Frechet distance, class and level")
    assert value == pytest.approx(3.1)
    assert (low, high) == pytest.approx(metrics.interval([3.0, 3.1, 3.2]))
    assert seen.gain("Frechet distance, class and level", 7.5)[0] == pytest.approx(8.1)
    assert seen.lost("all four", "Frechet distance, class and level")[0] == pytest.approx(3.1)
    assert math.isnan(table3.over([1.0])[1][0])


def test_what_is_left_out_is_one_fix():
    whole, left = kinds(2.0, 25)[ALL_FIXES], without(2.0, 25)
    assert (left["Algorithm 1"].model, left["trailing steps"].spacing) == ("no-rescale", "leading")
    assert left["rescaled guidance"] == whole.but(phi=0.0) == kinds(2.0, 25)[PHI_0]
    assert left["$v$ ($x_0$ in its place)"].space == "x0"
    assert left["all four"] == evaluation.Cell("control", "leading", nfe=25, w=2.0)
    assert kinds(1.0, 25)[ALL_FIXES].phi == 0


def test_excess_is_against_real_pictures_with_both_errors():
    contrast = torch.linspace(0.4, 0.6, 50)
    cell = kinds(7.5, 25)[PHI_0].but(phi=1.0, part="figure6")
    rows = [Row({**evaluation.columns(REAL), "replica": 0}, {}, {"contrast": contrast + 0.1})]
    for phi in (0.0, 0.25, 1.0):
        drawn = contrast + 0.15 - 0.2 * phi
        about = {**evaluation.columns(cell.but(phi=phi)), "replica": 0}
        rows.append(Row(about, {"contrast": drawn.mean().item()}, {"contrast": drawn}))
    seen = table3.Table3(Results(rows, {"w": 2.0}))
    value, (low, high) = seen.excess("contrast", 1.0)
    assert value == pytest.approx(-0.15, abs=1e-6)
    ends = metrics.interval(contrast.tolist())
    assert high - low == pytest.approx(np.sqrt(2) * (ends[1] - ends[0]), rel=1e-4)
    assert seen.nearest("contrast") == 0.25


def test_guidance_is_held_against_the_same_noises_without_it():
    cells = {1.0: kinds(1.0, 25)[ALL_FIXES], 7.5: kinds(7.5, 25)[PHI_0].but(part="figure6")}
    share = torch.linspace(0, 0.5, 30)  # the table draws more pictures than the figure
    given = {1.0: torch.cat([share, torch.ones(9)]), 7.5: share + 0.1 + 0.01 * (torch.arange(30) % 2)}
    rows = [Row({**evaluation.columns(cells[w]), "replica": 0}, {}, {"saturated": given[w]}) for w in cells]
    value, (low, high) = table3.Table3(Results(rows, {"w": 2.0})).by_guidance("saturated", 0.0)
    assert value == pytest.approx(0.105, abs=1e-6)
    assert 0.1 < low < high < 0.11  # shares vary by far more than their differences


def test_a_judge_of_levels_is_the_data_s_own_level():
    """The bins are of what every stage measures: the mean of the frame."""
    x, _ = garments().draw(64, generator(3))
    assert ((table3_judge.bins(x) + 0.5) / 5 - 1 - data.level(x)).abs().max() <= 0.1 + 1e-6
