"""Kernels that are forks of a server: pipeline/warm."""

import importlib.util
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from jupyter_client.manager import KernelManager

WARM = Path(__file__).parents[1] / "pipeline/warm"
SERVER = "import server, sys; server.MODULES = ['ipykernel.kernelapp', 'json.tool']; server.main(sys.argv[1])"


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("ZSNR_WARM", str(tmp_path / "socket"))
    monkeypatch.setenv("JUPYTER_PATH", str(WARM))
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(tmp_path / "socket")], cwd=WARM)
    until = time.monotonic() + 60
    with socket.socket(socket.AF_UNIX) as here:
        while here.connect_ex(str(tmp_path / "socket")) and time.monotonic() < until:
            time.sleep(0.05)
    yield process
    process.kill()
    process.wait()


def ended(pid):
    """Whether a process is gone within a while."""
    until = time.monotonic() + 20
    while psutil.pid_exists(pid) and time.monotonic() < until:
        time.sleep(0.05)
    return not psutil.pid_exists(pid)


class Kernel:
    """One kernel, and what its cells print."""

    def __init__(self, folder):
        self.manager = KernelManager(kernel_name="python3", transport="ipc", ip=str(folder / "kernel"))
        self.manager.start_kernel(cwd=folder)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def run(self, code):
        said = []
        self.client.execute_interactive(code, timeout=60, output_hook=lambda message: said.append(message["content"]))
        return "".join(content.get("text", content.get("ename", "")) for content in said)

    def stop(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


def test_a_kernel_is_a_fork_in_the_clients_folder_and_environment(server, monkeypatch, tmp_path):
    (tmp_path / "own.py").write_text("there = 'imported'")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("ZSNR_TEST", "seen")
    kernel = Kernel(tmp_path)
    try:
        said = kernel.run("import os, sys, own\nprint(os.getppid(), os.getcwd(), os.environ['ZSNR_TEST'], own.there)")
        assert said == f"{server.pid} {tmp_path} seen imported\n"
        assert kernel.run("print('json.tool' in sys.modules)") == "True\n"
    finally:
        kernel.stop()


def test_an_interrupt_reaches_the_kernel_and_its_end_is_the_clients(server, tmp_path):
    kernel = Kernel(tmp_path)
    pid = int(kernel.run("import os; print(os.getpid())"))
    kernel.client.execute("import time; time.sleep(60)")
    time.sleep(0.5)
    kernel.manager.interrupt_kernel()
    said = kernel.client.get_shell_msg(timeout=20)["content"]
    assert said["ename"] == "KeyboardInterrupt"
    kernel.stop()
    assert ended(pid)


def test_a_kernel_ends_with_its_server(server, tmp_path):
    kernel = Kernel(tmp_path)
    pid = int(kernel.run("import os; print(os.getpid())"))
    server.kill()
    assert ended(pid)
    kernel.stop()


def test_a_client_that_asks_for_nothing_leaves_no_process(server):
    time.sleep(1)  # until it has forked
    assert all(ended(child.pid) for child in psutil.Process(server.pid).children())  # the fixture was such a client


def test_what_the_server_imports_is_there(monkeypatch):
    monkeypatch.syspath_prepend(WARM)
    assert all(map(importlib.util.find_spec, importlib.import_module("server").MODULES))


def test_a_kernel_that_ends_ends_its_client(server, tmp_path):
    kernel = Kernel(tmp_path)
    kernel.client.execute("import os; os._exit(1)")
    until = time.monotonic() + 20
    while kernel.manager.is_alive() and time.monotonic() < until:
        time.sleep(0.05)
    assert not kernel.manager.is_alive()
    kernel.stop()


def test_without_a_server_it_is_an_ordinary_kernel(monkeypatch, tmp_path):
    monkeypatch.setenv("JUPYTER_PATH", str(WARM))
    monkeypatch.setenv("ZSNR_WARM", str(tmp_path / "nobody"))
    kernel = Kernel(tmp_path)
    try:
        assert kernel.run("import os; print(os.getppid())") == f"{os.getpid()}\n"
    finally:
        kernel.stop()
