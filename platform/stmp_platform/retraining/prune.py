"""What may go of old retrainings, forecasts, versions and states of a dataset, and what anything still needs.

Of each kind the newest stay, and all that is young. Besides these stay, however old they are, versions with an alias,
versions that were champion or gave way to one, and versions that a version which stays was trained from; the
retrainings that made them, with their reports and their runs; and the states of the dataset that they have learned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from stmp.errors import TrackingError
from stmp_platform.dataset.manifest import HISTORY, load_manifest
from stmp_platform.files import Folder
from stmp_platform.gate import Champions
from stmp_platform.registry import DIGEST_TAG, LOG_TAG, Version, list_versions, registry_client
from stmp_platform.retraining.steps import records
from stmp_platform.settings import Settings
from stmp_platform.tracking.client import not_found, tracking_errors
from stmp_platform.tracking.record import RunRecord

RUNS, FORECASTS = "runs", "forecasts"


@dataclass(frozen=True)
class Rule:
    """What stays of each kind for its age: so many of the newest, and all that is younger than some days."""

    keep: int = 5
    days: int = 90


@dataclass(frozen=True)
class Item:
    """Something that could go.

    Attributes
    ----------
    kind : str
        ``version``, ``retraining``, ``forecast``, or ``state`` of a dataset.
    name : str
        The number of a version, or the key or fingerprint by which its folder or file is called.
    made : str
        When, ISO 8601 in UTC; empty where that is not known, which is older than all others.
    why : str
        Why it stays; empty if it goes.
    """

    kind: str
    name: str
    made: str
    why: str = ""


class Pruning:
    """A survey of what a dataset's retrainings have left, and the removal of what nothing needs.

    Parameters
    ----------
    data, out : str
        The dataset, and the folder of its retrainings.
    model : str
        The registered model.
    rule : Rule

    Raises
    ------
    DataError
        If there is no dataset.
    RegistryError
        If the registry does not answer.
    """

    def __init__(self, data: str, out: str, model: str, rule: Rule, settings: Settings) -> None:
        self.data, self.out = Folder(data, settings), Folder(out, settings)
        self.model, self.settings = model, settings
        self._rule = rule
        self._young = (datetime.now(UTC) - timedelta(days=rule.days)).isoformat()
        self._all = list_versions(settings=settings)
        self._versions = [version for version in self._all if version.name == model]
        self._made_by = {key: self._version_of(key) for key in self.out.names(RUNS)}
        versions = self._survey("version", {v.version: _made(v) for v in self._versions}, self._needed_versions())
        self._kept = {item.name for item in versions if item.why}
        versions = self._with_sources(versions)
        learned = {v.dataset_fingerprint: f"{v.name}/{v.version} has learned it" for v in self._kept_versions()}
        retrainings = self._survey("retraining", self._retrainings(), self._needed_retrainings())
        forecasts = self._survey("forecast", self._forecasts(), self._needed_forecasts())
        used = {self._fingerprint_of(item.name): "a forecast is of it" for item in forecasts if item.why}
        present = {load_manifest(data).fingerprint: "it is the present one"}
        states = self._survey("state", self._states(), used | learned | present)
        self.items = [*versions, *retrainings, *forecasts, *states]

    def carry_out(self) -> None:
        """Remove what nothing needs. It may be killed, and repeated.

        Raises
        ------
        RegistryError
            If the registry does not answer.
        """
        by_number = {version.version: version for version in self._versions}
        removers: dict[str, Callable[[str], None]] = {
            "version": lambda name: self._remove_version(by_number[name]),
            "retraining": self._remove_retraining,
            "forecast": self._remove_forecast,
            "state": lambda name: self.data.remove(f"{HISTORY}/{name}.json"),
        }
        for item in self.items:
            if not item.why:
                removers[item.kind](item.name)

    # --- what there is, and what is needed ----------------------------------------------------------------------------

    def _survey(self, kind: str, made: dict[str, str], needed: dict[str, str]) -> list[Item]:
        """All of one kind, the newest first."""
        items = []
        for place, (name, when) in enumerate(sorted(made.items(), key=lambda pair: pair[1], reverse=True)):
            why = needed.get(name, "")
            if not why and place < self._rule.keep:
                why = f"it is among the newest {self._rule.keep}"
            if not why and when > self._young:
                why = f"it is younger than {self._rule.days} days"
            items.append(Item(kind, name, when, why))
        return items

    def _needed_versions(self) -> dict[str, str]:
        by_age = self._survey("retraining", self._retrainings(), {})
        made = [self._made_by[item.name].rpartition("/") for item in by_age if item.why]
        needed = {number: "its retraining stays" for name, _, number in made if name == self.model}
        for alias in self._aliases():
            for move in Champions(self.model, alias, self.settings).history():
                needed |= {number: f"it was {alias}" for number in (move.before, move.after) if number is not None}
        return needed | {v.version: f"it has the alias {v.aliases[0]}" for v in self._versions if v.aliases}

    def _aliases(self) -> list[str]:
        """The aliases whose moves are logged."""
        if not self._versions:
            return []
        with registry_client(self.settings, f"looking for the champions of '{self.model}'") as client:
            logs = client.search_registered_models(f"name LIKE '{self.model}.%'", max_results=1000)
        return [log.name.removeprefix(f"{self.model}.") for log in logs if LOG_TAG in (log.tags or {})]

    def _with_sources(self, items: list[Item]) -> list[Item]:
        """Keep also the versions that those which stay were trained from, and these from."""
        found = {item.name: item for item in items}
        waiting = sorted(self._kept)
        sources = {v.version: v.tags.get("stmp.source", "") for v in self._versions}
        while waiting:
            number = waiting.pop()
            name, _, source = sources[number].rpartition("/")
            if name == self.model and source in found and not found[source].why:
                item = found[source]
                found[source] = Item(item.kind, source, item.made, f"{self.model}/{number} was trained from it")
                self._kept.add(source)
                waiting.append(source)
        return list(found.values())

    def _kept_versions(self) -> list[Version]:
        return [version for version in self._versions if version.version in self._kept]

    def _retrainings(self) -> dict[str, str]:
        found = {}
        for key in self.out.names(RUNS):
            record = RunRecord.read(Folder(self.out.child(f"{RUNS}/{key}"), self.settings))
            made = datetime.fromtimestamp(record.started_ms / 1000, UTC).isoformat() if record else ""
            found[key] = made
        return found

    def _needed_retrainings(self) -> dict[str, str]:
        needed = {}
        for key, version in self._made_by.items():
            name, _, number = version.rpartition("/")
            if number in self._kept or name not in ("", self.model):  # other models' versions are let be
                needed[key] = f"it has made {version}"
        return needed

    def _version_of(self, key: str) -> str:
        """The version that a retraining has made; empty if it has not come so far."""
        step = records(Folder(self.out.child(f"{RUNS}/{key}"), self.settings)).get("register")
        return str(step["outputs"]["version"]) if step else ""

    def _forecasts(self) -> dict[str, str]:
        done = {key: self.out.read_json(f"{FORECASTS}/{key}/_SUCCESS") for key in self.out.names(FORECASTS)}
        begun = self._retrainings()  # of the same key
        return {key: str(content.get("created") or begun.get(key, "")) for key, content in done.items()}

    def _needed_forecasts(self) -> dict[str, str]:
        """Those of an unknown age, which may be being written."""
        return {key: "it is not finished" for key, made in self._forecasts().items() if not made}

    def _fingerprint_of(self, forecast: str) -> str:
        return str(self.out.read_json(f"{FORECASTS}/{forecast}/_plan.json").get("dataset_fingerprint", ""))

    def _states(self) -> dict[str, str]:
        names = [name.removesuffix(".json") for name in self.data.names(HISTORY)]
        return {name: str(self.data.read_json(f"{HISTORY}/{name}.json")["created_at"]) for name in names}

    # --- removal -----------------------------------------------------------------------------------------------------

    def _remove_version(self, version: Version) -> None:
        """A version, and its files and its run unless another version has them too; the version itself last."""
        digest = version.tags.get(DIGEST_TAG, "")
        others = [v for v in self._all if v != version and (v.name != self.model or v.version in self._kept)]
        shared = any((v.run_id, v.tags.get(DIGEST_TAG)) == (version.run_id, digest) for v in others)
        with registry_client(self.settings, f"removing {version.uri}") as client:
            if version.run_id and digest and not shared:
                experiment = client.get_run(version.run_id).info.experiment_id
                for model in client.search_logged_models([experiment], f"tags.`{DIGEST_TAG}` = '{digest}'"):
                    if model.source_run_id == version.run_id:
                        client.delete_logged_model(model.model_id)
        if version.run_id and version.run_id not in {v.run_id for v in others}:
            self._remove_run(version.run_id)
        with registry_client(self.settings, f"removing {version.uri}") as client:
            client.delete_model_version(version.name, version.version)

    def _remove_retraining(self, key: str) -> None:
        """A retraining's folder, and before it its runs."""
        for part in ("", "/train"):
            record = RunRecord.read(Folder(self.out.child(f"{RUNS}/{key}{part}"), self.settings))
            if record is not None and record.mlflow_run_id and record.tracking_uri == self.settings.shown_uri:
                self._remove_run(record.mlflow_run_id)
        self.out.remove_folder(f"{RUNS}/{key}")

    def _remove_forecast(self, key: str) -> None:
        self.out.remove(f"{FORECASTS}/{key}/_SUCCESS")  # first: without it the parts are no whole forecast
        self.out.remove_folder(f"{FORECASTS}/{key}")

    def _remove_run(self, run_id: str) -> None:
        """Mark a run as deleted; one that is not there any more is."""
        with registry_client(self.settings, f"removing the run {run_id}") as client:
            try:
                with tracking_errors(self.settings, f"removing the run {run_id}"):
                    client.delete_run(run_id)
            except TrackingError as error:
                if not not_found(error):
                    raise


def _made(version: Version) -> str:
    return version.created.isoformat() if version.created else ""
