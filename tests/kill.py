"""`make kill`: end trainings by SIGKILL at random moments, and see that nothing is lost.

    python tests/kill.py [-n KILLS] [--seed SEED]

In turn the runner on stages/train, `python -m zsnr.finetune`, and `dvc repro` of that stage, with small numbers. Each
is started again until it ends. What is killed is one of the processes that then run; the others must end by themselves.
The run after it goes on from the last checkpoint, and what comes out has the names and bytes of an undisturbed run.
"""

import argparse
import hashlib
import itertools
import math
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from PIL import Image
from safetensors import safe_open

import lab
from lab.models import tiny

FAST = """import time, types
from zsnr.finetune import loop
loop.time = types.SimpleNamespace(monotonic=lambda: 40 * time.monotonic())  # a checkpoint every half second, not 20
"""
BASE = Path(tempfile.mkdtemp(prefix="zsnr-kill-"))
TRAIN = "-m pipeline.nbrun stages/train smoke -p seed=0 -p width=8 -p images=2400 -o"
TUNE = f"--model {BASE}/model --folder {BASE}/pictures --out {BASE}/tuned/out --images 600 --batch 4 --resolution 32"
WORKS = {  # by the folder that a command changes: its words, and where its checkpoints are
    "run": (f"{TRAIN} {BASE}/run", lab.scratch(BASE / "run")),
    "tuned": (f"{BASE}/tune.py {TUNE}", BASE / "tuned/out-scratch"),
    "repo": ("-m dvc repro", lab.scratch(BASE / "repo/out")),
}


def prepare() -> dict[str, str]:
    """What the commands need; each one's folder begins as that in BASE/start. Returns their environment."""
    for folder in ("start/run", "start/tuned", "start/repo", "pictures", "ipython/profile_default/startup"):
        (BASE / folder).mkdir(parents=True)
    tiny.stable_diffusion().save_pretrained(BASE / "model")
    Image.new("RGB", (32, 32), "red").save(BASE / "pictures/a.png")
    (BASE / "pictures/a.txt").write_text("all red")
    (BASE / "ipython/profile_default/startup/fast.py").write_text(FAST)
    (BASE / "tune.py").write_text(f"{FAST}from zsnr.finetune.__main__ import main\nmain()\n")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=BASE / "start/repo", check=True)
    command = f"{sys.executable} {TRAIN} {BASE}/repo/out"
    (BASE / "start/repo/dvc.yaml").write_text(f"stages:\n  train: {{cmd: {command}, outs: [out]}}\n")
    env = {"PYTHONPATH": str(lab.ROOT), "IPYTHONDIR": str(BASE / "ipython"), "TMPDIR": str(BASE)}
    return {**os.environ, **env, "DVC_SITE_CACHE_DIR": str(BASE / "dvc"), "OMP_NUM_THREADS": "1"}


def files(name: str) -> set[tuple[str, str]]:
    """Name and hash of each result, and of each leftover; DVC's own folder is neither."""
    paths = [path for folder in (BASE / name, WORKS[name][1]) for path in folder.rglob("*") if path.is_file()]
    return {(str(p), hashlib.sha256(p.read_bytes()).hexdigest()) for p in paths if ".dvc" not in p.parts}


def step(name: str) -> float:
    """How far the checkpoint is: infinity if at the end, 0 if there is none."""
    for path in WORKS[name][1].rglob("checkpoint.safetensors"):
        with safe_open(path, "pt") as file:
            facts = file.metadata()
        return math.inf if facts["finished"] == "True" else int(facts["step"])
    return 0


def run(name: str, env: dict[str, str], moment: float | None, rng: random.Random) -> tuple[str, list[str]]:
    """Start it, and at the moment kill one of its processes: how it ended, and what is wrong with that."""
    before, ended, wrong, log = step(name), "", [], BASE / f"{name}.log"
    with open(log, "w") as file:
        command = [sys.executable, *WORKS[name][0].split()]
        process = psutil.Popen(command, cwd=BASE / name, env=env, stdout=file, stderr=file)
        try:
            process.wait(moment)
        except psutil.TimeoutExpired:
            family = [process, *process.children(recursive=True)]
            victim, begin = rng.choice(family), time.monotonic()
            what = " ".join(victim.cmdline()[1:])[-30:]
            victim.kill()
            wrong += [f"lives on: {alive}" for alive in psutil.wait_procs(family, timeout=20)[1]]
            ended = f"killed: {what!r} after {moment:.1f} s, the rest ended in {time.monotonic() - begin:.1f} s"
    after, text = step(name), log.read_text()
    said = re.search(r"going on from \w+, step (\d+)", text)
    first = int(said[1]) if said else 0
    if process.returncode == 0 or (not ended and "out is there already" in text and not before):
        ended = "finished"  # or had, when it was killed: what it left is compared
    elif not ended:
        ended, wrong = "failed", [text[-500:]]
    if (said or ended == "finished") and before not in (first, math.inf):
        wrong.append(f"began with step {first}, not {before}")
    if 0 < after < before:
        wrong.append("an older checkpoint")
    return f"{ended}, step {before} to {after}", wrong


def main() -> int:
    """Command line; returns how many faults there were."""
    cli = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    cli.add_argument("-n", type=int, default=100, metavar="KILLS", help="default: %(default)s")
    cli.add_argument("--seed", type=int, default=0, help="of the moments; default: %(default)s")
    args = cli.parse_args()
    rng, env, kills, faults = random.Random(args.seed), prepare(), 0, 0
    undisturbed: dict[str, tuple[float, set[tuple[str, str]]]] = {}  # its seconds, and its files
    names = itertools.cycle(WORKS)
    while kills < args.n and faults < 10:
        name = next(names)
        shutil.copytree(BASE / "start" / name, BASE / name, dirs_exist_ok=True)
        begin = time.monotonic()
        ended, wrong = run(name, env, rng.uniform(0, undisturbed[name][0]) if name in undisturbed else None, rng)
        if ended.startswith("finished"):
            _, expected = undisturbed.setdefault(name, (time.monotonic() - begin, files(name)))
            wrong += sorted({f"differs: {path}" for path, _ in files(name) ^ expected})
        if ended.startswith("killed"):
            kills += 1
        else:
            shutil.rmtree(BASE / name)
            shutil.rmtree(WORKS[name][1], ignore_errors=True)
        faults += len(wrong)
        print(f"{kills:3d} {name}: {ended}", *wrong, sep="\n    ! " if wrong else "", flush=True)
    print(f"{kills} kills (seed {args.seed}), {faults} faults")
    shutil.rmtree(BASE)
    return faults


if __name__ == "__main__":
    sys.exit(main())
