"""zsnr in diffusers: a drop-in scheduler, networks as denoisers, cards in weights. Needs diffusers, but for `card`."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zsnr.diffusers.card import Card
    from zsnr.diffusers.config import from_scheduler
    from zsnr.diffusers.scheduler import ZeroSNRScheduler
    from zsnr.diffusers.wrap import denoiser

HOMES = {"Card": "card", "ZeroSNRScheduler": "scheduler", "denoiser": "wrap", "from_scheduler": "config"}
HOMES |= {"SchedulerMixin": "scheduler"}  # of diffusers, see `zsnr.__getattr__`

__all__ = ["Card", "ZeroSNRScheduler", "denoiser", "from_scheduler"]


def __getattr__(name: str) -> Any:
    """Imported when asked for: a card needs no diffusers."""
    if name in HOMES:
        return getattr(importlib.import_module(f"zsnr.diffusers.{HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
