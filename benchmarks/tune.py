"""How much Ray Tune adds to fine-tuning: seconds of a trial's step beside those of the bare training loop.

``python benchmarks/tune.py --source MODEL --data TARGET [--trials 16] [--set KEY=VALUE]...`` tunes the target with the
trials packed one to a core, then runs the bare loop (`stmp.learning.train.train` with the lambda in the middle of the
scale) on every core at once, on the same days. Prints JSON; `--out FILE` keeps it.

Wall seconds of the search are those of all cores while it ran: starting processes, reading, training, checkpoints,
scoring, waiting. Processor seconds are those inside the trials that went to the end. The bare loop's are those of the
training alone. On a machine that is busy with other work only processor seconds can be compared.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")


def main() -> None:
    """Tune, run the bare loops, and compare."""
    arguments = parse()
    if arguments.bare:
        print(json.dumps(bare(arguments)))
        return
    import ray

    from jobs.load import load_forecaster
    from stmp_platform.settings import Settings
    from stmp_platform.tracking import MetricsLog
    from stmp_platform.tuning import tune

    ray.init(include_dashboard=False, log_to_driver=False)
    settings = Settings.from_env()
    with tempfile.TemporaryDirectory(prefix="stmp-tune-") as scratch:
        out = Path(scratch) / "out"
        source = load_forecaster(arguments.source, settings)
        begin = time.perf_counter()
        result = tune(
            source, arguments.data, out=str(out), trials=arguments.trials, overrides=arguments.set,
            until=arguments.until, settings=settings, track=False,
        )  # fmt: skip
        whole = time.perf_counter() - begin
        steps = {
            t.id: t.result["step"] if t.status == "finished" else max(MetricsLog(str(out / "trials" / t.id)).steps())
            for t in result.trials
        }
        until = str(result.finished[0].result["origins"][0])
        loops = bare_loops(arguments, until)
    cores = len(os.sched_getaffinity(0))
    trained = sum(steps.values())
    per_step = cores * result.seconds / trained
    bare_step = sum(loop["seconds"] for loop in loops) / sum(loop["steps"] for loop in loops)
    bare_busy = sum(loop["cpu_seconds"] for loop in loops) / sum(loop["steps"] for loop in loops)
    inside = [t.result for t in result.finished if t.result["step"]]
    busy = sum(r["cpu_seconds"] for r in inside) / sum(r["step"] for r in inside)
    content = {
        "machine": {"cores": cores, "python": platform.python_version(), "processor": platform.processor()},
        "target": Path(arguments.data).name,
        "settings": arguments.set,
        "trials": {
            status: sum(t.status == status for t in result.trials) for status in ("finished", "stopped", "failed")
        },
        "chosen": "inf" if math.isinf(result.chosen.strength) else result.chosen.strength,
        "seconds": {"whole": whole, "search": result.seconds, "trial": result.seconds * cores / len(result.trials)},
        "steps": trained,
        "wall_seconds_per_step": {"search": per_step, "bare": bare_step, "ratio": per_step / bare_step},
        "processor_seconds_per_step": {"trial": busy, "bare": bare_busy, "ratio": busy / bare_busy},
    }
    text = json.dumps(content, indent=1)
    print(text)
    if arguments.out:
        Path(arguments.out).write_text(text + "\n", encoding="utf-8")


def bare_loops(arguments: argparse.Namespace, until: str) -> list[dict[str, Any]]:
    """As many bare loops as there are cores, at the same time, each in a process of its own."""
    command = [sys.executable, __file__, "--bare", "--source", arguments.source, "--data", arguments.data]
    command += ["--until", until, *(f"--set={setting}" for setting in arguments.set)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(len(os.sched_getaffinity(0)))
    ]
    return [json.loads(process.communicate()[0]) for process in running]


def bare(arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds of one bare training, with nothing around it; reading the data is not counted."""
    import torch

    from jobs.load import load_forecaster
    from stmp.learning.train import train
    from stmp.learning.transfer import adaptation_config
    from stmp_platform.dataset import read_panel
    from stmp_platform.settings import Settings
    from stmp_platform.tuning.space import HIGHEST, LOWEST, PLACE, overrides

    torch.set_num_threads(1)
    source = load_forecaster(arguments.source, Settings.from_env())
    panel = read_panel(arguments.data)
    chosen = overrides({PLACE: (LOWEST + HIGHEST) / 2})
    config = adaptation_config(source, panel.frequency, [*chosen, *arguments.set])
    begin, busy = time.perf_counter(), time.process_time()
    model = train(panel, config, until=arguments.until, source=source)
    steps = model.provenance.steps
    return {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - busy, "steps": steps}


def parse() -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--until")
    parser.add_argument("--out")
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
