"""What the explorer computes, and its widgets without a browser (that is test_explorer_browser)."""

import dataclasses
import time
from itertools import product

import numpy as np
import pytest
import torch

import zsnr
from lab.models import data
from lab.models.network import ConditionalUNet
from lab.studies import explorer, explorer_figure, explorer_widgets
from lab.studies.explorer import Settings
from zsnr.prediction import EPS_AT_ZERO_SNR

EXACT = ("exact denoiser", "exact mixture")
OTHER = {"rho": 3.0, "sigma_max": 20.0, "S_churn": 0.5, "schedule": "cosine", "prompt": "white", "w": 3.0, "phi": 0.5}
"""Another value than the default of each choice that may be unused."""


@pytest.fixture
def few(monkeypatch):
    """Twelve pictures of each model."""
    for name in explorer.MODELS:
        monkeypatch.setitem(explorer.MODELS, name, explorer.COMPARED)


@pytest.fixture
def untrained(monkeypatch, few):
    """Networks that predict 0, in place of the stored ones."""
    net = ConditionalUNet(widths=(8,)).eval()
    monkeypatch.setattr(explorer, "_network", lambda variant: net)


@pytest.mark.parametrize("model", EXACT)
def test_every_combination_is_drawn_or_refused_by_a_sentence(few, model):
    refused = {}
    for spacing, solver, schedule in product(explorer.GRIDS, explorer.SOLVERS, explorer.SCHEDULES):
        settings = Settings(model=model, spacing=spacing, solver=solver, schedule=schedule, steps=4)
        if "schedule" not in settings.used() and schedule != "linear":
            continue
        try:
            drawn = explorer.draw(settings)
        except ValueError as error:
            refused[spacing, solver] = str(error)
            continue
        assert drawn.pictures.isfinite().all()
        assert drawn.evaluations == (7 if solver in ("heun", "churn") else 4)
        assert len(drawn.path) == len(drawn.visited) == 5
        assert (drawn.error is None) == (solver in explorer.RANDOM)
    # the library's bound on what a step of the SDE may add
    assert {solver for _, solver in refused} <= {"euler_maruyama"}
    assert all("euler_maruyama" in text or "rate" in text for text in refused.values()), refused


BASES = [
    Settings(steps=4),
    Settings(steps=4, spacing="power"),
    Settings(steps=4, spacing="karras", solver="churn"),
    Settings(steps=4, prompt="black"),
    Settings(steps=4, prompt="black", w=2.0),
    Settings(steps=4, model="exact mixture"),
]


@pytest.mark.parametrize("base", BASES, ids=str)
def test_what_is_disabled_makes_no_difference_and_the_rest_does(few, base):
    before = explorer.draw(base)
    for name, value in OTHER.items():
        after = explorer.draw(dataclasses.replace(base, **{name: value}))
        same = torch.equal(before.pictures, after.pictures) and before.truth.mean == after.truth.mean
        assert same == (name not in base.used()), name


def test_the_solution_that_errors_are_counted_from_has_converged(few):
    for model in EXACT:
        finer = explorer.denoiser(Settings(model=model), 12)
        heun = zsnr.heun(finer, explorer.start(Settings(model=model), 12)[0], zsnr.power(800))
        assert (heun - explorer._converged(model, "none", 1.0, 0.0)).abs().max() < 5e-3


def test_the_flaw_and_the_fix():
    flawed = explorer.draw(Settings())
    fixed = explorer.draw(Settings(schedule="rescaled to zero SNR", spacing="trailing"))
    assert flawed.std_ratio[0] + flawed.std_ratio[1] < fixed.std_ratio[0]
    assert flawed.error > 1.5 * fixed.error
    assert "25 evaluations" in explorer_figure.headline(flawed)
    assert f"{flawed.std_ratio[0]:.2f}" in explorer_figure.headline(flawed)


def test_the_interval_of_the_spread_covers_the_truth():
    """Of 200 sets of 96 levels, about 95 % do; by chance fewer than 90 % in one of 300 such tests."""
    drawn = explorer.draw(Settings(steps=2))
    g, inside = torch.Generator().manual_seed(0), 0
    for _ in range(200):
        level = 2 * torch.rand(96, 1, 1, 1, generator=g) - 1
        ratio, half = dataclasses.replace(drawn, pictures=level.expand(-1, 1, 32, 32)).std_ratio
        inside += abs(ratio - 1) < half
    assert 180 <= inside < 200


def test_the_truth_of_each_model():
    for prompt in explorer.PROMPTS:
        truth, (low, high) = explorer.truth(Settings(prompt=prompt)), explorer.bounds(prompt)
        assert low <= truth.mean <= high
        if prompt != "none":
            assert data.WORDS[int(data.word(torch.tensor(truth.mean)))] == prompt
    mixture = explorer.truth(Settings(model="exact mixture"))
    step = mixture.level[1] - mixture.level[0]
    assert mixture.density.sum() * step == pytest.approx(1, abs=1e-3)
    mean = (mixture.level * mixture.density).sum() * step
    assert mean == pytest.approx(mixture.mean, abs=1e-3)
    assert np.sqrt((mixture.level**2 * mixture.density).sum() * step - mean**2) == pytest.approx(mixture.std, abs=1e-2)


def test_25_evaluations_of_the_exact_denoiser_are_drawn_in_half_a_second():
    """Of processor time: what else runs on the machine does not count. The first drawing loads data and fonts."""
    spent = []
    for k in range(4):
        begin = time.process_time()
        explorer_figure.png(explorer_figure.figure(explorer.draw(Settings(spacing="trailing", steps=25, w=1 + k))))
        spent.append(time.process_time() - begin)
    assert min(spent[1:]) < 0.5


ONE_PIXEL = Settings(model="exact mixture")
NETWORK = Settings(model="fixed network", steps=1, schedule="rescaled to zero SNR", spacing="power")


@pytest.mark.parametrize("settings", [ONE_PIXEL, NETWORK], ids=lambda settings: settings.model)
def test_the_figure_has_all_its_parts(untrained, settings):
    fig = explorer_figure.figure(explorer.draw(settings))
    titles = {ax.get_title() or ax.get_title("left") for ax in fig.axes}
    assert {"spread of the levels", "one pixel of the backdrop, picture by picture", "drawn"} <= titles
    assert any(title.startswith(f"noise levels, {settings.steps} steps") for title in titles)
    assert len(fig.axes) == (5 if settings.model in EXACT else 4)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"unknown solver 'dim'; choose one of ddim, euler"):
        Settings(solver="dim")


# --- the widgets


@pytest.fixture
def app(untrained):
    return explorer_widgets.Explorer(Settings(steps=3))


def chosen(app, **values):
    for name, value in values.items():
        app.controls[name].value = value


def test_a_change_is_drawn_at_once(app):
    before = app.image.value
    assert "3 evaluations" in app.headline.value
    chosen(app, steps=5)
    assert "5 evaluations" in app.headline.value
    assert app.image.value != before
    assert not app.notes.value


def test_what_does_not_apply_is_disabled(app):
    def disabled():
        return {name for name, control in app.controls.items() if control.disabled}

    assert disabled() == {"rho", "sigma_max", "S_churn", "w", "phi"}
    chosen(app, spacing="karras", solver="churn", prompt="black", w=2.0)
    assert disabled() == {"schedule"}
    chosen(app, model="exact mixture")
    assert disabled() == {"schedule", "prompt", "w", "phi"}


def test_a_network_brings_its_schedule_and_the_library_refuses_another(app):
    chosen(app, schedule="rescaled to zero SNR", model="flawed network")
    assert app.controls["schedule"].value == "Stable Diffusion"
    assert app.image.layout.display is None
    assert not app.controls["steps"].continuous_update

    chosen(app, schedule="rescaled to zero SNR")
    assert EPS_AT_ZERO_SNR in app.notes.value
    assert app.image.layout.display == "none"

    chosen(app, schedule="Stable Diffusion", spacing="power")  # from noise that it never saw
    assert "start the grid at or below it" in app.notes.value
    chosen(app, model="exact denoiser")
    assert app.image.layout.display is None
    assert not app.notes.value


def test_leading_steps_of_a_zero_snr_schedule_are_drawn_with_the_librarys_warning(app):
    chosen(app, schedule="rescaled to zero SNR")
    assert "use spacing='trailing'" in app.notes.value.replace("&#x27;", "'")
    assert app.image.layout.display is None


def test_results_that_are_not_there_are_named_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(explorer, "RESULTS", tmp_path)
    explorer._network.cache_clear()
    app = explorer_widgets.Explorer(Settings(model="fixed network", schedule="rescaled to zero SNR"))
    assert "`dvc repro --pull` restores or trains them" in app.notes.value
    assert app.image.layout.display == "none"


def test_what_is_displayed_has_a_picture_where_no_kernel_runs(monkeypatch):
    shown = []
    monkeypatch.setattr(explorer_widgets, "display", lambda bundle, raw: shown.append((bundle, raw)))
    explorer_widgets.show(steps=2)
    bundle, raw = shown[0]
    assert raw
    assert {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"} <= set(bundle)
    assert "JupyterLab" in bundle["text/plain"]
