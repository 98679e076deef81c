"""Kernels that start at once: forks of a process that has imported torch and diffusers already, which takes 10 s.

    export ZSNR_WARM=$PWD/warm.socket JUPYTER_PATH=$PWD/pipeline/warm
    python -P pipeline/warm/server.py &
    pytest --nbval notebooks

The tests and the smoke pipeline start some hundred kernels. Jupyter finds the kernel `python3` in JUPYTER_PATH, and
starts client.py, which connects to the socket and stands for the kernel: if it is killed, the kernel ends, too. Nothing
of this repository is imported here, so that notebooks see the checkout that they are run in. OMP_NUM_THREADS and
PYTHONHASHSEED are those of the server.
"""

import importlib
import json
import os
import signal
import socket
import sys
import threading

MODULES = (
    "ipykernel.kernelapp",
    "diffusers.models.unets.unet_2d",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "accelerate",
    "matplotlib.pyplot",
    "scipy.stats",
    "sklearn.datasets",
    "torchmetrics.image.fid",
)
"""What takes long of the imports of notebooks."""


def main(path: str) -> None:
    """Import, listen, and fork a kernel for each client."""
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    for name in MODULES:
        importlib.import_module(name)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(32)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies
    while True:
        client, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            become_kernel(client)
        client.close()


def become_kernel(client: socket.socket) -> None:
    """Take over folder, environment and streams of the client, and run its kernel; does not return."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    line, streams, *_ = socket.recv_fds(client, 1 << 20, 3)
    while b"\n" not in line:
        if not (more := client.recv(1 << 20)):
            os._exit(1)  # the client is gone
        line += more
    asked = json.loads(line.partition(b"\n")[0])  # behind it may be an interrupt, of a kernel that has not begun
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    threading.Thread(target=follow, args=(client,), daemon=True).start()
    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance(["-f", asked["connection_file"], f"--IPKernelApp.parent_handle={os.getppid()}"])
    os._exit(0)


def follow(client: socket.socket) -> None:
    """Pass interrupts on; end with the client."""
    while client.recv(1):
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(1)


if __name__ == "__main__":
    main(os.environ["ZSNR_WARM"])
