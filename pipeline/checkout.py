"""This checkout: where it is, whether there is room to work in it, and what the kernels started from it see."""

import os
import resource
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MIN_FREE_MB = 500
MIN_FILES = 128
"""Open at once: a kernel's sockets, and what torch and DVC hold."""
REMEDY = (
    "Free some space (old checkpoints in scratch/, `dvc gc --workspace`) and run the same command again: "
    "finished stages are kept, only this one starts over."
)


class Refused(Exception):
    """A request that was turned down; the message says what to change."""


def check_machine() -> None:
    """Refuse to start what could not be finished."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < MIN_FILES:
        if 0 <= hard < MIN_FILES:
            raise Refused(
                f"only {hard} files may be open at once, {MIN_FILES} are needed: raise `ulimit -Hn` (as root)"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (MIN_FILES, hard))
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
