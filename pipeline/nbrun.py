"""Run the .py half of a notebook pair: typed parameters, strict names, output that is the same byte for byte.

    python -m pipeline.nbrun NOTEBOOK PROFILE [SECTION...] [-o OUT] [-p name=value]...

    python -m pipeline.nbrun stages/finetune full -o zsnr/finetune/zsnr -p variant=zsnr

runs notebooks/stages/finetune.py in the repository's root. Its parameters come from the profile `full` of params.yaml
(`pipeline.parameters` has the rule): from the section with the notebook's name, here `finetune`, and those that are
named. Its results and the executed notebook go to results/full/zsnr/finetune/zsnr.

NOTEBOOK may be a folder: `findings smoke` runs them all.

    python -m pipeline.nbrun NOTEBOOK

rewrites the paired .ipynb with its outputs: default parameters, in the notebook's folder, as JupyterLab and nbval run
it. A failed run leaves NOTEBOOK.failed.ipynb and does not touch an earlier result.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jupytext
from nbformat import NotebookNode

from pipeline.checkout import ROOT, Refused, check_machine, set_environment
from pipeline.execute import drop_views, explain, failed_path, run
from pipeline.parameters import declared, fill, load

HEADER = "# ---\n# jupyter:\n"
"""Of every notebook's .py half, by jupytext."""


def command_line() -> argparse.ArgumentParser:
    """The options; the tests read the commands of dvc.yaml with them."""
    cli = argparse.ArgumentParser(prog="python -m pipeline.nbrun", description=(__doc__ or "").splitlines()[0])
    cli.add_argument(
        "source", type=notebook_path, metavar="NOTEBOOK", help="such as stages/train or findings, or a path"
    )
    cli.add_argument("profile", nargs="?", metavar="PROFILE", help="of params.yaml; default: rewrite the pair")
    cli.add_argument("sections", nargs="*", metavar="SECTION", help="of the profile, besides the notebook's own")
    cli.add_argument(
        "-o", "--out", type=Path, metavar="OUT", help="the folder below results/PROFILE; default: NOTEBOOK"
    )
    cli.add_argument("-p", action="append", default=[], metavar="name=value", help="a value given here")
    cli.add_argument("--params", type=Path, default=ROOT / "params.yaml", help="default: %(default)s")
    return cli


def notebook_path(text: str) -> Path:
    """The .py half of stages/train, which is notebooks/stages/train.py, or the folder notebooks/stages of stages."""
    if text.endswith(".py"):
        return Path(text)
    path = ROOT / "notebooks" / text
    return path if path.is_dir() else path.with_name(f"{path.name}.py")


def filled(notebook: NotebookNode, args: argparse.Namespace, tree: Mapping[str, Any]) -> dict[str, Any] | None:
    """The notebook's parameters by the command line, or None for a pair."""
    if args.profile is None:
        if args.out or args.p:
            raise Refused("a committed pair is run with its defaults; name a profile to pass parameters")
        return None
    folders = {"out_dir": str(out_folder(args)), "results": f"results/{args.profile}"}
    own = args.profile == "smoke" or args.source.parent.name == "findings"
    return fill(declared(notebook), tree, args.profile, sections(args, tree), args.p, folders, own)


def sections(args: argparse.Namespace, tree: Mapping[str, Any]) -> list[str]:
    """Those named on the command line, and the notebook's own, if there is one: `train`, `finding_02_sample_steps`."""
    own = args.source.stem if args.source.parent.name != "findings" else f"finding_{args.source.stem}"
    return [*args.sections, *([own] if own in (tree.get(args.profile) or {}) and own not in args.sections else [])]


def out_folder(args: argparse.Namespace) -> Path:
    """Where a run of a profile writes, below the root."""
    return Path("results", args.profile, args.out or Path(args.source.parent.name, args.source.stem))


def target_path(args: argparse.Namespace, values: Mapping[str, Any] | None) -> Path:
    """Where the executed notebook goes: to its results, or, of a pair, beside its source."""
    folder = args.source.parent if values is None else ROOT / values.get("out_dir", out_folder(args))
    return folder / f"{args.source.stem}.ipynb"


def each(args: argparse.Namespace) -> list[argparse.Namespace]:
    """The command line for each notebook of a folder, or for the one that is named."""
    if not args.source.is_dir():
        return [args]
    if args.out:
        raise Refused("-o is for one notebook: those of a folder would write over each other")
    return [argparse.Namespace(**{**vars(args), "source": path}) for path in sorted(args.source.glob("*.py"))]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one notebook, or those of a folder until one fails; returns the exit status."""
    args = command_line().parse_args(argv)
    try:
        calls = each(args)
    except Refused as error:
        print(f"{args.source}: {error}", file=sys.stderr)
        return 1
    for call in calls:
        if len(calls) > 1:
            print(call.source.stem, flush=True)
        if run_call(call):
            return 1
    return 0


def run_call(args: argparse.Namespace) -> int:
    """Run one notebook and report what went wrong; returns the exit status."""
    source, failed = args.source, None
    try:
        if not source.is_file():
            raise Refused("not a notebook's .py half")
        if not source.read_text(encoding="utf-8").startswith(HEADER):
            raise Refused(f"not a notebook's .py half: it has no jupytext header ({HEADER!r})")
        notebook = jupytext.read(source)
        values = filled(notebook, args, load(args.params) if args.profile else {})
        target = target_path(args, values)
        failed = failed_path(target)
        failed.unlink(missing_ok=True)
        check_machine()
        set_environment()
        smoke, finding = args.profile == "smoke", source.parent.name == "findings"
        # numbers so small give no verdict to be shown
        run(notebook, source, target, values, show=not (smoke and (finding or source.stem == "claims")))
        if smoke and finding:
            drop_views(target)
    except SystemExit:  # a signal
        if failed:
            failed.unlink(missing_ok=True)
        raise
    except Exception as error:
        print(f"{source}: {explain(error)}", file=sys.stderr)
        if failed and failed.exists():
            print(f"The notebook as far as it ran: {failed}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
