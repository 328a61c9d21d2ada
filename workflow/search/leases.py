"""Who works on which trial of a search, and until when: leases in the study's own database.

Optuna gives an asked trial to nobody in particular and leaves it running for ever when its worker
dies. Here a worker holds a trial for a period. A lease that has run out goes to the next worker
that asks, with the same recipe; after so many retries the trial fails.

    asked -> held -> told                            the row is deleted
             held -> out of time -> held by another  `retries` + 1
                                 -> failed           after `max_retries`

Every claim is one statement whose condition names the row as it was read (its token), so that of
any number of workers one wins. A trial whose worker died before it could write its lease is
adopted: it gets a lease of nobody, and is offered within two periods of the death. Deadlines are
seconds since 1970 on the workers' clocks, which have to agree to a small part of a period.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlready.registry.errors import ConfigError, StoreError
from rlready.registry.redaction import redacted

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from sqlalchemy import Engine, Table

NOBODY = ""
_TABLE = "rlready_leases"
_SQLITE_WAIT_S = 60.0
_ATTEMPTS = 5


@dataclass(frozen=True, kw_only=True)
class Lease:
    """One trial, held by one worker.

    Args:
        trial: its number in the study.
        worker: who holds it.
        token: changes with every claim.
        deadline: seconds since 1970; then it is offered again.
        retries: how often it was offered again.
    """

    trial: int
    worker: str
    token: str
    deadline: float
    retries: int


class Leases:
    """The leases of a study.

    Args:
        engine: of the study's database.
        study: its name.
        period_s: how long a worker may keep silent, seconds.
        max_retries: how often a trial is offered again.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        engine: Engine,
        study: str,
        *,
        period_s: float,
        max_retries: int = 2,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not period_s > 0.0 or max_retries < 0:
            raise ConfigError(
                f"a lease of {period_s:g} s with {max_retries} retries",
                fix="Give a positive period, and 0 retries or more",
            )
        self.period_s, self.max_retries, self.clock = period_s, max_retries, clock
        self._engine, self._study = engine, study
        self._table = made_table(
            engine,
            _TABLE,
            {"study": 512, "trial": None},
            {"worker": 512, "token": 32, "deadline": 0, "retries": None},
        )

    def take(self, trial: int, worker: str) -> Lease:
        """A new trial's lease.

        Raises:
            StoreError: if another worker holds it already.
        """
        if self._insert(trial, worker):
            return self._held(trial)
        adopted = self.get(trial)
        if adopted is not None and adopted.worker == NOBODY:
            won = self._claim(adopted, worker, retries=adopted.retries)
            if won is not None:
                return won
        raise StoreError(f"trial {trial} is held by another worker already")

    def take_expired(self, worker: str) -> Lease | None:
        """A trial whose lease has run out and may be tried again; None if there is none."""
        for lease in self.all():
            if lease.deadline <= self.clock() and lease.retries < self.max_retries:
                won = self._claim(lease, worker, retries=lease.retries + 1)
                if won is not None:
                    return won
        return None

    def spent(self) -> list[Lease]:
        """Leases that have run out and are not offered again."""
        now = self.clock()
        return [x for x in self.all() if x.deadline <= now and x.retries >= self.max_retries]

    def renew(self, lease: Lease) -> Lease | None:
        """The lease for another period; None if another worker has it by now, or it is closed."""
        deadline = self.clock() + self.period_s
        return self._update(lease, {"deadline": deadline}, deadline_too=False)

    def release(self, lease: Lease) -> None:
        """Offer the trial to the next one at once."""
        self._update(lease, {"deadline": self.clock()}, deadline_too=False)

    def extend(self, trial: int, seen: float) -> None:
        """Count a sign of life at `seen`, seconds since 1970; never shortens a lease."""
        table, deadline = self._table, seen + self.period_s
        statement = table.update().where(self._is(trial), table.c.deadline < deadline)
        with self._engine.begin() as connection:
            connection.execute(statement.values(deadline=deadline))

    def adopt(self, running: Iterable[int]) -> None:
        """Give a lease of nobody to each of the running trials that has none."""
        held = {lease.trial for lease in self.all()}
        for trial in set(running) - held:
            self._insert(trial, NOBODY)

    def close(self, trial: int) -> bool:
        """Drop the lease of a finished trial; False if it had none."""
        with self._engine.begin() as connection:
            done = connection.execute(self._table.delete().where(self._is(trial)))
        return bool(done.rowcount)

    def get(self, trial: int) -> Lease | None:
        """The lease of a trial, if it has one."""
        return next((lease for lease in self.all() if lease.trial == trial), None)

    def all(self) -> list[Lease]:
        """All leases, the first to run out first."""
        import sqlalchemy as sa

        table = self._table
        wanted = sa.select(table).where(table.c.study == self._study).order_by(table.c.deadline)
        with self._engine.connect() as connection:
            rows = connection.execute(wanted).mappings().all()
        return [Lease(**{key: row[key] for key in Lease.__dataclass_fields__}) for row in rows]

    def _held(self, trial: int) -> Lease:
        found = self.get(trial)
        if found is None:
            raise StoreError(f"the lease of trial {trial} was closed while it was taken")
        return found

    def _insert(self, trial: int, worker: str) -> bool:
        from sqlalchemy.exc import IntegrityError

        row = {
            "study": self._study,
            "trial": trial,
            "worker": worker,
            "token": uuid.uuid4().hex,
            "deadline": self.clock() + self.period_s,
            "retries": 0,
        }
        try:
            with self._engine.begin() as connection:
                connection.execute(self._table.insert().values(**row))
        except IntegrityError:
            return False
        return True

    def _claim(self, lease: Lease, worker: str, *, retries: int) -> Lease | None:
        values = {
            "worker": worker,
            "token": uuid.uuid4().hex,
            "deadline": self.clock() + self.period_s,
            "retries": retries,
        }
        return self._update(lease, values)

    def _update(
        self, lease: Lease, values: dict[str, Any], *, deadline_too: bool = True
    ) -> Lease | None:
        """The lease with new values, if nobody claimed it meanwhile.

        Who claims another's lease needs it as it was read, its deadline too. Who holds it does not:
        a sign of life that another worker saw (`extend`) moves the deadline and takes nothing away.
        """
        table = self._table
        as_read = [table.c.token == lease.token]
        if deadline_too:
            as_read.append(table.c.deadline == lease.deadline)
        statement = table.update().where(self._is(lease.trial), *as_read).values(**values)
        with self._engine.begin() as connection:
            won = connection.execute(statement).rowcount == 1
        known = {key: getattr(lease, key) for key in Lease.__dataclass_fields__}
        return Lease(**{**known, **values}) if won else None

    def _is(self, trial: int) -> Any:
        import sqlalchemy as sa

        return sa.and_(self._table.c.study == self._study, self._table.c.trial == trial)


def open_storage(url: str) -> RDBStorage:
    """The study's database: SQLite for the workers of one machine, PostgreSQL for those of many.

    Raises:
        ConfigError: if the URL names neither.
        StoreError: if it cannot be opened, or its driver is not installed.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    from rlready.registry.mlflow_store.backends import with_driver

    scheme = url.partition(":")[0].partition("+")[0]
    if scheme not in ("sqlite", "postgresql"):
        raise ConfigError(
            f"the storage {redacted(url)!r} is no database that workers can share",
            fix="Give sqlite:///search.db, or postgresql://user@host/name",
        )
    # Many writers of one SQLite file wait for one another; connections to a server may go stale.
    settings: dict[str, Any] = {"connect_args": {"timeout": _SQLITE_WAIT_S}}
    if scheme == "postgresql":
        settings = {"pool_pre_ping": True, "pool_size": 2}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = with_driver(_checked_url(url))
    _check_not_mlflow(url)
    for attempt in range(_ATTEMPTS):
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=settings)
        except ImportError as error:
            raise StoreError(
                f"the storage {redacted(url)} cannot be opened",
                why="no driver for PostgreSQL is installed",
                fix="Install psycopg2-binary",
            ) from error
        except SQLAlchemyError as error:
            # Of several that make the tables at the same time all but one fail, once.
            if attempt == _ATTEMPTS - 1:
                raise StoreError(
                    f"the storage {redacted(url)} cannot be opened", why=_first_line(error, url)
                ) from error
            time.sleep(0.1 * (attempt + 1))
    raise AssertionError("unreachable")


def _check_not_mlflow(url: str) -> None:
    """Return if the database is not MLflow's.

    Raises:
        ConfigError: if it is. Both write their schema's version to a table `alembic_version`, and
            whoever comes second finds the other's and stops.
    """
    import sqlalchemy as sa
    from sqlalchemy.exc import SQLAlchemyError

    try:
        engine = sa.create_engine(url)
        tables = set(sa.inspect(engine).get_table_names())
        engine.dispose()
    except (ImportError, SQLAlchemyError):
        return  # Optuna meets the same, and it is told there
    if "experiments" in tables and "studies" not in tables:
        raise ConfigError(
            f"the storage {redacted(url)} is MLflow's database",
            why="MLflow and Optuna both keep a table alembic_version",
            fix="Name another file, or another database on the same server",
        )


@contextlib.contextmanager
def asking(engine: Engine, study: str) -> Iterator[None]:
    """Let one worker at a time ask for new recipes of a study.

    Two that ask at the same moment would not see each other's trial, and get nearly the same
    recipe. The lock does not outlive its holder.
    """
    from rlready.registry.mlflow_store.locks import advisory_lock, file_lock

    if engine.dialect.name == "postgresql":
        with advisory_lock(engine, f"rlready-search:{study}"):
            yield
        return
    database = engine.url.database
    if not database or database == ":memory:":
        yield
        return
    with file_lock(Path(f"{database}.lock")):
        yield


def made_table(
    engine: Engine, name: str, keys: Mapping[str, int | None], others: Mapping[str, int | None]
) -> Table:
    """A table of ours in a study's database, made if there is none.

    Args:
        engine: of the database.
        name: of the table.
        keys: columns that name a row: length of the text, None for whole numbers.
        others: its other columns, likewise; 0 for floating point.

    Raises:
        StoreError: if it cannot be made.
    """
    import sqlalchemy as sa
    from sqlalchemy.exc import SQLAlchemyError

    def column(key: str, length: int | None) -> sa.Column[Any]:
        kind: Any = sa.Integer() if length is None else sa.String(length) if length else sa.Double()
        return sa.Column(key, kind, primary_key=key in keys, nullable=False)

    metadata = sa.MetaData()
    table = sa.Table(name, metadata, *(column(k, v) for k, v in {**keys, **others}.items()))
    for attempt in range(_ATTEMPTS):
        try:
            metadata.create_all(engine)
            break
        except SQLAlchemyError as error:
            if attempt == _ATTEMPTS - 1:
                uri = engine.url.render_as_string(hide_password=False)
                why = redacted(str(error), uri)
                raise StoreError(f"the table {name} cannot be made", why=why) from error
            time.sleep(0.1 * (attempt + 1))
    return table


def _checked_url(url: str) -> str:
    """A database's URL that can be read; of SQLite without a query, which its driver ignores."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parts = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise ConfigError(
            f"the storage {redacted(url)!r} cannot be read",
            why=redacted(str(error), url),
            fix="Give sqlite:///search.db, or postgresql://user@host/name",
        ) from None  # the text of the cause would hold the URL
    if parts.get_backend_name() == "sqlite" and "uri" not in parts.query:
        return parts.set(query={}).render_as_string(hide_password=False)
    return url


def _first_line(error: Exception, url: str) -> str:
    return redacted(str(error), url).partition("\n")[0]
