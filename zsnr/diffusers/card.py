"""What a network's weights must be sampled with, kept in the weights' own file, and checked before they are sampled.

A model that predicts v on a zero-SNR schedule, sampled as an eps-model or on the schedule it had before, gives pictures
all the same, and bad ones; nothing in the tensors tells. The card is one entry of a safetensors file's metadata, which
other readers ignore.
"""

from __future__ import annotations

import base64
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zsnr.diffusers.config import from_scheduler, prediction_of
from zsnr.prediction import check_prediction
from zsnr.schedule import Schedule

KEY = "zsnr_card"
TOLERANCE = 1e-4
"""How far sqrt(alpha_bar) may lie from the card's: other libraries keep their tables in float32."""


@dataclass(frozen=True)
class Card:
    """How a network was trained.

    Args:
        prediction: eps, x0 or v; or F, what EDM's preconditioning wraps, which is trained on no schedule's steps.
        schedule: the steps it was trained on; None of F.
        sigma_data: std of the data in the network's units; 1 where they are not scaled.
        facts: whatever else is worth keeping with the weights, as JSON can hold it; not checked.
    """

    prediction: str
    schedule: Schedule | None
    sigma_data: float = 1.0
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.schedule is not None:
            check_prediction(self.prediction, self.schedule)
        elif self.prediction != "F":
            raise ValueError(f"a network that predicts {self.prediction} has a schedule: give it")
        if not self.sigma_data > 0:
            raise ValueError(f"sigma_data = {self.sigma_data}: the data's std, above 0")

    def __str__(self) -> str:
        return self.prediction + ("" if self.schedule is None else f", terminal SNR {self.schedule.terminal_snr:.4g}")

    @property
    def zero_snr(self) -> bool:
        """Was it trained from zero terminal SNR on?"""
        return self.schedule is not None and self.schedule.zero_snr

    @property
    def steps(self) -> Schedule:
        """The schedule; refused of a network that has none."""
        if self.schedule is None:
            raise ValueError("the network's card says that EDM's preconditioning wraps it: zsnr.edm.Preconditioned")
        return self.schedule

    def check(self, prediction: str, schedule: Schedule, sigma_data: float | None = None) -> None:
        """Refuse to sample the network as what it is not.

        Raises:
            ValueError: saying what differs, and what the card has.
        """
        ours, theirs, wrong = self.steps, schedule, []
        if prediction != self.prediction:
            wrong.append(f"it predicts {self.prediction}, not {prediction}")
        if theirs.T != ours.T:
            wrong.append(f"it was trained on T = {ours.T} steps, not {theirs.T}")
        elif theirs.zero_snr != ours.zero_snr:
            has = [
                ("zero terminal SNR" if s.zero_snr else f"terminal SNR {s.terminal_snr:.3g}") for s in (ours, theirs)
            ]
            wrong.append(f"it was trained on a schedule with {has[0]}, not {has[1]}")
        elif (apart := (ours.sqrt_alpha_bar - theirs.sqrt_alpha_bar).abs().max().item()) > TOLERANCE:
            wrong.append(f"its schedule is another (sqrt(alpha_bar) differs by {apart:.2g})")
        if sigma_data is not None and abs(sigma_data - self.sigma_data) > 1e-6 * self.sigma_data:
            wrong.append(f"its sigma_data is {self.sigma_data:g}, not {sigma_data:g}")
        if wrong:
            raise ValueError("the network's card contradicts this use: " + "; ".join(wrong))

    def check_scheduler(self, scheduler: Any) -> None:
        """`check` for a diffusers scheduler, by its config and its table."""
        self.check(prediction_of(scheduler.config), from_scheduler(scheduler))

    def to_json(self) -> str:
        """One line of JSON, the schedule's float64 values in base64 among it."""
        content = {"prediction": self.prediction, "zero_snr": self.zero_snr, "sigma_data": self.sigma_data}
        if self.schedule is not None:
            values = self.schedule.sqrt_alpha_bar.numpy().astype("<f8").tobytes()
            content["sqrt_alpha_bar"] = base64.b64encode(values).decode()
        return json.dumps(content | ({"facts": self.facts} if self.facts else {}))

    @classmethod
    def from_json(cls, text: str) -> Card:
        """The card that `to_json` wrote."""
        try:
            content = json.loads(text)
            schedule = None
            if content["prediction"] != "F":
                values = np.frombuffer(base64.b64decode(content["sqrt_alpha_bar"]), "<f8").astype(float)
                schedule = Schedule(torch.from_numpy(values))
            return cls(content["prediction"], schedule, content["sigma_data"], content.get("facts", {}))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"the weights' card cannot be read ({error!r}): write it again with zsnr.diffusers.card.write"
            ) from error


def weights(path: str | Path) -> list[Path]:
    """The safetensors files of a path: a file, a model's folder, or a pipeline's, where it is those of the UNet.

    Raises:
        FileNotFoundError: there are none.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    for folder in (path / "unet", path / "transformer", path):
        if found := sorted(folder.glob("*.safetensors")):
            return found
    raise FileNotFoundError(f"no .safetensors at {path}: give a file, a model's folder or a saved pipeline")


def write(path: str | Path, card: Card) -> None:
    """Add the card to the weights at a path (see `weights`), in place of any they have; tensors stay as they are.

    The same weights and card are the same bytes: safetensors itself writes several entries in an order left to chance.
    """
    for file in weights(path):
        metadata = (_metadata(file) or {"format": "pt"}) | {KEY: card.to_json()}
        partial = file.with_name(file.name + ".tmp")
        with file.open("rb") as old, partial.open("wb") as new:
            header = json.loads(old.read(int.from_bytes(old.read(8), "little")))
            text = json.dumps(header | {"__metadata__": metadata}, sort_keys=True).encode()
            text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8 bytes
            new.write(len(text).to_bytes(8, "little") + text)
            shutil.copyfileobj(old, new, 2**24)
        partial.replace(file)


def read(path: str | Path) -> Card | None:
    """The card of the weights at a path (see `weights`), or None if they have none.

    Raises:
        FileNotFoundError: no weights there.
        ValueError: they, or their card, cannot be read.
    """
    text = _metadata(weights(path)[0]).get(KEY)
    return Card.from_json(text) if text else None


def of(network: Any) -> Card | None:
    """The card of a network: the one it carries, or that of the file which diffusers loaded it from, or None."""
    if (found := getattr(network, "card", None)) is not None:
        return found
    folder = getattr(getattr(network, "config", None), "_name_or_path", None)
    return read(folder) if folder and list(Path(folder).glob("*.safetensors")) else None


def _metadata(file: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            return opened.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{file} is no safetensors file ({error}): download it again (git lfs pull?)") from error
