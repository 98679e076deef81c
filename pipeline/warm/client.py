"""What Jupyter starts in the place of a kernel: asks the server (server.py) for one, and lives as long as that does.

Where there is no server it becomes an ordinary kernel.
"""

import json
import os
import signal
import socket
import sys


def main(connection_file: str) -> None:
    """Hand over the connection file, the folder, the environment and the three streams; then wait."""
    server = socket.socket(socket.AF_UNIX)
    try:
        server.connect(os.environ["ZSNR_WARM"])
    except (KeyError, OSError):
        os.execv(sys.executable, [sys.executable, "-m", "ipykernel_launcher", "-f", connection_file])
    signal.signal(signal.SIGINT, lambda *_: server.sendall(b"i"))
    asked = {"connection_file": connection_file, "folder": os.getcwd(), "environment": dict(os.environ)}
    line = json.dumps(asked).encode() + b"\n"
    sent = socket.send_fds(server, [line], [0, 1, 2])
    server.sendall(line[sent:])
    server.recv(1)  # nothing is ever sent: it returns when the kernel has ended


if __name__ == "__main__":
    main(sys.argv[1])
