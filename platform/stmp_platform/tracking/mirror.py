"""Bring a tracking store up to date with a training's output folder, by steps that can be repeated.

The folder is the truth, MLflow its mirror. Every step looks at what the store has and adds what is missing, so a server
that dies at any point costs nothing but the time until the next attempt, and nothing is there twice:

- a run is looked up by the training's id before it is made;
- a metric's identity in MLflow is (run, key, step, time, value), all of which come from the metrics files;
- files are sent again only if their content changed; a model version is looked up by the digest of its files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stmp.errors import TrackingError
from stmp_platform.files import Folder, digest_of
from stmp_platform.settings import Settings
from stmp_platform.tracking.client import connect, experiment_id, not_found, tracking_errors
from stmp_platform.tracking.metrics import MetricsLog, Report
from stmp_platform.tracking.record import CONFIG_FILE, Forwarded, RunRecord, flat_params

if TYPE_CHECKING:
    from mlflow import MlflowClient

BATCH = 1000
"""Metrics in one request, MLflow's limit."""
PARAMS = 100
"""Parameters in one request, MLflow's limit."""
MODEL = "model"
VERSION_TAGS = ("stmp.version", "stmp.source", "stmp.retraining", "mlflow.source.git")
"""Tags of a run, by their first letters, that its registered version has too."""
_ARTIFACT_FOLDERS = ("report", "steps")


@dataclass(frozen=True)
class Sent:
    """What a tracking store has after a `Mirror.push`."""

    run_id: str
    step: int
    version: str | None


class Mirror:
    """Sends one output folder to one tracking store."""

    def __init__(self, out: str, settings: Settings) -> None:
        self.folder = Folder(out, settings)
        self.settings = settings
        self.log = MetricsLog(out, settings)
        self._client: MlflowClient | None = None

    def push(self) -> Sent:
        """Send all that is missing.

        Raises
        ------
        TrackingError
            If the store cannot be reached or refuses, or the folder holds no training. What was sent stays noted.
        """
        record = RunRecord.read(self.folder)
        if record is None:
            raise TrackingError(f"{self.folder.uri} holds no training: no run.json. Give the --out of a training.")
        if self._client is None:
            self._client = connect(self.settings)
        state = Forwarded.read(self.folder, self.settings.shown_uri)
        try:
            return self._push(self._client, record, state)
        except TrackingError as error:
            if not_found(error):  # the store was emptied: the next attempt begins anew
                Forwarded(store=state.store).write(self.folder)
            raise

    def _push(self, client: MlflowClient, record: RunRecord, state: Forwarded) -> Sent:
        run_id = self._ensure_run(client, record, state)
        self._describe(client, record, state, run_id)
        self._send_metrics(client, state, run_id)
        if record.status != "RUNNING":
            self._send_files(client, state, run_id)
        self._set_status(client, record, state, run_id)
        if record.status == "FINISHED" and record.register_as:  # last: a model may be refused where a run is not
            self._register(record, state, run_id)
        return Sent(run_id, state.step, state.version)

    def _ensure_run(self, client: MlflowClient, record: RunRecord, state: Forwarded) -> str:
        """The run of this training: the one noted, else the one with its id, else a new one."""
        run_id = state.run_id
        if run_id and not state.described and not self._alive(client, run_id):
            run_id, state.step, state.files, state.version, state.status = None, -1, {}, None, None
        if run_id is None:
            with tracking_errors(self.settings, "creating the run"):
                experiment = experiment_id(client, self.settings)
                wanted = f"tags.`stmp.training_id` = '{record.training_id}'"
                found = client.search_runs([experiment], wanted, max_results=1)
                run = found[0] if found else client.create_run(experiment, record.started_ms, record.all_tags())
            run_id = state.run_id = str(run.info.run_id)
            state.write(self.folder)
        if (record.mlflow_run_id, record.tracking_uri) != (run_id, state.store):
            RunRecord.update(self.folder, mlflow_run_id=run_id, tracking_uri=state.store)
        return run_id

    def _alive(self, client: MlflowClient, run_id: str) -> bool:
        try:
            with tracking_errors(self.settings, "looking for the run"):
                return bool(client.get_run(run_id).info.lifecycle_stage == "active")
        except TrackingError as error:
            if not_found(error):
                return False
            raise

    def _describe(self, client: MlflowClient, record: RunRecord, state: Forwarded, run_id: str) -> None:
        """Tags each time a training starts; parameters once, because MLflow refuses to change them."""
        if state.described:
            return
        from mlflow.entities import Param, RunTag

        with tracking_errors(self.settings, "describing the run"):
            client.log_batch(run_id, tags=[RunTag(key, value) for key, value in record.all_tags().items()])
            have = client.get_run(run_id).data.params
            params = [Param(k, v) for k, v in flat_params(self.folder.read_json(CONFIG_FILE)).items() if k not in have]
            for start in range(0, len(params), PARAMS):
                client.log_batch(run_id, params=params[start : start + PARAMS])
        state.described = True
        state.write(self.folder)

    def _send_metrics(self, client: MlflowClient, state: Forwarded, run_id: str) -> None:
        from mlflow.entities import Metric

        for reports in _batches(self.log.reports(after=state.step)):
            metrics = [Metric(key, value, r.at_ms, r.step) for r in reports for key, value in r.metrics().items()]
            with tracking_errors(self.settings, "sending metrics"):
                for start in range(0, len(metrics), BATCH):
                    client.log_batch(run_id, metrics=metrics[start : start + BATCH])
            state.step = reports[-1].step
            state.write(self.folder)

    def _send_files(self, client: MlflowClient, state: Forwarded, run_id: str) -> None:
        """The configuration, the report with its pictures, and the steps of a retraining."""
        names = [name for name in (CONFIG_FILE, *_ARTIFACT_FOLDERS) if self.folder.exists(name)]
        for name in names:
            with tempfile.TemporaryDirectory() as scratch:
                local = self.folder.download(name, Path(scratch) / name)
                digest = digest_of(local)
                if state.files.get(name) == digest:
                    continue
                with tracking_errors(self.settings, f"sending {name}"):
                    if local.is_dir():
                        client.log_artifacts(run_id, str(local), name)
                    else:
                        client.log_artifact(run_id, str(local))
            state.files[name] = digest
            state.write(self.folder)

    def _register(self, record: RunRecord, state: Forwarded, run_id: str) -> None:
        from stmp_platform import registry  # which stands on this package's client

        if not self.folder.exists(MODEL):
            return
        with tempfile.TemporaryDirectory() as scratch:
            local = self.folder.download(MODEL, Path(scratch) / MODEL)
            digest = digest_of(local)
            if state.version and state.model == digest:
                return
            assert record.register_as is not None
            version = registry.register(
                str(local),
                record.register_as,
                run_id=run_id,
                tags={
                    "stmp.training_id": record.training_id,
                    "stmp.dataset_fingerprint": record.dataset_fingerprint,
                    **{k: v for k, v in record.tags.items() if k.startswith(VERSION_TAGS)},
                },
                metrics=self._last_validation(),
                settings=self.settings,
            )
        state.version, state.model = version.version, digest
        state.write(self.folder)

    def _last_validation(self) -> dict[str, float]:
        """The latest validation metrics, by key."""
        latest: dict[str, float] = {}
        for report in self.log.reports():
            latest.update({k: v for k, v in report.metrics().items() if k.startswith("validation/")})
        return latest

    def _set_status(self, client: MlflowClient, record: RunRecord, state: Forwarded, run_id: str) -> None:
        if state.status == record.status:
            return
        with tracking_errors(self.settings, "setting the run's status"):
            if record.status == "RUNNING":
                client.update_run(run_id, status="RUNNING")  # a training that goes on after it had ended
            else:
                client.set_terminated(run_id, record.status, record.ended_ms)
        state.status = record.status
        state.write(self.folder)


def _batches(reports: Iterable[Report]) -> Iterator[list[Report]]:
    """Reports in groups of as many as fill one request."""
    group: list[Report] = []
    size = 0
    for report in reports:
        count = len(report.metrics())
        if group and size + count > BATCH:
            yield group
            group, size = [], 0
        group.append(report)
        size += count
    if group:
        yield group
