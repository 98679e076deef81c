"""The explorer's widgets: every change draws at once. A choice that cannot work shows the library's own sentence."""

from __future__ import annotations

import base64
import time
from typing import Any

import ipywidgets as widgets
from IPython.display import display

from lab.models.variants import find
from lab.studies.explorer import GRIDS, MODELS, NETWORKS, PROMPTS, SCHEDULES, SOLVERS, Settings, draw
from lab.studies.explorer_figure import figure, headline, png

WIDE = widgets.Layout(width="290px")
NARROW = {"description_width": "84px"}


def controls(settings: Settings) -> dict[str, Any]:
    """A widget for each field of the settings, by its name."""

    def choice(name: str, options: Any) -> widgets.Dropdown:
        return widgets.Dropdown(options=list(options), value=getattr(settings, name))

    def slider(kind: type, name: str, low: float, high: float, step: float, **more: Any) -> Any:
        return kind(value=getattr(settings, name), min=low, max=high, step=step, **more)

    made = {
        "model": choice("model", MODELS),
        "prompt": choice("prompt", PROMPTS),
        "w": slider(widgets.FloatSlider, "w", 1, 10, 0.5),
        "phi": slider(widgets.FloatSlider, "phi", 0, 1, 0.1),
        "schedule": choice("schedule", SCHEDULES),
        "spacing": choice("spacing", GRIDS),
        "steps": slider(widgets.IntSlider, "steps", 1, 60, 1),
        "rho": slider(widgets.FloatSlider, "rho", 1, 12, 0.5),
        "sigma_max": widgets.FloatLogSlider(value=settings.sigma_max, min=0, max=3, step=0.1),
        "solver": choice("solver", SOLVERS),
        "S_churn": slider(widgets.FloatSlider, "S_churn", 0, 40, 1),
    }
    for name, control in made.items():
        control.description, control.layout, control.style = name, WIDE, NARROW
    return made


class Explorer(widgets.HBox):
    """Controls on the left, what they lead to on the right: a headline, and the figure or the library's refusal."""

    def __init__(self, settings: Settings) -> None:
        self.controls = controls(settings)
        self.headline, self.notes, self.image = widgets.HTML(), widgets.HTML(), widgets.Image(format="png")
        for widget, name in ((self.headline, "headline"), (self.notes, "notes"), (self.image, "figure")):
            widget.add_class(f"zsnr-{name}")
        self.image.layout = widgets.Layout(width="960px", max_width="100%", height="auto")
        right = widgets.VBox([self.headline, self.notes, self.image], layout=widgets.Layout(flex="1 1 auto"))
        left = widgets.VBox(list(self.controls.values()), layout=widgets.Layout(flex="0 0 310px"))
        super().__init__([left, right])
        for control in self.controls.values():
            control.observe(self._changed, "value")
        self.redraw()

    @property
    def settings(self) -> Settings:
        """What is chosen."""
        return Settings(**{name: control.value for name, control in self.controls.items()})

    def _changed(self, change: Any) -> None:
        own = NETWORKS.get(self.controls["model"].value)
        schedule = "rescaled to zero SNR" if own and find(own).zero_snr else "Stable Diffusion"
        if change["owner"] is self.controls["model"] and own and self.controls["schedule"].value != schedule:
            self.controls["schedule"].value = schedule  # which draws, as every change does
        else:
            self.redraw()

    def redraw(self) -> None:
        """Disable what does not apply, draw, and show it, or say why not."""
        settings, started = self.settings, time.perf_counter()
        used = settings.used()
        for name, control in self.controls.items():
            control.disabled = name not in used
            if hasattr(control, "continuous_update"):
                control.continuous_update = settings.model not in NETWORKS  # too slow to follow the hand
        if settings.model in NETWORKS:
            self.headline.value = _styled("asking the network ...")
        try:
            drawn = draw(settings)
        except (ValueError, FloatingPointError, FileNotFoundError) as error:
            self.headline.value, self.notes.value = _styled("not possible"), _styled(str(error), "refusal")
            self.image.layout.display = "none"
            return
        self.image.value = png(figure(drawn))
        self.image.layout.display = None
        self.notes.value = "".join(_styled(note, "refusal") for note in drawn.notes)
        self.headline.value = _styled(f"{headline(drawn)} · {time.perf_counter() - started:.2f} s")


def _styled(text: str, kind: str = "headline") -> str:
    """Text in the page's own font: what is refused is set apart."""
    style = {"headline": "font-weight:600", "refusal": "padding:8px 12px;border-left:4px solid #d1495b;max-width:60em"}
    escaped = text.replace("&", "&amp;").replace("<", "&lt;")
    return f'<div style="line-height:1.5;{style[kind]}">{escaped}</div>'


def show(**chosen: Any) -> None:
    """Display the explorer, from these settings on; where no kernel runs, such as on a web page, its first figure."""
    app = Explorer(Settings(**chosen))
    bundle = dict(app._repr_mimebundle_())
    bundle["text/plain"] = "The explorer: open this notebook in JupyterLab, or with Voila, to use it."
    if app.image.layout.display is None:
        bundle["image/png"] = base64.b64encode(app.image.value).decode()
    display(bundle, raw=True)
