"""A progress bar for whoever runs a notebook by hand.

A run that is recorded or compared (`pipeline.nbrun`, nbval) shows none: what it leaves on the page has a random id.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TypeVar

from tqdm.auto import tqdm

from lab import ROOT

RECORDED = os.environ.get("IPYTHONDIR") == str(ROOT / ".ipython")
"""Both set this before they start a kernel (`pipeline.checkout.set_environment`)."""
Item = TypeVar("Item")


def bar(items: Sequence[Item], title: str) -> Iterable[Item]:
    """The items, with a bar while they are worked on."""
    return tqdm(items, title, leave=False, disable=RECORDED)
