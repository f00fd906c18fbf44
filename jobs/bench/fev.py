"""`stmp bench fev`: a task of fev-bench, whose windows and metrics are those of the `fev` library.

The model learns from what lies before the first window, and carries on from window to window with what has become
known since; LightGBM is fitted anew for each. Whatever forecasts a window gets a panel in which nothing is left of what
a series sold after its cutoff.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.bench.learners import BASELINES, MetaTrained, make_learners
from jobs.bench.tasks import QUANTILES, FevTask, find_task, published
from jobs.bench.windows import Predictions, Series, Window, average, forecasts
from jobs.screen import say, table
from stmp.config import Config
from stmp.errors import ConfigError

SCORES = ("SQL", "MASE", "WAPE", "WQL")
PEERS = 5
"""Published models that are shown."""


def fev(
    name: str,
    data: str,
    config: Config,
    *,
    seeds: Sequence[int] = (0,),
    steps: int = 150,
    baselines: Sequence[str] = BASELINES,
) -> dict[str, Any]:
    """Run a task, and let fev score every model.

    Parameters
    ----------
    name : str
        Of `jobs.bench.tasks.TASKS`.
    data : str
        The dataset, ingested from the public data of the task's name.
    config : Config
        Of the model, whose horizon becomes the task's.
    seeds : sequence of int
        One model each; the forecasts of several are also averaged.
    steps : int
        Of fine-tuning before each window but the first; 0 trains once.
    baselines : sequence of str

    Returns
    -------
    dict
        ``task``, ``models``: fev's evaluation summary of each, with time, memory and WAPE by window, ``published``: the
        rows of the leaderboard.

    Raises
    ------
    ConfigError
        For an unknown task or baseline, or where fev is not installed.
    DataError
        If the data is too short for the task, or of another frequency.
    """
    task = find_task(name)
    library = _library()
    model = config.model.model_copy(update={"horizon": task.horizon, "levels": tuple(QUANTILES)})
    learners = make_learners(config.model_copy(update={"model": model}), seeds, steps, baselines, task.season)
    from stmp_platform.dataset import read_panel

    series = Series.of(task.prepare(read_panel(data)))
    say(f"{name}: {len(series.region):,} series, {task.windows} windows of {task.horizon} periods")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "series.parquet"
        series.frame().to_parquet(file, index=False)
        made = library.Task(**task.settings(file), task_name=name)
        windows = [Window.of(window, series) for window in made.iter_windows()]
        models: dict[str, dict[str, Any]] = {}
        ours: list[list[Predictions]] = []
        for known_as, learner in learners.items():
            began, used = time.perf_counter(), time.process_time()
            found = list(forecasts(learner, series, windows, task.horizon))
            cost = {"seconds": time.perf_counter() - began, "processor_seconds": time.process_time() - used}
            models[known_as] = _score(library, made, known_as, found) | cost
            if isinstance(learner, MetaTrained):
                ours.append(found)
        if len(ours) > 1:
            models["stmp, mean of seeds"] = _score(library, made, "stmp, mean of seeds", average(ours))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peers = published(name)
    _print(name, task, models, peers)
    return {"task": name, "exact": task.exact, "models": models, "published": peers, "peak_memory_bytes": memory}


def _library() -> Any:
    """The library `fev`, which is an extra."""
    try:
        import fev as library
    except ImportError as error:
        raise ConfigError(
            "The fev library is not installed. Install it in an environment of its own, for it holds other packages "
            "back: pip install 'stmp-platform[bench]'"
        ) from error
    return library


def _score(library: Any, made: Any, name: str, predictions: list[Predictions]) -> dict[str, Any]:
    """fev's summary, with each score by window, and a line on the screen."""
    summary: dict[str, Any] = made.evaluation_summary(predictions, model_name=name, trained_on_this_dataset=True)
    metrics = [library.metrics.get_metric(metric) for metric in (made.eval_metric, *made.extra_metrics)]
    by_window = [
        window.compute_metrics(
            made.clean_and_validate_predictions(part), metrics, made.seasonality, made.quantile_levels
        )
        for window, part in zip(made.iter_windows(), predictions, strict=True)
    ]
    say(f"{name}: " + "  ".join(f"{key} {summary[key]:.4f}" for key in SCORES))
    return summary | {"by_window": {key: [float(scores[key]) for scores in by_window] for key in SCORES}}


def _print(name: str, task: FevTask, models: dict[str, dict[str, Any]], peers: list[dict[str, Any]]) -> None:
    """All models of this run, and the best published ones, with WAPE's skill over the seasonal naive of each."""
    theirs = {row["model"]: row for row in peers}
    naive = {True: theirs["Seasonal Naive"]["WAPE"], False: models.get("seasonal_naive", {}).get("WAPE")}
    rows: list[tuple[Any, ...]] = []
    shown = [*peers[:PEERS], *(row for row in peers[PEERS:] if row["model"] in ("LightGBM", "Seasonal Naive"))]
    for is_published, row in (*((False, row) for row in models.values()), *((True, row) for row in shown)):
        base = naive[is_published]
        label = f"{row['model']} (published)" if is_published else row["model_name"]
        rows.append((label, *(row[key] for key in SCORES), 1 - row["WAPE"] / base if base else None))
    note = "" if task.exact else "; not fev's exact series: compare the skill"
    table(("model", *SCORES, "skill (WAPE)"), rows, f"{name}{note}")
