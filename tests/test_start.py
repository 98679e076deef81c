"""The first notebook: short, and whole without the stored results."""

from pathlib import Path

import jupytext
import matplotlib.pyplot as plt
import pytest
import torch

import zsnr
from lab.studies import start

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "notebooks/00_start_here.py"
NOTEBOOK = jupytext.read(SOURCE)
TABLES = {
    "flawed": (zsnr.schedule.stable_diffusion(), "control"),
    "fixed": (zsnr.rescale_zero_terminal_snr(zsnr.schedule.stable_diffusion()), "zsnr"),
}


@pytest.fixture(autouse=True)
def _figures():
    plt.switch_backend("agg")
    yield
    plt.close("all")


def test_it_is_short_and_tells_as_much_as_it_computes():
    code = [cell.source for cell in NOTEBOOK.cells if cell.cell_type == "code"]
    text = [cell.source for cell in NOTEBOOK.cells if cell.cell_type == "markdown"]
    assert len(NOTEBOOK.cells) <= 15
    assert all(2 <= len(cell.splitlines()) <= 15 for cell in code), [len(cell.splitlines()) for cell in code]
    assert 3 * len(" ".join(text).split()) >= len(" ".join(code).split())


def test_it_comes_first_in_the_folder():
    names = sorted(path.name for path in SOURCE.parent.iterdir() if path.is_file())
    assert names[:2] == ["00_start_here.ipynb", "00_start_here.py"]


def displayed(monkeypatch, **parameters):
    """The texts that the notebook displays, run with other parameters."""
    texts = []
    monkeypatch.setattr("IPython.display.display", lambda shown: texts.append(shown.data))
    names = {}
    for cell in (cell for cell in NOTEBOOK.cells if cell.cell_type == "code"):
        exec(compile(cell.source, SOURCE.name, "exec"), names)
        if "parameters" in cell.metadata.get("tags", []):
            names |= parameters
    return texts


def test_without_the_stored_results_it_says_so_in_one_line_and_shows_the_rest(monkeypatch):
    *rest, last = displayed(monkeypatch, results="nowhere")
    assert last.startswith("The networks' half is left out: no results in")
    assert "`dvc repro --pull`" in last
    assert len(last.splitlines()) == 1
    assert len(rest) == 4
    assert any("eps-prediction with zero terminal SNR" in text for text in rest)


def means(ax):
    """The middle of each histogram, by its label."""
    return {
        label: float((patch.get_xy()[:, 0] * patch.get_xy()[:, 1]).sum() / patch.get_xy()[:, 1].sum())
        for patch, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }


def test_the_last_step_shows_the_backdrop_by_the_flawed_schedule_only():
    _, flawed, fixed = start.last_step(TABLES, start.garments(ROOT / "data/fashion-mnist")).axes
    left = TABLES["flawed"][0].sqrt_alpha_bar[-1].item()
    found = means(flawed)
    assert found["white"] == pytest.approx(left, abs=0.005)
    assert found["black"] == pytest.approx(-left, abs=0.005)
    assert found["noise"] == pytest.approx(0, abs=0.005)
    assert list(means(fixed).values()) == pytest.approx([0, 0, 0], abs=0.005)


def test_a_word_is_a_fifth_of_the_levels():
    images = start.garments(ROOT / "data/fashion-mnist")
    for word, level in (("black", -0.8), ("white", 0.8)):
        mean = -start.exact_denoiser(images, word)(start.noise(1), torch.pi / 2)
        assert mean[0, 0, 0, 0].item() == pytest.approx(level, abs=1e-6)
    assert -start.exact_denoiser(images)(start.noise(1), torch.pi / 2)[0, 0, 0, 0].item() == pytest.approx(0, abs=1e-6)
