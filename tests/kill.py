"""`make kill`: end trainings by SIGKILL at random moments, and see that nothing is lost.

    python tests/kill.py [-n KILLS] [--seed SEED]

In turn the runner on stages/train, `python -m zsnr.finetune`, and `dvc repro` of that stage, with small numbers. Each
is started again until it ends. What is killed is one of the processes that then run; the others must end within
seconds. The run after it goes on from the last checkpoint, and what comes out at last has the names and the bytes of a
run that nobody disturbed.
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
from collections import Counter
from pathlib import Path

import psutil
from PIL import Image
from safetensors import safe_open

import lab
from zsnr.diffusers import tiny

FAST = (
    "import time, types; from zsnr.finetune import loop\nloop.time = types.SimpleNamespace(monotonic=lambda: 40 * {})\n"
)
FAST = FAST.format("time.monotonic()")
"""Run in each training: a checkpoint every half second, not every 20."""
BASE = Path(tempfile.mkdtemp(prefix="zsnr-kill-"))
TRAIN = "-m pipeline.nbrun stages/train smoke -p seed=0 -p width=8 -p images=2400 -o"
TUNE = f"--model {BASE}/model --folder {BASE}/pictures --out {BASE}/tuned/out --images 600 --batch 4 --resolution 32"
DVC = f"""stages:
  train: {{cmd: python {TRAIN} {BASE}/repo/out, outs: [out]}}
  count: {{cmd: wc -c out/weights.safetensors > size, deps: [out], outs: [size]}}
"""
WORKS = {  # the folder that a command changes, its words, and where its checkpoints are
    "run": (f"{TRAIN} {BASE}/run", lab.scratch(BASE / "run")),
    "tuned": (f"{BASE}/tune.py {TUNE}", BASE / "tuned/out-scratch"),
    "repo": ("-m dvc repro -q", lab.scratch(BASE / "repo/out")),
}


def prepare() -> dict[str, str]:
    """What the commands need; each one's folder begins as that in BASE/start. Returns their environment."""
    for folder in ("start/run", "start/tuned", "start/repo", "pictures", "ipython/profile_default/startup"):
        (BASE / folder).mkdir(parents=True)
    tiny.stable_diffusion().save_pretrained(BASE / "model")
    for name in ("red", "green", "blue"):
        Image.new("RGB", (32, 32), name).save(BASE / f"pictures/{name}.png")
        (BASE / f"pictures/{name}.txt").write_text(f"all {name}")
    (BASE / "ipython/profile_default/startup/fast.py").write_text(FAST)
    (BASE / "tune.py").write_text(f"{FAST}from zsnr.finetune.__main__ import main\nmain()\n")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=BASE / "start/repo", check=True)
    (BASE / "start/repo/dvc.yaml").write_text(DVC)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {"PATH": path, "PYTHONPATH": str(lab.ROOT), "IPYTHONDIR": str(BASE / "ipython"), "TMPDIR": str(BASE)}
    return {**os.environ, **env, "DVC_SITE_CACHE_DIR": str(BASE / "dvc"), "OMP_NUM_THREADS": "1"}


def files(name: str) -> dict[str, str]:
    """The hash of each result, and of each leftover; DVC's own folder is neither."""
    paths = [path for folder in (BASE / name, WORKS[name][1]) for path in folder.rglob("*") if path.is_file()]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths if ".dvc" not in p.parts}


def step(name: str) -> float:
    """How far the checkpoint is: infinity if at the end, -1 if there is none."""
    for path in WORKS[name][1].rglob("checkpoint.safetensors"):
        with safe_open(path, "pt") as file:
            facts = file.metadata()
        return math.inf if facts["finished"] == "True" else int(facts["step"])
    return -1


def run(name: str, env: dict[str, str], moment: float | None, rng: random.Random) -> tuple[str, list[str]]:
    """Start it, and at the moment kill one of its processes: how it ended, and what is wrong with that."""
    before, killed, wrong, log = step(name), "", [], BASE / f"{name}.log"
    with open(log, "w") as file:
        command = [sys.executable, *WORKS[name][0].split()]
        process = psutil.Popen(command, cwd=BASE / name, env=env, stdout=file, stderr=file)
        try:
            process.wait(moment)
        except psutil.TimeoutExpired:
            family = [process, *process.children(recursive=True)]
            victim = rng.choice(family)
            killed = f"killed: {' '.join(victim.cmdline()[1:])[-40:]!r} after {moment:.1f} s"
            victim.kill()
            for alive in psutil.wait_procs(family, timeout=5)[1]:
                wrong.append(f"lives on: {alive}")
                alive.kill()
            process.wait()
    after, text = step(name), log.read_text()
    said = re.search(r"going on from \w+, step (\d+)", text)
    if said and int(said[1]) != before:
        wrong.append(f"went on from step {said[1]}, not {before}")
    if process.returncode and not killed:
        return "failed", [*wrong, text[-500:]]
    if process.returncode:
        if 0 <= after < before:
            wrong.append(f"the checkpoint of step {before} is now of step {after}")
        return f"{killed}, step {before} to {after}", wrong
    if 0 <= before < math.inf and not said:
        wrong.append(f"did not go on from step {before}")
    return "finished", wrong


def main() -> int:
    """Command line; returns how many faults there were."""
    cli = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    cli.add_argument("-n", type=int, default=100, metavar="KILLS", help="default: %(default)s")
    cli.add_argument("--seed", type=int, default=0, help="of the moments; default: %(default)s")
    args = cli.parse_args()
    rng, counts, env = random.Random(args.seed), Counter[str](), prepare()
    expected: dict[str, dict[str, str]] = {}
    seconds: dict[str, float] = {}
    for name in itertools.cycle(WORKS):
        if counts["killed"] == args.n:
            break
        begin, moment = time.monotonic(), rng.uniform(0, seconds[name]) if name in seconds else None
        if not (BASE / name).exists():
            shutil.copytree(BASE / "start" / name, BASE / name)
        ended, wrong = run(name, env, moment, rng)
        counts[ended.partition(":")[0]] += 1
        if ended == "finished":
            found = files(name)
            seconds.setdefault(name, time.monotonic() - begin)
            differ = set(found.items()) ^ set(expected.setdefault(name, found).items())
            wrong += [f"differs: {path}" for path in sorted(dict(differ))]
        if ended in ("finished", "failed"):
            shutil.rmtree(BASE / name)
            shutil.rmtree(WORKS[name][1], ignore_errors=True)
        counts["faults"] += len(wrong)
        print(f"{counts['killed']:3d} {name}: {ended}", *wrong, sep="\n    ! " if wrong else "", flush=True)
    print(", ".join(f"{n} {what}" for what, n in counts.items()))
    shutil.rmtree(BASE)
    return counts["faults"]


if __name__ == "__main__":
    sys.exit(main())
