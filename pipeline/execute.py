"""Execute a notebook so that the same code writes the same bytes, all of them or none, and say why it failed."""

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupytext.config import load_jupytext_config
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError, strip_color
from traitlets.config import Config

from pipeline.checkout import REMEDY, ROOT, Refused
from pipeline.stopping import with_kernel

# the interpreter that runs this, whatever kernels are installed elsewhere
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


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
    """The outputs with what was printed in one piece: where it was cut depends on the machine's load.

    Without stderr, which tells the terminal of this run: where a training goes on from, what is out of date; and
    without links to widgets, which are gone with the kernel: the picture or the text beside the link is kept.
    """
    whole: list[NotebookNode] = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
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


def run(notebook: NotebookNode, source: Path, target: Path, values: dict[str, Any] | None, show: bool = True) -> None:
    """Execute `notebook`, read from `source`, and write it to `target`; without values it is the pair's other half.

    What it prints is shown where there is no progress bar, if `show`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    terminal = sys.stderr.isatty()
    notebook.metadata.setdefault("kernelspec", KERNEL)

    def execute(on_cell: Callable[..., None]) -> NotebookNode:
        # Unix sockets: no port is opened to other users; in a folder of their own, or two runs at once would share them
        with tempfile.TemporaryDirectory() as sockets:
            return papermill.execute_notebook(
                notebook,
                failed_path(target).resolve(),
                parameters=values or {},
                kernel_name=KERNEL["name"],
                cwd=source.resolve().parent if values is None else ROOT,
                progress_bar=terminal,
                stdout_file=sys.stdout if show and not terminal else None,
                stderr_file=None if terminal else sys.stderr,
                start_timeout=300,
                on_cell_execute=on_cell,
                config=Config(
                    {
                        "KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"},
                        # all is written by now; taking torch apart in good order costs a second. A widget's state
                        # has random names, and is of no use without its kernel.
                        "NotebookClient": {"shutdown_kernel": "immediate", "store_widget_state": False},
                    }
                ),
            )

    notebook = with_kernel(execute)
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.source.strip() and cell.execution_count is None:
            raise Refused(f"a cell never ran (sys.exit in one before it?): {cell.source.splitlines()[0]}")
    stabilise(notebook)
    notebook.metadata.pop("jupytext", None)
    if values is None:  # leave exactly what `jupytext --sync` would
        pairing = load_jupytext_config(str(source.resolve()))
        filters = ("cell_metadata_filter", "notebook_metadata_filter")
        notebook.metadata["jupytext"] = {k: getattr(pairing, k) for k in filters if getattr(pairing, k, None)}
    write(notebook, target)
    failed_path(target).unlink(missing_ok=True)
    if values is None:
        os.utime(source)  # JupyterLab wants the .py to be the newer half


def drop_views(target: Path) -> None:
    """Of a smoke run of a finding keep the numbers only: its figures and text are for the full profile to show."""
    for view in (target, *target.parent.glob("*.png")):
        view.unlink()


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
