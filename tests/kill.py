"""`make kill`: end trainings by SIGKILL at random moments, and see that nothing is lost.

    python tests/kill.py [-n KILLS] [--seed SEED]

In turn the runner on stages/train, `python -m zsnr.finetune`, and `dvc repro` of that stage, with small numbers. Each
is started again until it ends. What is killed is one of the processes that then run; the others must end within
seconds. The run after it goes on from the last checkpoint, and what comes out at last has the names and the bytes of a
run that nobody disturbed. A kill after a training has removed its checkpoint is counted as late: it starts over.
"""

import argparse
import hashlib
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
from dataclasses import dataclass, field
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
PATIENCE = 5.0


@dataclass
class Work:
    """A command that goes on where it was killed; the folder that it changes, and that of its checkpoints."""

    command: list[str]
    folder: Path
    scratch: Path
    expected: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def files(self) -> dict[str, str]:
        """The hash of each result, and of each leftover; DVC's own folder is neither."""
        paths = [p for f in (self.folder, self.scratch) for p in f.rglob("*") if p.is_file() and ".dvc" not in p.parts]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

    def step(self) -> float:
        """How far the checkpoint is; infinity for one of a finished training."""
        for path in self.scratch.rglob("checkpoint.safetensors"):
            with safe_open(path, "pt") as file:
                metadata = file.metadata()
            return math.inf if metadata["finished"] == "True" else int(metadata["step"])
        return 0

    def clear(self, start: Path) -> None:
        """Begin anew."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(start / self.folder.name, self.folder)


def works(base: Path) -> dict[str, Work]:
    """The three, whose folders begin as those in base/start."""
    tiny.stable_diffusion().save_pretrained(base / "model")
    (base / "pictures").mkdir()
    for name in ("red", "green", "blue"):
        Image.new("RGB", (32, 32), name).save(base / f"pictures/{name}.png")
        (base / f"pictures/{name}.txt").write_text(f"all {name}")
    (base / "fast.py").write_text(FAST + "from zsnr.finetune.__main__ import main\nmain()\n")
    options = f"--model {base}/model --folder {base}/pictures --out {base}/tuned/out --images 1200 --batch 4 --warmup 8"
    options += " --resolution 32"
    train = "-m pipeline.nbrun stages/train smoke -p seed=0 -p width=8 -p images=4000 -o"
    for folder in ("run", "tuned", "repo"):
        (base / "start" / folder).mkdir(parents=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=base / "start/repo", check=True)
    count = "{cmd: wc -c out/weights.safetensors > size, deps: [out], outs: [size]}"
    stages = f"stages:\n  train: {{cmd: python {train} {base}/repo/out, outs: [out]}}\n  count: {count}\n"
    (base / "start/repo/dvc.yaml").write_text(stages)
    return {
        "runner": Work([*train.split(), f"{base}/run"], base / "run", lab.scratch(base / "run")),
        "fine-tuning": Work([f"{base}/fast.py", *options.split()], base / "tuned", base / "tuned/out-scratch"),
        "dvc repro": Work(["-m", "dvc", "repro", "-q"], base / "repo", lab.scratch(base / "repo/out")),
    }


def alive(env: dict[str, str]) -> list[str]:
    """All that run with this environment, whoever started them."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("ZSNR_KILL") == env["ZSNR_KILL"]:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            pass
    return found


def run(work: Work, env: dict[str, str], moment: float | None, rng: random.Random) -> tuple[str, list[str]]:
    """Start it, and at the moment kill one of its processes: how it ended, and what is wrong with that."""
    before, victim, log = work.step(), "", work.folder.with_suffix(".log")
    with open(log, "w") as file:
        process = psutil.Popen([sys.executable, *work.command], cwd=work.folder, env=env, stdout=file, stderr=file)
        try:
            process.wait(moment)
        except psutil.TimeoutExpired:
            one = rng.choice([process, *process.children(recursive=True)])
            victim = f"killed at {moment:.1f} s, {' '.join(one.cmdline()[1:])[-40:]!r}"
            one.kill()
            process.wait()
    until = time.monotonic() + PATIENCE
    while (rest := alive(env)) and time.monotonic() < until:
        time.sleep(0.1)
    wrong = [f"lives on: {line}" for line in rest]
    text, after = log.read_text(), work.step()
    said = re.search(r"going on from \w+, step (\d+)", text)
    if said and int(said[1]) != before:
        wrong.append(f"went on from step {said[1]}, not {before}")
    if process.returncode == 0:
        if 0 < before < math.inf and not said:
            wrong.append(f"did not go on from step {before}")
        found = work.files()
        work.expected = work.expected or found
        wrong += [f"differs: {name}" for name, _ in sorted(set(found.items()) ^ set(work.expected.items()))]
        return "finished", wrong
    if not victim:
        return "failed", [*wrong, text[-500:]]
    if after < before and any(work.scratch.rglob("checkpoint.safetensors")):
        wrong.append(f"the checkpoint of step {before} is now of step {after}")
    return f"{victim}, step {before} to {after}" + ", late" * (after < before), wrong


def main() -> int:
    """Command line; returns the exit status."""
    cli = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    cli.add_argument("-n", type=int, default=100, metavar="KILLS", help="default: %(default)s")
    cli.add_argument("--seed", type=int, default=0, help="of the moments; default: %(default)s")
    args = cli.parse_args()
    rng, counts, faults = random.Random(args.seed), Counter(), []
    base = Path(tempfile.mkdtemp(prefix="zsnr-kill-"))
    startup = base / "ipython/profile_default/startup"
    startup.mkdir(parents=True)
    (startup / "fast.py").write_text(FAST)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "ZSNR_KILL": str(base), "IPYTHONDIR": str(base / "ipython"), "PYTHONPATH": str(lab.ROOT)}
    env |= {"PATH": path, "TMPDIR": str(base), "DVC_SITE_CACHE_DIR": str(base / "dvc"), "OMP_NUM_THREADS": "1"}
    todo = works(base)
    for name, work in todo.items():
        work.clear(base / "start")
        begin = time.monotonic()
        ended, wrong = run(work, env, None, rng)
        work.seconds = time.monotonic() - begin
        print(
            f"{name}: {ended} undisturbed after {work.seconds:.1f} s, {len(work.expected)} files {wrong or ''}",
            flush=True,
        )
        work.clear(base / "start")
    while counts["kills"] < args.n:
        name, work = [*todo.items()][sum(counts.values()) % len(todo)]
        ended, wrong = run(work, env, rng.uniform(0, work.seconds), rng)
        counts["kills" if "killed" in ended else ended] += 1
        counts["late"] += "late" in ended
        faults += [f"{name}: {line}" for line in wrong]
        print(f"{counts['kills']:3d} {name}: {ended}", *wrong, sep="\n      ! " if wrong else "", flush=True)
        if ended in ("finished", "failed"):
            work.clear(base / "start")
    return len(faults)


if __name__ == "__main__":
    sys.exit(main())
