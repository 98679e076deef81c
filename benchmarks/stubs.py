"""Libraries whose __init__ imports far more than their samplers need."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from types import ModuleType
from typing import Any


@cache
def load(package: str, *names: str) -> list[Any]:
    """Modules of a package, past its __init__, which imports torchvision, CLIP and more."""
    if (spec := importlib.util.find_spec(package)) is None:
        raise ImportError(f"{package} is not installed")
    bare, vision, transforms = map(ModuleType, (package, "torchvision", "torchvision.transforms"))
    bare.__path__, bare.__spec__ = list(spec.submodule_search_locations or []), spec
    transforms.functional = None  # type: ignore[attr-defined]
    stubs = {m.__name__: m for m in (vision, transforms) if m.__name__ not in sys.modules}
    sys.modules.update({package: bare} | stubs)
    try:
        return [importlib.import_module(f"{package}.{name}") for name in names]
    finally:
        for name in stubs:  # others look whether torchvision is there
            del sys.modules[name]
