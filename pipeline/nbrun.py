"""Run the .py half of a notebook pair: typed parameters, strict names, output that is the same byte for byte.

    python -m pipeline.nbrun notebooks/NN.py [-o OUT.ipynb] [-P params.key[=name]]... [-p name=value]...

`-P` reads a value from params.yaml, `-p` gives one directly. Each must be declared in the notebook's
`parameters` cell (plain literals) and have the type of the default there: a misspelled name, or the string
"1e-4", would otherwise train the wrong model in silence. Without `-o` the paired .ipynb is rewritten with its
outputs: default parameters, in the notebook's folder, as JupyterLab and nbval run it. With `-o` the notebook
runs in the repository's root. A failed run leaves OUT.failed.ipynb and does not touch OUT.
"""

import sys

# before nbformat, as in zsnr/_fastimport.py; not imported from there, because that would import torch
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

import argparse
import ast
import difflib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import papermill
from jupytext.config import load_jupytext_config
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError, strip_color
from ruamel.yaml import YAML
from traitlets.config import Config

ROOT = Path(__file__).resolve().parents[1]
MIN_FREE_MB = 500
REMEDY = (
    "Free some space (old checkpoints in scratch/, `dvc gc --workspace`) and run the same command again: "
    "finished stages are kept, only this one starts over."
)
# the interpreter that runs this, whatever kernels are installed elsewhere
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


class Refused(Exception):
    """A request that was turned down; the message says what to change."""


# --- parameters


def declared(notebook: NotebookNode) -> dict[str, Any]:
    """The defaults in the cell tagged `parameters`, by name."""
    tagged = [cell.source for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) > 1:
        raise Refused(f"{len(tagged)} cells are tagged `parameters`; only one can be")
    defaults = {}
    for node in ast.parse("".join(tagged)).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.expr() as value):
                pass
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                pass
            case _:
                raise Refused(f"the parameters cell may hold `name = literal` only, not {ast.unparse(node)}")
        try:
            defaults[name] = ast.literal_eval(value)
        except ValueError as error:
            raise Refused(f"the default of {name} must be a literal, not {ast.unparse(value)}") from error
    return defaults


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted keys of a nested mapping's values."""
    for key, value in tree.items():
        yield from leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]


def lookup(tree: dict[str, Any], key: str, source: str) -> Any:
    """The value at a dotted key."""
    value: Any = tree
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            near = difflib.get_close_matches(key, leaves(tree), 1, cutoff=0.0)
            raise Refused(f"{source} has no key {key}" + "".join(f"; the nearest is {n}" for n in near))
        value = value[part]
    if isinstance(value, dict):
        raise Refused(f"{source}: {key} is a section ({', '.join(leaves(value))}); name one value of it")
    return value


def checked(name: str, value: Any, default: Any, origin: str) -> Any:
    """`value`, if it has the type of the notebook's default (None accepts all, a float accepts an int)."""
    if type(default) is float and type(value) is int:
        return float(value)
    if default is not None and type(value) is not type(default):
        raise Refused(
            f"{origin} is {value!r} ({type(value).__name__}), but the notebook declares "
            f"{name} = {default!r} ({type(default).__name__})"
        )
    return value


def literal(text: str, default: Any) -> Any:
    """A value from the command line: text where text is declared, otherwise JSON if it reads as such."""
    if isinstance(default, str):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def parameters(defaults: dict[str, Any], keys: Sequence[str], pairs: Sequence[str], params: Path) -> dict[str, Any]:
    """Values by name, from `-P` keys and `-p` pairs, each checked against the notebook's defaults."""
    split = [item.partition("=") for item in keys]
    requests = [(name or key.rpartition(".")[2], key, "") for key, _, name in split]
    for item in pairs:
        name, equals, text = item.partition("=")
        if not equals:
            raise Refused(f"-p {item}: expected name=value")
        requests.append((name, "", text))
    names = [name for name, _, _ in requests]
    if unknown := sorted(set(names) - set(defaults)):
        known = ", ".join(defaults) or "none"
        raise Refused(f"no parameter named {', '.join(unknown)}; declared are {known}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise Refused(f"given twice: {', '.join(twice)}")
    # pure: YAML 1.2 as DVC reads it, where 1e-4 is a number
    tree = YAML(typ="safe", pure=True).load(params) or {} if keys else {}
    values = {}
    for name, key, text in requests:
        value = lookup(tree, key, params.name) if key else literal(text, defaults[name])
        values[name] = checked(name, value, defaults[name], f"{params.name}: {key}" if key else f"-p {name}")
    return values


# --- execution


def check_disk() -> None:
    """Refuse to start what could not be finished."""
    free = shutil.disk_usage(ROOT).free / 1e6
    if free < MIN_FREE_MB:
        raise Refused(f"only {free:.0f} MB free at {ROOT}, {MIN_FREE_MB} are needed. {REMEDY}")


def set_environment() -> None:
    """Make the surroundings of the kernels that this process starts those of this checkout."""
    # the kernel imports this checkout's zsnr, whichever one is pip-installed
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(path)
    # threads that spin while they wait are up to 100 times slower when cores are shared
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    # a user's own start-up files must not decide a result
    os.environ.setdefault("IPYTHONDIR", str(ROOT / ".ipython"))


def stabilise(notebook: NotebookNode) -> None:
    """Drop what differs between two runs of the same code: timings, random ids, paths, chunks of a stream."""
    given = notebook.metadata.pop("papermill", {}).get("parameters")
    if given:
        notebook.metadata["papermill"] = {"parameters": given}
    notebook.metadata.get("language_info", {}).pop("version", None)
    for i, cell in enumerate(notebook.cells):
        cell["id"] = hashlib.sha1(f"{i}:{cell.cell_type}".encode()).hexdigest()[:8]
        for volatile in ("papermill", "execution"):
            cell.metadata.pop(volatile, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
        if cell.cell_type == "code":
            cell["outputs"] = joined(cell.outputs)


def joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """The outputs with each stream in one piece: where it was cut depends on the machine's load."""
    whole: list[NotebookNode] = []
    for output in outputs:
        if whole and output.output_type == "stream" and output.name == whole[-1].get("name"):
            whole[-1]["text"] += output.text
        else:
            whole.append(output)
    return whole


def write(notebook: NotebookNode, out: Path) -> None:
    """Write all of it or nothing."""
    partial = out.with_name(out.name + ".tmp")
    try:
        nbformat.write(notebook, partial)
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)


def failed_path(out: Path) -> Path:
    """Where the notebook is written while it runs, and stays if it fails."""
    return out.with_name(out.stem + ".failed.ipynb")


def run(notebook: NotebookNode, source: Path, out: Path | None, values: dict[str, Any]) -> None:
    """Execute `notebook`, read from `source`, and write it to `out`, by default the pair's other half."""
    target = out or source.with_suffix(".ipynb")
    target.parent.mkdir(parents=True, exist_ok=True)
    terminal = sys.stderr.isatty()
    notebook.metadata.setdefault("kernelspec", KERNEL)
    # Unix sockets: no port is opened to other users; in a folder of their own, or two runs at once would share them
    with tempfile.TemporaryDirectory() as sockets:
        notebook = papermill.execute_notebook(
            notebook,
            failed_path(target).resolve(),
            parameters=values,
            kernel_name=KERNEL["name"],
            cwd=ROOT if out else source.resolve().parent,
            progress_bar=terminal,
            stdout_file=None if terminal else sys.stdout,
            stderr_file=None if terminal else sys.stderr,
            start_timeout=300,
            config=Config(
                {
                    "KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"},
                    # all is written by now; taking torch apart in good order costs a second
                    "NotebookClient": {"shutdown_kernel": "immediate"},
                }
            ),
        )
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.source.strip() and cell.execution_count is None:
            raise Refused(f"a cell never ran (sys.exit in one before it?): {cell.source.splitlines()[0]}")
    stabilise(notebook)
    notebook.metadata.pop("jupytext", None)
    if out is None:  # leave exactly what `jupytext --sync` would
        pairing = load_jupytext_config(str(source.resolve()))
        filters = ("cell_metadata_filter", "notebook_metadata_filter")
        notebook.metadata["jupytext"] = {k: getattr(pairing, k) for k in filters if getattr(pairing, k, None)}
    write(notebook, target)
    failed_path(target).unlink(missing_ok=True)
    if out is None:
        os.utime(source)  # JupyterLab wants the .py to be the newer half


def explain(error: Exception) -> str:
    """What went wrong, in the words of the exception that was raised in the notebook, and what to do."""
    cause = str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}"
    text = cause
    if isinstance(error, PapermillExecutionError):
        cause = f"{error.ename}: {error.evalue}"
        trace = strip_color("\n".join(error.traceback)).strip().splitlines()[-12:]
        text = "\n".join([f"failed in cell [{error.exec_count}]", *trace])
    elif isinstance(error, DeadKernelError):
        text += " (out of memory?)"
    # by its words: torch and safetensors wrap the OSError in exceptions of their own
    if "No space left on device" in cause:
        text += f"\nThe disk is full. {REMEDY}"
    return text


def command_line() -> argparse.ArgumentParser:
    """The options; the tests read the commands of dvc.yaml with them."""
    cli = argparse.ArgumentParser(prog="python -m pipeline.nbrun", description=(__doc__ or "").splitlines()[0])
    cli.add_argument("source", type=Path, metavar="NOTEBOOK.py")
    cli.add_argument("-o", "--out", type=Path, metavar="OUT.ipynb", help="default: the paired .ipynb")
    cli.add_argument("-P", action="append", default=[], metavar="key[=name]", help="a value from params.yaml")
    cli.add_argument("-p", action="append", default=[], metavar="name=value", help="a value given here")
    cli.add_argument("--params", type=Path, default=ROOT / "params.yaml", help="default: %(default)s")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run one notebook; returns the exit status."""
    args = command_line().parse_args(argv)
    failed = failed_path(args.out or args.source)
    failed.unlink(missing_ok=True)
    try:
        if args.source.suffix != ".py" or not args.source.is_file():
            raise Refused("not a notebook's .py half")
        if args.out is None and (args.P or args.p):
            raise Refused("a committed pair is run with its defaults; give -o to pass parameters")
        notebook = jupytext.read(args.source)
        values = parameters(declared(notebook), args.P, args.p, args.params)
        check_disk()
        set_environment()
        run(notebook, args.source, args.out, values)
    except Exception as error:
        print(f"{args.source}: {explain(error)}", file=sys.stderr)
        if failed.exists():
            print(f"The notebook as far as it ran: {failed}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
