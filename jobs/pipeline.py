"""The steps of a retraining, each by the job that is called so on the command line."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from jobs.asked import Asked, Means
from jobs.backtest import backtest
from jobs.batch import told_missing
from jobs.forecast import forecast
from jobs.ingest import summary
from jobs.known import file_digest, read_known
from jobs.load import load_forecaster
from jobs.promote import promote
from jobs.screen import say, warn
from jobs.serve import rollout
from jobs.train import load_preset
from stmp.errors import StmpError, TrackingError

if TYPE_CHECKING:
    from stmp.config import Config
    from stmp.forecaster import Forecaster
    from stmp_platform.retraining import Event, Lease, When
    from stmp_platform.tracking import Tracker

Answer = TypeVar("Answer")
BASELINES = ("seasonal_naive",)
"""Of the backtest: what the gate itself holds a first model against."""
SOURCE = "source"
"""Folder of the champion that a retraining began from."""


class Pipeline:
    """One retraining, as far as it has come.

    Parameters
    ----------
    data, out : str
    asked : Asked
    means : Means
    event : Event or None
        What has drifted, if anything has.
    lease : Lease
    """

    def __init__(self, data: str, out: str, asked: Asked, means: Means, event: Event | None, lease: Lease) -> None:
        from stmp_platform.dataset import load_manifest
        from stmp_platform.files import Folder
        from stmp_platform.gate import Rules
        from stmp_platform.retraining import Steps
        from stmp_platform.settings import Settings
        from stmp_platform.training.job import absolute

        self.data, self.asked, self.means, self.event = absolute(data), asked, means, event
        self.settings = Settings.from_env(means.tracking_uri)
        self.rules = Rules.model_validate(asked.rules)
        self.manifest = load_manifest(data)
        self.key = asked.key(self.manifest.fingerprint, self.manifest.last_sales_date)
        self.folder = Folder(f"{absolute(out.rstrip('/'))}/runs/{self.key}", self.settings)
        self.forecasts = f"{absolute(out.rstrip('/'))}/forecasts/{self.key}/"
        self.steps = Steps(self.folder, lease, self._track)
        self.tracker: Tracker | None = None
        self.inputs = {"data": self.data, "fingerprint": self.manifest.fingerprint}

    def run(self, when: When) -> dict[str, Any]:
        """Retrain if it is due or was begun, and say how it ended."""
        from stmp_platform.retraining.plan import due
        from stmp_platform.tracking.client import unanswered

        try:
            if not self.steps.begun():
                why = due(when, self.manifest, self._patiently(self._champion), self.event)
                if not why:
                    say(f"Nothing to do: no retraining is due on {self.data} (--when {when}).")
                    return {"status": "nothing"}
                say(f"Retraining {self.key}: {why}.")
            result = self._run()
        except BaseException as error:
            if self.tracker is not None:
                self.tracker.finish("FAILED" if isinstance(error, Exception) else "KILLED")
            if isinstance(error, StmpError) and unanswered(error):
                raise type(error)(f"{error} When it answers, the same `stmp retrain` goes on from here.") from error
            raise
        self._finish_tracking()
        return result

    def _run(self) -> dict[str, Any]:
        step, asked, inputs = self._step, self.asked, self.inputs
        step("data", self._look, **inputs)
        plan = step("plan", self._plan, **inputs, asked=asdict(asked))
        trained = step("train", lambda: self._train(plan), **inputs, plan=plan)
        step("backtest", lambda: self._backtest(plan, trained), **inputs, model=trained["digest"])
        version = step("register", self._register, model=trained["digest"], name=asked.name)["version"]
        decided = step("promote", lambda: self._promote(version), **inputs, version=version, rules=asked.rules)
        if decided["promoted"]:
            if self.means.url is not None:
                step("rollout", lambda: self._roll_out(version), version=version, url=self.means.url)
            known = self.means.known
            ahead = {"horizon": self.means.horizon, "known": [known, file_digest(known)] if known else None}
            step("forecast", lambda: self._forecast(version, plan), **inputs, version=version, **ahead)
        return self._report(version, decided)

    # --- the steps ---------------------------------------------------------------------------------------------------

    def _look(self) -> dict[str, Any]:
        """Keep what the manifest says of the data, which will grow."""
        self.folder.write_json("manifest.json", self.manifest.model_dump(mode="json"))
        return {**summary(self.data, self.manifest), "source": self.manifest.source}

    def _plan(self) -> dict[str, Any]:
        """From where to begin, and with which days and regions."""
        from stmp_platform.dataset import read_panel
        from stmp_platform.retraining.plan import check_future, days_and_regions, reasons_for_scratch

        champion, asked = self._champion(), self.asked
        panel = read_panel(self.data, shard=(0, self.manifest.regions))  # one region shows the columns
        config = self._config(champion)
        reasons = reasons_for_scratch(champion, config, panel, self.event)
        if reasons:
            config = self._config(None)
        chosen = days_and_regions(self.data, self.manifest, config, self.rules, asked.hold_out, asked.closed_after)
        if self.means.known is None:
            check_future(self.manifest, config, self.means.horizon or chosen.horizon)
        else:
            read_known(self.means.known, self.manifest)  # refused before anything is trained
        trained = set(champion.trained_regions) if champion is not None else set()
        say(f"From scratch: {'; '.join(reasons)}." if reasons else f"From {champion.name if champion else None}.")
        return {
            "champion": champion.name if champion is not None else None,
            "start": "scratch" if reasons else "champion",
            "reasons": reasons,
            "until": chosen.until,
            "since": chosen.since,
            "window": chosen.window,
            "regions": len(chosen.regions),
            "joined": sorted(set(chosen.regions) - trained) if trained else [],
            "left": sorted(trained - set(chosen.regions)),
        }

    def _train(self, plan: Mapping[str, Any]) -> dict[str, Any]:
        """Train into ``train/``; a training that was killed goes on from its checkpoint."""
        from stmp_platform.files import Folder
        from stmp_platform.training import train
        from stmp_platform.training.job import weights_digest

        warm = plan["start"] == "champion"
        champion = self._source(plan["champion"]) if warm else None
        result = train(
            self.data,
            self._config(champion),
            out=self.folder.child("train"),
            seed=self.asked.seed,
            workers=self.means.workers,
            gpu=self.means.gpu,
            until=plan["until"],
            source=self.folder.child(SOURCE) if warm else None,
            since=plan["since"],
            settings=self.settings,
            name=f"{self.key}-train",
            tags={
                "stmp.retraining": self.folder.uri,
                "stmp.source": champion.name if champion is not None else "",
                "stmp.preset": "" if warm else self.asked.preset,
            },
        )
        if result.tracking is not None and result.tracking.warning:
            warn(result.tracking.warning)
        learned = Folder(result.model, self.settings).read_json("forecaster.json")["provenance"]
        say(f"Trained: {learned['steps']} steps, {len(learned['trained_regions']):,} regions up to {plan['until']}")
        return {
            "model": result.model,
            "digest": weights_digest(result.model, self.settings),
            "steps": learned["steps"],
            "regions": len(learned["trained_regions"]),
            "validation": learned["validation"],
        }

    def _backtest(self, plan: Mapping[str, Any], trained: Mapping[str, Any]) -> dict[str, Any]:
        """Backtest on the days that were kept from learning; the report belongs to the training."""
        place = "train/report"
        with self._published(place) as report:
            found = backtest(
                self.data, trained["model"], start=plan["until"], horizon=plan["window"], report=report,
                baselines=BASELINES, seed=self.asked.seed, tracking_uri=self.means.tracking_uri,
            )  # fmt: skip
        errors = {name: values["wape"] for name, values in found["slices"].items() if values["n"]}
        return {"report": self.folder.child(place), "wape": errors}

    def _register(self) -> dict[str, Any]:
        """Send the training, its report and its model; waits for a store that is away as a training does."""
        from stmp_platform.tracking import Tracker

        tracker = Tracker(self.folder.child("train"), self.settings, register_as=self.asked.name)
        sent = tracker.start().finish("FINISHED")
        if not sent.complete or sent.version is None:
            raise TrackingError(f"{sent.warning} The same `stmp retrain` goes on from here.")
        version = f"{self.asked.name}/{sent.version}"
        say(f"Registered: models:/{version} in {self.settings.shown_registry}")
        return {"version": version, "run_id": sent.run_id}

    def _promote(self, version: str) -> dict[str, Any]:
        """Hold it against the champion, and make it champion if it passes."""
        place = "report/gate"
        with self._published(place) as report:
            decided = promote(
                f"models:/{version}", self.data, rules=self.means.rules, report=report, today=self.means.today,
                tracking_uri=self.means.tracking_uri,
            )  # fmt: skip
        checks = {check["rule"]: check["text"] for check in decided.get("checks", ()) if check["passed"] is False}
        return {"promoted": decided["promoted"], "broken": checks}

    def _roll_out(self, version: str) -> dict[str, Any]:
        """Have the API answer with it."""
        assert self.means.url is not None, "it is rolled out where an address is given"
        rolled = rollout(
            f"models:/{version}", url=self.means.url, dashboard=self.means.dashboard, canary=self.means.canary,
            tracking_uri=self.means.tracking_uri,
        )  # fmt: skip
        return {"before": rolled["before"], "replicas": rolled["replicas"]}

    def _forecast(self, version: str, plan: Mapping[str, Any]) -> dict[str, Any]:
        """Forecast every region that has not closed; what an earlier command asked for otherwise is replaced."""
        from stmp_platform.dataset.storage import region_names

        workers = self.means.workers
        made = forecast(
            self.data, f"models:/{version}", self.forecasts, horizon=self.means.horizon, known=self.means.known,
            workers=workers if isinstance(workers, int) else max(workers),
            regions=region_names(self.data, plan["since"]), replace=True, tracking_uri=self.means.tracking_uri,
        )  # fmt: skip
        return {key: made[key] for key in ("out", "forecast_id", "origin", "horizon", "regions", "rows", "missing")}

    def _report(self, version: str, decided: Mapping[str, Any]) -> dict[str, Any]:
        from stmp_platform.retraining.report import write_page
        from stmp_platform.retraining.steps import records

        before = {name: record for name, record in records(self.folder).items() if name != "report"}
        verdict = [f"Promoted: {version} is champion."]
        if not decided["promoted"]:
            verdict = [f"Refused: {version} breaks {len(decided['broken'])} rules of the gate; the champion stays."]
            verdict += [f"{rule}: {text}" for rule, text in decided["broken"].items()]
        made = before["forecast"]["outputs"] if decided["promoted"] else {}
        missing = made.get("missing", {})
        if missing:
            verdict.append(told_missing(missing, made["regions"]))
            if "forecast" not in self.steps.done:  # else the forecast has told
                warn(verdict[-1])

        def write() -> dict[str, Any]:
            return {"page": write_page(self.folder, self.asked.name, verdict, before), "verdict": verdict}

        ended = {name: record["ended"] for name, record in before.items()}
        page = self._step("report", write, steps=ended)["page"]
        done = self.steps.done
        if not done:
            say(f"Nothing was left to do: {self.key} was finished before.")
        say(verdict[0])
        say(f"Report: {page}")
        return {
            "status": "promoted" if decided["promoted"] else "refused",
            "key": self.key,
            "out": self.folder.uri,
            "version": version,
            "report": page,
            "missing": missing,
            "did": done,
            "steps": {name: record["outputs"] for name, record in records(self.folder).items()},
        }

    # --- what they share ---------------------------------------------------------------------------------------------

    def _step(self, name: str, work: Callable[[], dict[str, Any]], /, **inputs: Any) -> dict[str, Any]:
        """A step of `stmp_platform.retraining.Steps`, begun again for a while if the registry does not answer."""
        return self.steps.run(name, lambda: self._patiently(work), **inputs)

    def _patiently(self, work: Callable[[], Answer]) -> Answer:
        from stmp_platform.retraining.patience import patiently

        return patiently(work, self.settings.flush_s)

    def _champion(self) -> Forecaster | None:
        """The champion; None if there is none."""
        from stmp_platform.gate import Champions
        from stmp_platform.registry import list_versions

        if self.asked.name not in {version.name for version in list_versions(settings=self.settings)}:
            return None
        number = Champions(self.asked.name, settings=self.settings).current()
        return None if number is None else load_forecaster(f"models:/{self.asked.name}/{number}", self.settings)

    def _config(self, champion: Forecaster | None) -> Config:
        """The configuration that adapts a champion, or that of a training from scratch."""
        from stmp.learning.transfer import adaptation_config

        if champion is None:
            return load_preset(self.asked.preset, self.asked.settings)
        return adaptation_config(champion, self.manifest.frequency, self.asked.settings)

    def _source(self, champion: str) -> Forecaster:
        """The champion of the plan, kept where all workers see it."""
        from stmp.forecaster import Forecaster
        from stmp_platform.training.adaptation import keep_source

        if not self.folder.exists(f"{SOURCE}/forecaster.json"):
            keep_source(self.folder, load_forecaster(f"models:/{champion}", self.settings), self.settings)
        with tempfile.TemporaryDirectory(prefix="stmp-source-") as scratch:
            return Forecaster.load(self.folder.download(SOURCE, Path(scratch)))

    @contextmanager
    def _published(self, place: str) -> Iterator[Path]:
        """A local folder whose files are put into one of this retraining, or are there already."""
        if self.folder.local:
            yield Path(self.folder.path, place)
            return
        with tempfile.TemporaryDirectory(prefix="stmp-report-") as scratch:
            yield Path(scratch)
            for file in sorted(path for path in Path(scratch).rglob("*") if path.is_file()):
                self.folder.write(f"{place}/{file.relative_to(scratch).as_posix()}", file.read_bytes())

    def _track(self) -> None:
        """Begin to mirror this retraining to a run of its own."""
        from stmp_platform.tracking import Tracker

        self.tracker = Tracker(
            self.folder.uri,
            self.settings,
            config={"run": self.inputs, "retraining": asdict(self.asked)},
            dataset_fingerprint=self.manifest.fingerprint,
            tags={"mlflow.source.name": "stmp retrain"},
        ).start()

    def _finish_tracking(self) -> None:
        """Send what is left; a finished retraining whose run the store has not got is sent again."""
        from stmp_platform.tracking.record import Forwarded

        if self.tracker is None and Forwarded.read(self.folder, self.settings.shown_uri).status != "FINISHED":
            self._track()
        if self.tracker is not None:
            sent = self.tracker.finish("FINISHED")
            if sent.warning:
                warn(sent.warning)
