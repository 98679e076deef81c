"""Who imports whom, and the wheel: zsnr alone, usable with torch and numpy alone."""

import ast
import re
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {"zsnr": 0, "zsnr.diffusers": 1, "zsnr.audit": 2, "zsnr.finetune": 2, "lab": 3, "notebooks": 4, "pipeline": 4}
LAZY = {("zsnr", "zsnr.diffusers"), ("zsnr.text_to_image", "zsnr.finetune.__main__.main")}
"""The ways up: ZeroSNRScheduler and from_scheduler when they are asked for, and a command's old name."""
ONLY = """
import sys, numpy, torch
top = lambda name: name.partition(".")[0]
allowed = {"zsnr", *map(top, sys.modules), *sys.stdlib_module_names}
class Only:
    def find_spec(name, path=None, target=None):
        if top(name) not in allowed:
            raise ModuleNotFoundError(f"{name} is neither torch nor numpy")
sys.meta_path.insert(0, Only)
sys.path.insert(0, sys.argv[1])
exec(sys.argv[2])
import zsnr
print(zsnr.__file__)
"""


def part(module: str) -> str:
    """The longest name of FLOORS that a module belongs to."""
    return max((name for name in FLOORS if f"{module}.".startswith(f"{name}.")), key=len, default="")


def imported(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    return plain | {f"{n.module}.{name.name}" for n in nodes if isinstance(n, ast.ImportFrom) for name in n.names}


def test_imports_go_down_only():
    """core <- diffusers <- audit, finetune <- lab <- notebooks: inside functions, too."""
    up = set()
    for path in (path for folder in ("zsnr", "lab", "notebooks", "pipeline") for path in (ROOT / folder).rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for other in imported(path):
            here, there = part(module), part(other)
            if there and there != here and FLOORS[there] >= FLOORS[here]:
                up.add((module, other))
    assert up == LAZY


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built beside the checkout, not in it: setuptools would keep, and pack, what an earlier build has left there."""
    folder = tmp_path_factory.mktemp("build")
    for name in ("zsnr", "lab", "pipeline", "tests", "notebooks", "pyproject.toml", "README.md", "LICENSE"):
        (folder / name).symlink_to(ROOT / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", "wheel", "."], cwd=folder, check=True)
    return next((folder / "wheel").glob("*.whl"))


def test_the_wheel_is_zsnr_alone(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
        scripts = next(file.read(name).decode() for name in file.namelist() if name.endswith("entry_points.txt"))
    ours = {path.relative_to(ROOT).as_posix() for path in (ROOT / "zsnr").rglob("*") if path.suffix in (".py", ".yaml")}
    assert names == ours
    assert "zsnr/audit/known.yaml" in names
    assert "zsnr-audit = zsnr.audit.__main__:main\nzsnr-finetune = zsnr.finetune.__main__:main\n" in scripts


def test_the_readmes_ten_lines_need_the_wheel_torch_and_numpy_only(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "site")
    (tmp_path / "empty").mkdir()
    ten_lines = r"## The library in ten lines\n.*?```python\n(.*?)```"
    example = re.search(ten_lines, (ROOT / "README.md").read_text(), re.S)[1]
    command = [sys.executable, "-I", "-c", ONLY, str(tmp_path / "site"), example]
    done = subprocess.run(command, cwd=tmp_path / "empty", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.splitlines()[-1]).is_relative_to(tmp_path / "site")


def test_the_old_command_works_and_says_its_new_name(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["text_to_image", "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("zsnr.text_to_image", run_name="__main__")
    out, err = capsys.readouterr()
    assert [line for line in err.splitlines() if "python -m zsnr.text_to_image is now python -m zsnr.finetune" in line]
    assert (end.value.code, "--lora-rank" in out) == (0, True)
