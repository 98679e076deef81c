"""pytest plugin: runs diffusers' tests with our scheduler in the place of theirs, and writes what became of each.

PEERS_MODE says what is put in: `ours` with their config, `zero` (v-prediction from zero SNR, Heun on the power grid),
or `theirs`, nothing. PEERS_SHARD is "k/n", PEERS_OUT the file of outcomes, one line of JSON each.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from lab.models import tiny
from zsnr import ZeroSNRScheduler

MODE, OUT = os.environ["PEERS_MODE"], Path(os.environ["PEERS_OUT"])
SHARD, SHARDS = map(int, os.environ["PEERS_SHARD"].split("/"))
REPLACED = re.compile(r"\b(DDIM|DDPM|PNDM|LMSDiscrete|EulerDiscrete|EulerAncestralDiscrete)Scheduler\b")
ZERO = {
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "solver": "heun",
    "levels": "power",
}
# details of diffusers' own tables, which their tests vary only to compare the scheduler with itself
NO_MATTER = ("interpolation_type", "final_sigmas_type")
GOLDEN = re.compile(r"expected_\w+ = (np\.array|torch\.tensor)\(|expected_slice = \[")
# tests of pipelines that no scheduler can change: of parts, formats and devices
OTHERS = re.compile(
    "accelerator|attention_slicing|dtype|encode_prompt|float16|freeu|ip_adapter|layerwise|lora|Mixin_component|"
    "multi_vae|offload|pt_np_pil|qkv|safety|signature|tiny_autoencoder|tuple_type|vae_|variants|xformers"
)


def _replace(owner: type, name: str, change: Callable[[Any], Any]) -> None:
    """`change` what a method answers, once."""
    method = vars(owner)[name]
    if not hasattr(method, "__wrapped__"):

        @functools.wraps(method)
        def changed(*args: Any, **kwargs: Any) -> Any:
            return change(method(*args, **kwargs))

        setattr(owner, name, changed)


def _pipeline(components: dict[str, Any]) -> dict[str, Any]:
    # said aloud, each: what was left at their default would become our default
    given = components["scheduler"].config.items()
    config = {k: v for k, v in given if k != "_use_default_values" and v is not None}
    changes = ZERO if MODE == "zero" else {}
    return components | {"scheduler": ZeroSNRScheduler.from_config(config, **changes)}


def _schedulers(cls: Any) -> bool:
    """Put our class into a test class of one scheduler."""
    (theirs,) = cls.scheduler_classes
    if MODE == "ours" and theirs is not ZeroSNRScheduler:
        own: dict[str, Any] = {"timestep_spacing": inspect.signature(theirs).parameters["timestep_spacing"].default}
        if theirs.__name__ == "HeunDiscreteScheduler":  # (their Euler is our ddim)
            own |= {"solver": "heun", "path": "EDM"}
            # its first step is from the grid of all timesteps; ours, of two calls, asks for one of N steps
            cls.forward_default_kwargs = (("num_inference_steps", 10),)
        cls.scheduler_classes = (ZeroSNRScheduler,)
        _replace(cls, "get_scheduler_config", lambda c: own | {k: c[k] for k in c if k not in NO_MATTER})
    return MODE != "zero"


def _takes(item: Any) -> bool:
    """Put our scheduler into the class of this test; False where there is no place for it."""
    cls = item.cls
    if getattr(cls, "scheduler_classes", ()):
        return _schedulers(cls)
    if MODE == "zero" and GOLDEN.search(inspect.getsource(item.obj)):
        return False  # numbers of another model, from another start
    owner = next((c for c in getattr(cls, "__mro__", ()) if "get_dummy_components" in vars(c)), None)
    if owner is None or OTHERS.search(item.originalname):
        return False
    source = inspect.getsource(inspect.unwrap(vars(owner)["get_dummy_components"]))
    found = REPLACED.search(source)
    if found and MODE != "theirs":
        _replace(owner, "get_dummy_components", _pipeline)
    return bool(found)


def pytest_configure() -> None:
    """Tiny tokenizers made here, in place of those that the tests would load from the hub."""
    for cls in (transformers.CLIPTokenizer, transformers.AutoTokenizer):
        load = cls.from_pretrained

        def tokenizer(name: Any, *args: Any, load: Any = load, **kwargs: Any) -> Any:
            return load(name, *args, **kwargs) if Path(str(name)).exists() else tiny.tokenizer()

        cls.from_pretrained = tokenizer


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests with a place for our scheduler, and of them this process's share: every n-th class."""
    taken = [item for item in items if _takes(item)]
    classes = list(dict.fromkeys(item.parent for item in taken))
    items[:] = [item for item in taken if classes.index(item.parent) % SHARDS == SHARD]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """One line for each test that ran, and one for each that could not be set up."""
    if report.outcome == "failed" or (report.when == "call" and report.outcome == "passed"):
        message = getattr(getattr(report.longrepr, "reprcrash", None), "message", "")
        with OUT.open("a", encoding="utf-8") as file:
            file.write(json.dumps([report.nodeid, report.outcome, message[:300]]) + "\n")
