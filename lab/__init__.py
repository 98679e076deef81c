"""The experiments: models, measures and reports of the notebooks. Never in the wheel, never imported by `zsnr`."""

import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
"""The checkout: notebooks run from other folders, and find parameters, data and results here."""


def threads(n: int) -> None:
    """Use n threads, for results that are the same to the bit; 0 leaves the choice to torch."""
    if n < 0:
        raise ValueError(f"threads = {n}: give a number of threads, or 0 for torch's own choice")
    if n:
        import torch

        torch.set_num_threads(n)


def folders(out_dir: str) -> tuple[Path, Path]:
    """Where a notebook's results go, and its checkpoints: below the checkout, or both in a new temporary folder."""
    if not out_dir:
        temporary = Path(tempfile.mkdtemp())
        return temporary / "out", temporary / "scratch"
    return ROOT / out_dir, scratch(out_dir)


def scratch(out_dir: str | Path) -> Path:
    """Where the checkpoints of the stage are that writes to out_dir, such as results/full/zsnr/words.

    Weights that other stages only measure are not kept in its results: they stay there, on the machine that trained
    them.
    """
    path = Path(out_dir)
    return ROOT.joinpath("scratch", *path.parts[path.is_absolute() :])


def environment() -> dict[str, Any]:
    """Where a result was computed; no times, so that the same run gives the same bytes."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"device": device, "threads": torch.get_num_threads(), "torch": torch.__version__.partition("+")[0]}
