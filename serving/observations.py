"""Observations on disk: what was sold on days that the dataset does not hold yet.

A database is the one truth that all replicas share: SQLite on one machine, PostgreSQL on several. An answer is given
after the commit, which reaches the disk (``synchronous=FULL``); each change has a number, and a replica asks before
every forecast for what came after the last number it knows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    create_engine,
    event,
    insert,
    select,
    tuple_,
    update,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from stmp.errors import ConfigError, StmpError
from stmp_platform.settings import redact

BUSY_S = 20
PATIENCE = {
    "connect_timeout": 3, "tcp_user_timeout": 5_000,
    "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 2,
}  # fmt: skip
"""For PostgreSQL's client: a server that has vanished is given up after seconds, not after TCP's quarter of an hour."""
CHUNK = 500
"""Days that are looked up together."""

_tables = MetaData()
_clock = Table(
    "stmp_clock", _tables,
    Column("dataset", String(200), primary_key=True),
    Column("sequence", Integer, nullable=False),
)  # fmt: skip
_days = Table(
    "stmp_observations", _tables,
    Column("region", String(200)), Column("series", String(200)), Column("date", String(10)),
    Column("sequence", Integer, nullable=False),
    Column("sales", Float), Column("closed", Boolean, nullable=False),
    Column("past", Text, nullable=False), Column("known", Text, nullable=False),
    PrimaryKeyConstraint("region", "series", "date"),
    Index("stmp_observations_sequence", "sequence"),
)  # fmt: skip
_insert, _keys = insert(_days), [_days.c.region, _days.c.series, _days.c.date]


@dataclass(frozen=True)
class Day:
    """One day of one series of a region.

    Attributes
    ----------
    sales : float, optional
        None where it is not known.
    past, known : tuple of (name, value)
        Covariates of that day, sorted by name.
    """

    region: str
    series: str
    date: date
    sales: float | None
    closed: bool = False
    past: tuple[tuple[str, float], ...] = ()
    known: tuple[tuple[str, float], ...] = ()

    @property
    def key(self) -> tuple[str, str, str]:
        """Region, series and date."""
        return self.region, self.series, self.date.isoformat()


@dataclass(frozen=True)
class Written:
    """What became of some days."""

    added: int
    revised: int
    unchanged: int
    sequence: int


class StoreError(StmpError):
    """The database does not answer."""


class Conflict(Exception):
    """Other values are there already for some days."""

    def __init__(self, days: Sequence[Day]) -> None:
        super().__init__(f"{len(days)} days have other values already")
        self.days = list(days)


class Observations:
    """The observations of one dataset.

    Parameters
    ----------
    uri : str
        ``sqlite:///file.db`` or ``postgresql+psycopg2://...``; tables are made where they are missing.
    dataset : str
        Name of the dataset; a store belongs to one.

    Raises
    ------
    ConfigError
        If the database cannot be opened, or belongs to another dataset.
    """

    def __init__(self, uri: str, dataset: str) -> None:
        self.dataset = dataset
        try:
            self.engine = create_engine(uri, pool_pre_ping=not uri.startswith("sqlite"), connect_args=_patience(uri))
            if self.engine.dialect.name == "sqlite":
                event.listen(self.engine, "connect", _on_disk)
            self._prepare()
        except SQLAlchemyError as error:
            cause = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise ConfigError(f"The observations at {redact(uri)} cannot be opened: {redact(cause)}.") from None

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self.engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            cause = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise StoreError(f"The database of observations does not answer: {redact(cause)}.") from error

    def _prepare(self) -> None:
        try:
            _tables.create_all(self.engine)
        except SQLAlchemyError:
            _tables.create_all(self.engine)  # another replica was making them at the same time
        with self.engine.connect() as connection:
            owner = connection.scalar(select(_clock.c.dataset))
        if owner is None:
            with suppress(IntegrityError), self.engine.begin() as connection:  # or another replica was faster
                connection.execute(insert(_clock).values(dataset=self.dataset, sequence=0))
        elif owner != self.dataset:
            raise ConfigError(
                f"The store of observations belongs to the dataset '{owner}', not to '{self.dataset}'. "
                "Give each dataset a store of its own."
            )

    def write(self, days: Sequence[Day], *, revise: bool = False) -> Written:
        """Keep some days; when this returns, they are on disk. Days that are there with the same values stay.

        Raises
        ------
        Conflict
            If other values are there and `revise` is false; then nothing is written.
        StoreError
            If the database does not answer.
        """
        with self._transaction() as connection:
            # The first statement takes the lock, so that changes are numbered in the order of their commits.
            connection.execute(
                update(_clock).where(_clock.c.dataset == self.dataset).values(sequence=_clock.c.sequence + 1)
            )
            sequence = connection.scalar(select(_clock.c.sequence).where(_clock.c.dataset == self.dataset)) or 0
            there = self._there(connection, days)
            new = [day for day in days if day.key not in there]
            other = [day for day in days if day.key in there and there[day.key] != day]
            if other and not revise:
                raise Conflict(other)
            if not new and not other:
                transaction = connection.get_transaction()
                assert transaction is not None
                transaction.rollback()  # no change, so no number
                return Written(0, 0, len(days), sequence - 1)
            if new:
                connection.execute(_insert, [_row(day, sequence) for day in new])
            for day in other:
                where = [column == value for column, value in zip(_keys, day.key, strict=True)]
                connection.execute(update(_days).where(*where).values(_row(day, sequence)))
        return Written(len(new), len(other), len(days) - len(new) - len(other), sequence)

    def since(self, sequence: int) -> tuple[int, list[Day]]:
        """The days that changed after a number, in order of their changes, and the number of the last change."""
        with self._transaction() as connection:
            found = connection.execute(
                select(_days).where(_days.c.sequence > sequence).order_by(_days.c.sequence)
            ).all()
        return (max((row.sequence for row in found), default=sequence)), [_day(row) for row in found]

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()

    @staticmethod
    def _there(connection: Connection, days: Sequence[Day]) -> dict[tuple[str, str, str], Day]:
        keys = [day.key for day in days]
        parts = (keys[at : at + CHUNK] for at in range(0, len(keys), CHUNK))
        rows = (row for part in parts for row in connection.execute(select(_days).where(tuple_(*_keys).in_(part))))
        return {day.key: day for day in map(_day, rows)}


def _patience(uri: str) -> dict[str, int]:
    """How long PostgreSQL's own client waits, but for what the URI says itself; other databases take none of it."""
    url = make_url(uri)
    psycopg = url.get_backend_name() == "postgresql" and url.get_driver_name().startswith("psycopg")
    return {name: value for name, value in PATIENCE.items() if psycopg and name not in url.query}


def _on_disk(connection: Any, record: Any) -> None:
    """SQLite's settings for a commit that outlives a power cut, and for several processes."""
    cursor = connection.cursor()
    for pragma in (f"busy_timeout={BUSY_S * 1000}", "journal_mode=WAL", "synchronous=FULL"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _row(day: Day, sequence: int) -> dict[str, Any]:
    region, series, on = day.key
    return {
        "region": region, "series": series, "date": on, "sequence": sequence, "sales": day.sales,
        "closed": day.closed, "past": json.dumps(day.past), "known": json.dumps(day.known),
    }  # fmt: skip


def _day(row: Any) -> Day:
    past, known = (tuple((name, value) for name, value in json.loads(text)) for text in (row.past, row.known))
    return Day(row.region, row.series, date.fromisoformat(row.date), row.sales, row.closed, past, known)
