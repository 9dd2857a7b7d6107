"""Where the servers of `moco up` keep what they know."""

import importlib.util
from dataclasses import dataclass
from urllib.parse import urlsplit

from moco.errors import MocoError
from moco.text import without_password
from moco.tracking import connection

EXAMPLE = "postgresql://moco@127.0.0.1/moco"


@dataclass(frozen=True)
class Databases:
    """Addresses as SQLAlchemy takes them.

    Attributes:
        prefect: None: Prefect's own choice, a SQLite file in PREFECT_HOME, or what
            PREFECT_SERVER_DATABASE_CONNECTION_URL says.
        mlflow: for MLflow.
    """

    prefect: str | None
    mlflow: str


def databases(team: str | None) -> Databases:
    """Give both servers' databases, after a look whether they answer.

    Args:
        team: a PostgreSQL's address; Prefect's is its database NAME, MLflow's is NAME_mlflow, for
            both keep a table `alembic_version`. None: files.

    Raises:
        MocoError: the address is none, holds a password, or no such database answers.
    """
    if team is None:
        uri = connection.tracking_uri()
        return Databases(None, uri if "://" in uri and not uri.startswith("http") else connection.local_uri())
    parts = urlsplit(team)
    name = parts.path.removeprefix("/")
    if parts.scheme not in ("postgresql", "postgres") or not parts.hostname or not name or "/" in name:
        raise MocoError(f"--database {without_password(team)}: give it as in {EXAMPLE}")
    if parts.password is not None:
        raise MocoError(
            "--database holds a password, which every user of this machine could read in the list of processes; put it"
            " into PGPASSWORD or ~/.pgpass, and leave it out here"
        )
    if importlib.util.find_spec("psycopg") is None:
        raise MocoError("--database needs the package psycopg: pip install 'moco-pipeline[team]'")
    query = f"?{parts.query}" if parts.query else ""
    of_prefect, of_mlflow = (f"{parts.netloc}/{database}{query}" for database in (name, f"{name}_mlflow"))
    for database in (of_prefect, of_mlflow):
        _require_answer(f"postgresql://{database}")
    return Databases(f"postgresql+asyncpg://{of_prefect}", f"postgresql+psycopg://{of_mlflow}")


def _require_answer(uri: str) -> None:
    import psycopg

    try:
        psycopg.connect(uri, connect_timeout=5).close()
    except psycopg.Error as error:
        said = " ".join(str(error).split())[:300]
        raise MocoError(
            f"--database: {uri} cannot be used ({said}); start PostgreSQL, or make user and database as docs/team-server.md"
            " shows"
        ) from None
