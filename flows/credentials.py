"""The secrets of `moco up`: out of the environment, each to those alone who need it."""

import importlib.util
import ipaddress
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
from pydantic import SecretStr

from moco.errors import MocoError

NOTIFY = "MOCO_NOTIFY"
"""An address for notifications, as Apprise writes it. It often holds a password or a token."""
PREFECT_SERVER, PREFECT_CLIENT = "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"
ADMIN_PASSWORD, SECRET_KEY, CONFIG = (
    "MLFLOW_AUTH_ADMIN_PASSWORD",
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
    "MLFLOW_AUTH_CONFIG_PATH",
)
USER, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
DATABASES = ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "MLFLOW_BACKEND_STORE_URI", "PGPASSWORD")
OF_SERVERS = (PREFECT_SERVER, ADMIN_PASSWORD, SECRET_KEY, CONFIG, *DATABASES)
"""What workers and their runs have no use for."""

USERS = """\
# Who may do what on MLflow's server; `moco up` writes this file.
[mlflow]
default_permission = EDIT
database_uri = {database}
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
"""


@dataclass(frozen=True)
class Credentials:
    """What `moco up` found in the environment.

    Attributes:
        notify: who hears of runs; or None.
        servers: variables of both servers.
        workers: variables of workers and of `moco up` itself, as a client.
        prefect_asks: whether Prefect's server asks who calls.
        mlflow_asks: whether MLflow's does.
    """

    notify: SecretStr | None
    servers: dict[str, str]
    workers: dict[str, str]
    prefect_asks: bool
    mlflow_asks: bool


def sort_out(env: Mapping[str, str], folder: Path, database: str) -> Credentials:
    """Divide an environment among servers and workers.

    Args:
        env: the environment of all, and the variables that this module names.
        folder: of `moco up`, for the file that names the database of MLflow's users.
        database: of MLflow's server.

    Raises:
        MocoError: a secret cannot be used; the message holds nothing of it.
    """
    servers = {name: value for name, value in env.items() if name != NOTIFY}
    workers = {name: value for name, value in servers.items() if name not in OF_SERVERS}
    if asked := env.get(PREFECT_SERVER):
        if not asked.isascii():
            raise MocoError(f"{PREFECT_SERVER} has letters beyond ASCII, which Prefect cannot compare; choose another")
        if workers.setdefault(PREFECT_CLIENT, asked) != asked:
            raise MocoError(
                f"{PREFECT_CLIENT} is another than {PREFECT_SERVER}, so the server would refuse its own worker; set both"
                f" alike, or unset {PREFECT_CLIENT}"
            )
    if password := env.get(ADMIN_PASSWORD):
        if importlib.util.find_spec("flask_wtf") is None:
            raise MocoError(f"{ADMIN_PASSWORD} needs the package Flask-WTF: pip install 'moco-pipeline[team]'")
        servers.setdefault(SECRET_KEY, secrets.token_hex())
        if CONFIG not in servers:
            file = folder / "mlflow-users.ini"
            file.touch(mode=0o600)  # the address may hold a password
            file.write_text(USERS.format(database=database.replace("%", "%%")))
            servers[CONFIG] = str(file)
        if PASSWORD not in workers:
            workers |= {USER: env.get("MLFLOW_AUTH_ADMIN_USERNAME", "admin"), PASSWORD: password}
    return Credentials(_told(env), servers, workers, bool(asked), bool(password))


def _told(env: Mapping[str, str]) -> SecretStr | None:
    if not (given := env.get(NOTIFY)):
        return None
    from apprise import Apprise

    if not Apprise().add(given):
        raise MocoError(
            f"{NOTIFY}: Apprise knows no such address; give one as in mailto://…, slack://… or json://…"
            " (https://appriseit.com lists them), or unset it"
        )
    return SecretStr(given)


def require_accepted(mlflow: str, workers: Mapping[str, str]) -> None:
    """See that MLflow's server takes the workers' user and password.

    Raises:
        MocoError: it does not.
    """
    user = workers.get(USER, "")
    answer = httpx.get(
        f"{mlflow}/api/2.0/mlflow/experiments/get-by-name",
        params={"experiment_name": "Default"},
        auth=(user, workers.get(PASSWORD, "")),
        timeout=30,
        trust_env=False,
    )
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        raise MocoError(
            f"MLflow's server refuses the user {user}: its password is another than {PASSWORD}, or where that is not set,"
            f" {ADMIN_PASSWORD}, which counts for a new database alone; set it to what it was then"
        )


def open_to_all(host: str, given: Credentials) -> str | None:
    """Say which servers answer everyone who reaches this machine; None: none does."""
    try:
        alone = ipaddress.ip_address(host).is_loopback
    except ValueError:
        alone = host == "localhost"
    left = [] if given.prefect_asks else [("Prefect", PREFECT_SERVER)]
    left += [] if given.mlflow_asks else [("MLflow", ADMIN_PASSWORD)]
    if alone or not left:
        return None
    return f"no password: {', '.join(f'{name} (set {variable})' for name, variable in left)}; see docs/team-server.md"
