"""`python -m zsnr.finetune`, or `zsnr-finetune`: every field of the recipe is an option."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from accelerate import Accelerator

from zsnr.finetune import loop, pipelines
from zsnr.finetune.captions import captioned
from zsnr.finetune.recipe import FineTune
from zsnr.finetune.tune import check_out, fine_tune, save


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: every field of `FineTune` is an option."""
    parser = argparse.ArgumentParser("python -m zsnr.finetune", description="Fine-tune a model to zero terminal SNR.")
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.add_argument("--model", required=True, help="folder of a diffusers pipeline, or its name on the hub")
    parser.add_argument("--folder", required=True, help="of captioned pictures")
    parser.add_argument("--out", required=True, help="new folder, for the result")
    parser.add_argument("--scratch", help="for a folder of checkpoints, removed at the end; beside OUT by default")
    for field in dataclasses.fields(FineTune):
        flag, kind = "--" + field.name.replace("_", "-"), type(field.default)
        way: Any = {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind}
        parser.add_argument(flag, default=field.default, help=field.metadata["help"], **way)
    options = vars(parser.parse_args(arguments))
    model, folder, out = options.pop("model"), options.pop("folder"), Path(options.pop("out")).absolute()
    scratch = Path(options.pop("scratch") or out.parent) / (out.name + "-scratch")  # nothing else of the user's in it
    recipe = FineTune(**options)
    if not sys.stderr.isatty():
        for library in (diffusers, transformers):
            library.utils.logging.disable_progress_bar()
    try:
        recipe.check()
        check_out(out, replace=scratch.is_dir())  # a kill between the save and the cleaning leaves both
        captioned(folder)
        unfinished = functools.partial(check_out, out, replace=False)
        tuned, _ = fine_tune(pipelines.load(model), folder, recipe, scratch, timed=True, unfinished=unfinished)
        save(tuned, out, recipe)
    except (ValueError, OSError, FloatingPointError, torch.OutOfMemoryError) as error:
        raise SystemExit(f"{parser.prog}: {error}") from error
    if Accelerator().is_main_process:
        loop.clean(scratch)
        print(f"saved {out}")
    Accelerator().end_training()


if __name__ == "__main__":
    main()
