"""Ctrl-C, SIGTERM and a closed terminal: one line that says how to go on, and no process that lives on.

A signal raises SystemExit in the main thread, and who started processes ends them on the way out. The death of a
parent counts as SIGTERM. So all ends from the top down, even where nothing could be said any more (SIGKILL).
"""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from types import FrameType
from typing import TypeVar

import psutil

T = TypeVar("T")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE = 3.0
"""Seconds for what was asked to end, before it is killed."""
QUIET = "ZSNR_REPRO"
"""Set for what `make repro` starts, which says itself how to go on."""
LINE = "Stopped. The same command goes on: finished stages are kept, and a training has its last checkpoint."


def catch() -> None:
    """From now on a signal prints the line and raises SystemExit, with 128 and its number, as shells count."""

    def stop(number: int, _: FrameType | None) -> None:
        for other in SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        if QUIET not in os.environ:
            print(f"\n{LINE}", file=sys.stderr, flush=True)
        raise SystemExit(128 + number)

    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup sets it
            signal.signal(number, stop)


def end_with(parent: int) -> None:
    """Count the death of this parent process as SIGTERM."""
    _watch(psutil.Process(), parent)


def end_with_dvc() -> None:
    """The same in a stage, for the DVC that runs it: dash, and other shells, stay between the two."""
    below = psutil.Process()
    with suppress(psutil.AccessDenied):  # to the environment of another user's process
        while (above := below.parent()) is not None and "DVC_STAGE" in above.environ():  # which DVC gives its children
            below = above
    # where DVC was killed before this was called, another process has taken its place already
    _watch(below, 0 if _adopts(below.parent()) else below.ppid())


def _adopts(parent: psutil.Process | None) -> bool:
    """Whether the system gives orphans to this process, and it is no DVC, which may be the first of a container."""
    if parent is None:
        return True
    with suppress(psutil.AccessDenied):
        return (parent.pid == 1 or parent.name() == "systemd") and "dvc" not in " ".join(parent.cmdline())
    return parent.pid == 1


def _watch(child: psutil.Process, parent: int) -> None:
    """SIGTERM to this process when the child loses its parent, or is gone itself."""

    def watch() -> None:
        with suppress(psutil.NoSuchProcess):
            while child.ppid() == parent:
                time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def with_kernel(work: Callable[[Callable[..., None]], T]) -> T:
    """Do `work` in a thread, where no signal breaks in: a stopped kernel ends it.

    Args:
        work: starts a kernel, and calls its argument when that runs a cell: from then on it is interrupted, which lets
            a training keep its last step; before, or if that takes too long, it is killed.
    """
    done: Future[T] = Future()
    in_cell = threading.Event()

    def aside() -> None:
        try:
            try:
                result = work(lambda **_: in_cell.set())
            finally:
                with suppress(RuntimeError):  # there is none
                    asyncio.get_event_loop().close()  # Jupyter makes one in each thread
            done.set_result(result)
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=aside, daemon=True).start()
    try:
        wait([done])  # and not for the thread: a signal would let Python 3.11 take it for ended
    except BaseException:
        for number in (signal.SIGINT, signal.SIGKILL) if in_cell.is_set() else (signal.SIGKILL,):
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.send_signal(number)
            wait([done], GRACE)
        raise
    return done.result()


def end_group(leader: subprocess.Popen[str]) -> None:
    """End all of a process group: asked first, then killed."""
    with suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGTERM)
        until = time.monotonic() + GRACE + 1
        while time.monotonic() < until:
            leader.poll()
            os.killpg(leader.pid, 0)  # is anyone left?
            time.sleep(0.05)
        os.killpg(leader.pid, signal.SIGKILL)
