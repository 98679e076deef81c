"""`python -m zsnr.finetune`, or `zsnr-finetune`: every field of the recipe is an option."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

import zsnr.finetune
from zsnr.finetune import loop, pipelines
from zsnr.finetune.captions import captioned
from zsnr.finetune.recipe import FineTune
from zsnr.finetune.tune import check_out, fine_tune, save


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: every field of `FineTune` is an option."""
    parser = argparse.ArgumentParser(
        prog="python -m zsnr.finetune", description=(zsnr.finetune.__doc__ or "").split("\n")[0]
    )
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.add_argument("--model", required=True, help="folder of a diffusers pipeline, or its name on the hub")
    parser.add_argument("--folder", required=True, help="of captioned pictures")
    parser.add_argument("--out", required=True, help="new folder, for the result")
    parser.add_argument(
        "--scratch",
        help="where a folder for checkpoints is made, and removed at the end; beside OUT by default",
    )
    explained = dict(re.findall(r"^ {8}(\w+): (.*)$", FineTune.__doc__ or "", re.MULTILINE))
    for field in dataclasses.fields(FineTune):
        kind: dict[str, Any] = {"type": type(field.default)}
        if isinstance(field.default, bool):
            kind = {"action": argparse.BooleanOptionalAction}
        parser.add_argument(
            "--" + field.name.replace("_", "-"), default=field.default, help=explained[field.name], **kind
        )
    options = vars(parser.parse_args(arguments))
    model, folder, out = options.pop("model"), options.pop("folder"), Path(options.pop("out")).absolute()
    scratch = Path(options.pop("scratch") or out.parent) / (out.name + "-scratch")  # nothing else of the user's in it
    recipe = FineTune(**options)
    try:
        recipe.check()
        check_out(out, replace=False)
        captioned(folder)
        pipeline = pipelines.load(model)
        tuned, _ = fine_tune(pipeline, folder, recipe, scratch)
        save(tuned, out, recipe)
    except (ValueError, OSError, FloatingPointError, torch.OutOfMemoryError) as error:
        raise SystemExit(f"{parser.prog}: {error}") from error
    if Accelerator().is_main_process:
        loop.clean(scratch)
        print(f"saved {out}")
    Accelerator().end_training()


if __name__ == "__main__":
    main()
