"""Ray Train: the workers, what they may use, and how their failures come back.

Ray restarts the workers when one dies; where they go on from is decided by the checkpoints in the output folder alone.
Ray's own checkpoints and its resuming by name are not used, so each run has a name of its own.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import time
import uuid
from typing import TYPE_CHECKING, Any

from stmp.errors import ConfigError, StmpError, TrainingError
from stmp_platform.files import Folder
from stmp_platform.settings import Settings
from stmp_platform.training.job import Job
from stmp_platform.training.loop import ray_loop

if TYPE_CHECKING:
    from ray.train import UserCallback

logger = logging.getLogger("stmp.training")

COLLECTIVE_TIMEOUT_S = 1800
"""How long a worker waits for the others: long enough for the slowest to load its regions."""

PATIENCE_S = 60.0
"""How long a cluster may take to get what a training asks for, unless STMP_CLUSTER_WAIT_S says otherwise."""

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": str(COLLECTIVE_TIMEOUT_S),
    "RAY_TRAIN_ENABLE_NCCL_HANG_DETECTOR": "1",
}


def train_on_ray(job: Job, settings: Settings, *, workers: int | tuple[int, int], gpu: bool, max_failures: int) -> int:
    """Train with Ray Train, and return the steps done.

    Connects to the Ray cluster of this environment, or starts one on this machine.

    Parameters
    ----------
    workers : int, or the fewest and the most
        With the latter, Ray Train looks once a minute whether the cluster has room for more, and if so starts all again
        from the newest checkpoint, as it does when some have died.
    gpu : bool
        One GPU for each worker.
    max_failures : int
        How often workers that died are started again.

    Raises
    ------
    ConfigError
        If the cluster cannot give what is asked, or the folders are not visible from all of its machines.
    StmpError
        What a worker raised, with its message.
    TrainingError
        If workers keep dying.
    """
    connect()
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    from stmp_platform.training.network import MeetingConfig

    check_folders(job.data, job.out, settings)
    fewest, elastic = (workers[0], True) if isinstance(workers, tuple) else (workers, False)
    resources = _resources(fewest, gpu, settings.cluster_wait_s, whole=elastic)
    threads = os.environ.get("OMP_NUM_THREADS")
    values = {
        "job": job.to_json(),
        "settings": settings,
        "threads": int(threads) if threads else None,
        "gpu": gpu,
    }
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        with tempfile.TemporaryDirectory(prefix="stmp-ray-") as scratch:
            result = TorchTrainer(
                ray_loop,
                train_loop_config=values,
                torch_config=MeetingConfig(timeout_s=COLLECTIVE_TIMEOUT_S),
                scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu, resources_per_worker=resources),
                run_config=RunConfig(
                    name=f"stmp-{uuid.uuid4().hex[:12]}",
                    storage_path=scratch,
                    failure_config=FailureConfig(max_failures=max_failures),
                    callbacks=[stop_on_our_errors()],
                    logging_config=LoggingConfig(log_level="ERROR"),
                ),
            ).fit()
    except TrainingFailedError as error:
        raise our_error(error, max_failures) from error
    finally:
        # Ray Train puts its own handler in place, and leaves it there.
        if interrupt is not None and signal.getsignal(signal.SIGINT) is not interrupt:
            signal.signal(signal.SIGINT, interrupt)
    return int(result.return_value)


def connect() -> None:
    """Connect to the Ray cluster of this environment, or start one on this machine; nothing where that is done."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    if not ray.is_initialized():
        ray.init(logging_level=logging.WARNING)


def stop_on_our_errors() -> UserCallback:
    """A callback that ends the run at an error of ours: bad data is as bad at the second attempt."""
    from ray.train import UserCallback

    class StopOnOurErrors(UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            ours = _ours(worker_exceptions)
            if ours is not None:
                raise ours
            for rank, error in sorted(worker_exceptions.items()):
                first = str(error).strip().splitlines()[:1]
                logging.getLogger("stmp.training").warning(
                    "Worker %d has failed (%s: %s); if attempts are left, all start again from the newest checkpoint.",
                    rank, type(error).__name__, *(first or ["no message"]),
                )  # fmt: skip

    return StopOnOurErrors()


def our_error(error: Exception, max_failures: int) -> StmpError:
    """What a failed run means to people: the error that a worker raised, or that workers keep dying."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    cause = getattr(error, "controller_failure", None)
    ours = _ours(failures) or (cause if isinstance(cause, StmpError) else None)
    if ours is not None:
        return ours
    if not failures:
        return TrainingError(f"Ray Train has failed: {error}. Repeat the command to go on from the newest checkpoint.")
    last = "; ".join(f"rank {rank}: {_last_line(failure)}" for rank, failure in sorted(failures.items()))
    return TrainingError(
        f"Workers have failed {max_failures + 1} times, the last time with {last}. Repeat the command to go on from "
        "the newest checkpoint; if workers run out of memory, use more machines or a smaller train.batch_regions."
    )


def _ours(failures: dict[int, Exception]) -> StmpError | None:
    """The first worker's error that is ours; Ray wraps what a worker raised."""
    for _, failure in sorted(failures.items()):
        inner = getattr(failure, "_base_exc", failure)
        if isinstance(inner, StmpError):
            return inner
    return None


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _resources(workers: int, gpu: bool, wait_s: float | None, whole: bool) -> dict[str, float]:
    """CPUs and GPUs of each worker, once the cluster has them.

    Parameters
    ----------
    whole : bool
        Whether each needs a CPU of its own, on a single machine as well: Ray Train counts how many fit.
    wait_s : float, optional
        How long a cluster may take to get what it has not. By default a single machine, to which nothing can be added,
        is not waited for, and a cluster for a minute.

    Raises
    ------
    ConfigError
        If there are too few GPUs, or on a cluster CPUs.
    """
    import ray

    single = len(_nodes()) == 1 and wait_s is None
    if single and not whole:
        total = ray.cluster_resources()
        if gpu and total.get("GPU", 0.0) < workers:
            raise ConfigError(
                f"--gpu with {workers} workers asks for {workers} GPUs, and Ray sees {total.get('GPU', 0.0):g}. Use "
                "fewer workers, leave --gpu out, or train on a cluster."
            )
        # Workers may share cores on one machine.
        share = min(1.0, int(100 * total.get("CPU", 0.0) / workers) / 100)
        return {"CPU": max(share, 0.01), **({"GPU": 1.0} if gpu else {})}
    each = {"CPU": 1.0, **({"GPU": 1.0} if gpu else {})}
    _wait_for(workers, each, (0.0 if single else PATIENCE_S) if wait_s is None else wait_s)
    return each


def _wait_for(workers: int, each: dict[str, float], wait_s: float) -> None:
    """Have the autoscaler, where there is one, bring what is asked for, and wait until it is there."""
    import ray
    from ray.autoscaler.sdk import request_resources

    def missing() -> list[str]:
        have = ray.cluster_resources()
        return [f"{workers * n:g} {kind}s (it has {have.get(kind, 0.0):g})" for kind, n in each.items()
                if have.get(kind, 0.0) < workers * n]  # fmt: skip

    if not missing():
        return
    request_resources(bundles=[dict(each)] * workers)
    try:
        logger.warning("Waiting up to %.0f s until the cluster has %s.", wait_s, " and ".join(missing()))
        deadline = time.monotonic() + wait_s
        while missing():
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"{workers} workers need {' and '.join(missing())}, and {wait_s:.0f} s later the cluster has no "
                    "more. Use fewer workers, or set STMP_CLUSTER_WAIT_S to the seconds that starting machines takes."
                )
            time.sleep(1.0)
    finally:
        request_resources(bundles=[])


def _nodes() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def check_folders(data: str, out: str, settings: Settings) -> None:
    """Refuse local folders that other machines of the cluster do not share.

    Raises
    ------
    ConfigError
        Naming the folder and the machines that do not see it.
    """
    nodes = _nodes()
    local = {"--data": Folder(data, settings), "--out": Folder(out, settings)}
    local = {option: folder for option, folder in local.items() if folder.local}
    if len(nodes) == 1 or not local:
        return
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_cpus=0)(_sees)
    mark = f".seen-{uuid.uuid4().hex}"
    if "--out" in local:
        local["--out"].write(mark, b"")
    paths = {"--data": f"{local['--data'].path}/manifest.json"} if "--data" in local else {}
    paths |= {"--out": f"{local['--out'].path}/{mark}"} if "--out" in local else {}
    try:
        asked = [
            (option, node["NodeManagerAddress"], look.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(path))
            for option, path in paths.items() for node in nodes
        ]  # fmt: skip
        blind: dict[str, list[str]] = {}
        for option, address, answer in asked:
            if not ray.get(answer, timeout=120):
                blind.setdefault(option, []).append(address)
    finally:
        if "--out" in local:
            local["--out"].remove(mark)
    if blind:
        told = "; ".join(f"{option} {local[option].uri} is not seen by {', '.join(a)}" for option, a in blind.items())
        raise ConfigError(
            f"The cluster has {len(nodes)} machines, and a local folder is not shared by all: {told}. Use object "
            "storage (s3://bucket/...), or a file system that is mounted at the same path everywhere."
        )


def _sees(path: str) -> bool:
    return os.path.exists(path)
