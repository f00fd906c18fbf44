"""Who is champion, who was before, and how the one follows the other: a log whose order decides, and an alias after it.

MLflow has no history of aliases and no compare-and-swap. It has one thing that any number of clients may do at once and
that comes out in one order: adding a version to a registered model. Its number is the next one after those that are
there, which a primary key holds to, and its tags are there with it. So the moves of the alias ``champion`` of
``stores`` are the versions of ``stores.champion``, each a pointer to the version of ``stores`` that took over, with a
tag that says whom it replaced. A move counts only if the one that it says it replaces was champion at its place in the
order; so of two promoters that both replace version 1, the second's move is void, whatever their clocks say and however
long they paused. There is no lock to hold, to lose or to wait for.

The alias follows the log. Whoever appends a move sets the alias, looks whether the log still ends with that move, sets
the alias again if not, and marks the move as settled. A promoter that is killed before it appended has done nothing;
one that is killed afterwards has promoted, and the next command settles its move. An alias that differs from a settled
move was moved by hand, which is taken into the log as a move of its own.
"""

from __future__ import annotations

import getpass
import json
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from stmp.errors import RegistryError
from stmp_platform.registry import LOG_TAG, registry_client
from stmp_platform.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

Kind = Literal["promotion", "rollback", "by hand"]
MOVE_TAG, SETTLED_TAG = "stmp.move", "stmp.settled"
_ATTEMPTS = 20
"""Of an append against others: MLflow itself tries three times for the next number, and each time one of them wins."""

_PATIENCE_S = 1.0
"""How long the alias must differ from the log until somebody's hand is taken for the reason."""


class Overtaken(RegistryError):
    """Another move came first, so that this one is void."""


@dataclass(frozen=True)
class Move:
    """One move of the alias.

    Attributes
    ----------
    before, after : str or None
        The version that was champion and the one that is; None for none.
    at : str
        Time, ISO 8601 in UTC; for people only.
    by : str
        ``user@host``.
    report : str
        Folder of the gate's report among the artifacts of the version, where a gate decided.
    number : int
        Place in the log.
    settled : bool
        The alias has followed.
    """

    kind: Kind
    before: str | None
    after: str | None
    at: str
    by: str
    id: str
    report: str = ""
    number: int = 0
    settled: bool = False


class Champions:
    """The champions of one registered model under one alias.

    Parameters
    ----------
    name : str
        The registered model, which must exist.
    alias : str
    """

    def __init__(self, name: str, alias: str = "champion", settings: Settings | None = None) -> None:
        self.name, self.alias = name, alias
        self.log = f"{name}.{alias}"
        self.settings = settings or Settings.from_env()

    def history(self) -> list[Move]:
        """The moves that count, in their order.

        Raises
        ------
        RegistryError
            If the registry does not answer.
        """
        with self._client("reading the history") as client:
            return self._moves(client)

    def current(self) -> str | None:
        """The champion's version, after settling what a killed promoter left and taking in what was moved by hand.

        Raises
        ------
        RegistryError
            If the registry does not answer, or holds no such model.
        """
        with self._client(f"reading the alias '{self.alias}'") as client:
            return self._settle(client)

    def previous(self) -> str | None:
        """The version that was champion before the current one took over, skipping those that were deleted since."""
        with self._client("reading the history") as client:
            there = self._versions(client)
            former = lineage(self._moves(client))
        return next((version for version in reversed(former) if version in there), None)

    def move(self, kind: Kind, before: str | None, after: str, report: str = "") -> Move:
        """Make a version champion, if the one that it is to replace still is.

        Raises
        ------
        Overtaken
            If another move came first; nothing is changed.
        RegistryError
            If the registry does not answer: the move may then have been made, and the next command says so.
        """
        with self._client(f"moving the alias '{self.alias}'") as client:
            return self._append(client, _new(kind, before, after, report))

    # --- the log -----------------------------------------------------------------------------------------------

    def _append(self, client: MlflowClient, move: Move) -> Move:
        self._begin(client)
        self._create(client, move)
        counted = self._moves(client)
        mine = next((m for m in counted if m.id == move.id), None)
        if mine is None:
            raise Overtaken(
                f"'{self.name}' changed its champion meanwhile: version {counted[-1].after or 'none'} is champion, and "
                f"not {move.before or 'none'}, which this was measured against. Nothing was moved; try again against "
                "the new one."
            )
        self._follow(client)
        return mine

    def _create(self, client: MlflowClient, move: Move) -> None:
        """Add a version to the log: the one step that decides."""
        from mlflow.exceptions import MlflowException

        content = {key: value for key, value in asdict(move).items() if key not in ("number", "settled")}
        # A pointer, not a copy. It must point somewhere, also where the move is to no version.
        source = f"models:/{self.name}/{move.after or self._versions(client)[0]}"
        for attempt in range(_ATTEMPTS):
            try:
                client.create_model_version(self.log, source=source, tags={MOVE_TAG: json.dumps(content)})
                return
            except MlflowException as error:
                if "Giving up" not in str(error) or attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(0.05 * attempt)  # several appended at once, and others won

    def _follow(self, client: MlflowClient) -> None:
        """Bring the alias to where the log ends, also if that moves meanwhile, and mark the last move as settled."""
        while True:
            last = self._moves(client)[-1]
            if last.after is not None:
                client.set_registered_model_alias(self.name, self.alias, last.after)
            if self._moves(client)[-1].number == last.number:
                client.set_model_version_tag(self.log, str(last.number), SETTLED_TAG, "true")
                return

    def _settle(self, client: MlflowClient) -> str | None:
        for pause in (_PATIENCE_S, 0.0):
            moves = self._moves(client)  # before the alias: a move that comes in between makes ours void
            noted = moves[-1].after if moves else None
            if moves and not moves[-1].settled:
                self._follow(client)
                return self._moves(client)[-1].after
            aliases = client.get_registered_model(self.name).aliases
            seen = str(aliases[self.alias]) if self.alias in aliases else None
            if seen == noted:
                return noted
            time.sleep(pause if moves else 0.0)  # a promoter may be at it
        return self._append(client, _new("by hand", noted, seen)).after

    def _begin(self, client: MlflowClient) -> None:
        """Make the log, if it is not there."""
        from mlflow.exceptions import MlflowException

        try:
            client.create_registered_model(
                self.log, tags={LOG_TAG: self.name}, description=f"The champions of {self.name}, in their order."
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            if LOG_TAG not in client.get_registered_model(self.log).tags:
                raise RegistryError(
                    f"The registered model '{self.log}' is where the champions of '{self.name}' are kept, and holds "
                    "something else. Rename it."
                ) from error

    def _versions(self, client: MlflowClient) -> list[str]:
        """The versions of the model that exist, newest first."""
        return [str(version.version) for version in client.search_model_versions(f"name = '{self.name}'")]

    def _moves(self, client: MlflowClient) -> list[Move]:
        """The moves that count: each must replace the one that was champion when its turn came."""
        found = []
        for version in client.search_model_versions(f"name = '{self.log}'"):
            if MOVE_TAG in version.tags:
                content: dict[str, Any] = json.loads(version.tags[MOVE_TAG])
                found.append(Move(**content, number=int(version.version), settled=SETTLED_TAG in version.tags))
        return effective(found)

    @contextmanager
    def _client(self, action: str) -> Iterator[MlflowClient]:
        with registry_client(self.settings, f"{action} of '{self.name}'") as client:
            yield client


def effective(moves: list[Move]) -> list[Move]:
    """Those of the moves that count, in their order."""
    champion, counted = None, []
    for move in sorted(moves, key=lambda m: m.number):
        if move.before == champion and move.after != champion:
            counted.append(move)
            champion = move.after
    return counted


def lineage(moves: list[Move]) -> list[str]:
    """The versions that rollbacks would return to, one after the other, the first of them last.

    Parameters
    ----------
    moves : list of Move
        Those that count.
    """
    champion: str | None = None
    former: list[str] = []
    for move in moves:
        if move.kind != "promotion" and move.after in former:
            # Back to an earlier champion: what came after it is no longer before anything.
            del former[len(former) - 1 - former[::-1].index(move.after) :]
        elif champion is not None and move.after is not None:
            former.append(champion)
        champion = move.after
    return former


def whoami() -> str:
    """Who acts, for the record: ``user@host``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def now() -> str:
    """The time, for the record."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _new(kind: Kind, before: str | None, after: str | None, report: str = "") -> Move:
    return Move(kind, before, after, now(), whoami(), uuid.uuid4().hex, report)
