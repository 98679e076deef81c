"""What git holds stays small, and runs elsewhere."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_STORE_MB = 100
# put together here, so that this file does not hold them
MACHINE = [rf"(?<![\w.])/{name}/" for name in ("work", "tmp", "root", "home")]  # not .dvc/tmp/
REGISTRY = [f"{a}-{b}" for a, b in (("index", "url"), ("find", "links"))]


def test_the_embedded_remote_stays_small():
    """What HEAD holds and what is about to be committed, which a clone of depth 1 has to fetch."""
    store = [path for path in files() if path.is_relative_to(ROOT / "dvcstore")]
    assert sum(path.stat().st_size for path in store) / 1e6 < MAX_STORE_MB


def files() -> list[Path]:
    """Tracked files, and those that are about to be."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("trace", MACHINE + REGISTRY)
def test_no_file_knows_the_machine_it_was_written_on(trace):
    """Executed notebooks in dvcstore/ too: a warning's text holds the path of the file it came from."""
    assert files()
    pattern = re.compile(trace.encode())
    assert not [str(path.relative_to(ROOT)) for path in files() if pattern.search(path.read_bytes())]
