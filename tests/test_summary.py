"""What DVC shows of the results: metrics, plots without a network, models by name; and the page that explains them."""

import csv
import json
import re
from functools import reduce
from pathlib import Path

import pytest
from dvc.repo import Repo
from dvc.stage import PipelineStage
from dvc_render import VegaRenderer
from ruamel.yaml import YAML

from lab.report import claims
from pipeline import summary

ROOT = Path(__file__).parents[1]
DVC = YAML(typ="safe").load(ROOT / "dvc.yaml")
PLOTS = {name: values for plot in DVC["plots"] for name, values in plot.items()}
GUIDE = (ROOT / "docs/experiments.md").read_text(encoding="utf-8")
FULL = ROOT / "results/full"


def models():
    """The path of each model by its name."""
    return {name: artifact["path"] for name, artifact in DVC["artifacts"].items()}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The summaries of both profiles, from the results of this checkout."""
    root = tmp_path_factory.mktemp("root")
    for profile in ("full", "smoke"):
        (root / "results" / profile).mkdir(parents=True)
        for folder in (ROOT / "results" / profile).iterdir():
            if folder.name != "summary":
                (root / "results" / profile / folder.name).symlink_to(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        summary.main("full")
        summary.main("smoke")
    return root


def test_metrics_are_the_numbers_that_findings_stored(written):
    paths = sorted((written / "results/full/summary/metrics").iterdir())
    shown = {path.stem: json.loads(path.read_text()) for path in paths}
    own = {path.parent.name: json.loads(path.read_text()) for path in FULL.glob("findings/*/metrics.json")}
    assert {*shown} == {path.stem for path in (ROOT / "notebooks/findings").glob("*.py")}
    assert {*own} == {*shown} - {*summary.METRICS, "15_audit", "16_text_to_image"}
    assert all(shown[finding] == numbers for finding, numbers in own.items())
    for finding, names in summary.METRICS.items():
        checks = {(c.id, c.what): c.value for c in claims.load(FULL / "findings" / finding / "claims.json")}
        assert shown[finding] == {name: checks[check] for name, check in names.items()}
    names = [name for values in shown.values() for name in values]
    assert len(names) == len(set(names)), "columns of one table"
    assert all(re.fullmatch(r"\w+", name) for name in names), "DVC takes a dot for a level"


def test_smoke_shows_losses_and_no_finding(written):
    files = [path.name for path in (written / "results/smoke/summary").rglob("*") if path.is_file()]
    assert sorted(files) == ["loss_edm.csv", "loss_text_to_image.csv", "loss_zsnr.csv", "training.json"]


def test_a_loss_is_the_last_of_its_curve(written):
    shown = json.loads((written / "results/full/summary/training.json").read_text())
    history = json.loads((FULL / "zsnr/finetune/zsnr/history.json").read_text())
    assert shown["finetune"]["zsnr"] == history["loss"][-1][1]
    with (written / "results/full/summary/loss_zsnr.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["curve"] == "zsnr"]
    assert [float(row["loss"]) for row in rows] == pytest.approx([y for _, y in history["loss"]], rel=1e-5)


def test_the_histogram_has_area_one(written):
    with (written / "results/full/summary/levels.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name in summary.LEVELS:
        area = sum(float(row["density"]) for row in rows if row["curve"] == name) * 2 / summary.BINS
        assert area == pytest.approx(1, rel=1e-4)


def test_a_check_that_was_renamed_is_named(monkeypatch):
    monkeypatch.setattr(summary, "METRICS", {"01_terminal_snr": {"x": ("Z-04", "beta_t")}})
    with pytest.raises(KeyError, match=r"01_terminal_snr.*has no number \('Z-04', 'beta_t'\): name another for x"):
        summary.metrics(FULL / "findings")


def test_a_finding_has_one_source_of_metrics(monkeypatch):
    written = sorted((FULL / "findings").glob("*/metrics.json"))[0].parent.name
    monkeypatch.setattr(summary, "METRICS", {written: {}})
    with pytest.raises(ValueError, match=f"{written} writes metrics.json and is in METRICS: take it out of one"):
        summary.metrics(FULL / "findings")


def test_a_training_that_has_not_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no zsnr/train/history\.json in .*make repro"):
        summary.trainings(tmp_path)


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_is_drawn_from_a_table_by_a_template(written, name):
    """Every curve by its own colour, every revision by its own dashes."""
    values = PLOTS[name]
    [(path, y)] = values["y"].items()
    with (written / path).open() as file:
        rows = [dict(row, rev="workspace") for row in csv.DictReader(file)]
    assert rows
    assert {values["x"], y} < rows[0].keys()
    renderer = VegaRenderer(
        rows, name, x=values["x"], y=y, template=values["template"], template_dir=str(ROOT / ".dvc/plots")
    )
    spec = renderer.get_filled_template()
    assert spec["encoding"]["color"]["field"] == "curve"
    assert spec["encoding"]["strokeDash"]["field"] == "rev"
    assert "<DVC" not in json.dumps(spec)


def test_the_page_of_plots_fetches_nothing():
    with Repo(str(ROOT)) as repo:
        page = ROOT / ".dvc" / repo.config["plots"]["html_template"]
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"<(?:script|link)[^>]*(?:src|href)=", text)
    assert "{plot_divs}" in text
    assert "{scripts}" not in text, "DVC puts its three addresses there"
    for library in ("vega=", "vegaLite=", "vegaEmbed="):
        assert f".{library}" in text or f".{library[:-1]}" in text


def test_metrics_and_models_are_outputs_of_stages():
    """All that is shown of a commit can be restored with it."""
    with Repo(str(ROOT)) as repo:
        outs = {str(out) for stage in repo.index.stages if isinstance(stage, PipelineStage) for out in stage.outs}
    assert models().keys() == {"base", "fixed", "edm"}
    for path in [*DVC["metrics"], *models().values(), *(path for plot in PLOTS.values() for path in plot["y"])]:
        assert any(Path(path).is_relative_to(out) for out in outs), path
    assert all((ROOT / path).is_file() for path in models().values())


def test_the_picture_of_the_pipeline_has_every_stage_and_its_arrows_are_dependencies():
    """From box to box, where a stage of the second reads what one of the first writes; stages by their names."""
    picture = re.search(r"```mermaid\n(.*?)```", GUIDE, re.S).group(1)
    boxes = {box: re.split(r",(?:<br>| )", names) for box, names in re.findall(r"(\w+)\[(.*?)\]", picture)}
    box_of = {name: box for box, names in boxes.items() for name in names}
    assert box_of.keys() == DVC["stages"].keys()
    with Repo(str(ROOT)) as repo:
        edges = [(a, b) for b, a in repo.index.graph.edges if isinstance(a, PipelineStage)]
    real = {tuple(box_of[stage.name.partition("@")[0]] for stage in edge) for edge in edges}
    drawn = re.findall(r"^ *(\w+)(?:\[.*?\])? --> (\w+)", picture, re.M)
    assert set(drawn) <= real
    assert {box for edge in drawn for box in edge} == boxes.keys()


def test_the_guide_is_short_and_names_what_there_is():
    assert len(GUIDE.splitlines()) <= 60
    [change] = re.findall(r"-S (smoke\S+)=", GUIDE)
    assert reduce(lambda tree, key: tree[key], change.split("."), YAML(typ="safe").load(ROOT / "params.yaml"))
    for path in re.findall(r" (results/\S+)", GUIDE):
        assert any(Path(path).is_relative_to(known) for known in [*DVC["metrics"], *models().values()]), path
