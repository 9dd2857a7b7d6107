"""Secrets come from the environment, reach those who need them, and are in no message."""

import importlib.util
import stat
from pathlib import Path

import pytest

from flows import credentials
from moco.errors import MocoError

SECRET = "geheim-9271"
DATABASE = "postgresql+psycopg://moco@127.0.0.1/moco_mlflow"


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "flask_wtf" or find(name))


def test_workers_get_a_password_of_each_server_and_no_secret_of_a_server(tmp_path: Path) -> None:
    env = {name: SECRET for name in (*credentials.OF_SERVERS, credentials.CONFIG) if name != credentials.CONFIG}
    given = credentials.sort_out(
        {"PATH": "/bin", credentials.NOTIFY: f"json://{SECRET}@host"} | env, tmp_path, DATABASE
    )
    assert given.workers == {
        "PATH": "/bin",
        "PREFECT_API_AUTH_STRING": SECRET,
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": SECRET,
    }
    assert credentials.NOTIFY not in given.servers
    assert given.servers.items() >= env.items()
    assert given.prefect_asks
    assert given.mlflow_asks
    users = Path(given.servers[credentials.CONFIG])
    assert stat.S_IMODE(users.stat().st_mode) == 0o600
    assert f"database_uri = {DATABASE}" in users.read_text()
    assert SECRET not in repr(given.notify)


def test_a_person_of_their_own_in_mlflow_is_kept(tmp_path: Path) -> None:
    own = {credentials.USER: "runner", credentials.PASSWORD: "another"}
    given = credentials.sort_out({credentials.ADMIN_PASSWORD: SECRET, **own}, tmp_path, DATABASE)
    assert given.workers == own


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({"PREFECT_SERVER_API_AUTH_STRING": f"ä:{SECRET}"}, "letters beyond ASCII"),
        ({"PREFECT_SERVER_API_AUTH_STRING": SECRET, "PREFECT_API_AUTH_STRING": "a:b"}, "set both alike"),
        ({"MOCO_NOTIFY": f"nonsense://{SECRET}@host"}, "Apprise knows no such address"),
    ],
)
def test_a_secret_that_cannot_be_used_is_named_without_its_value(
    tmp_path: Path, env: dict[str, str], told: str
) -> None:
    with pytest.raises(MocoError, match=told) as raised:
        credentials.sort_out(env, tmp_path, DATABASE)
    assert SECRET not in str(raised.value)


def test_a_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MocoError, match=r"moco-pipeline\[team\]"):
        credentials.sort_out({credentials.ADMIN_PASSWORD: SECRET}, tmp_path, DATABASE)


def test_servers_that_ask_nobody_are_said_where_others_reach_them(tmp_path: Path) -> None:
    nothing = credentials.sort_out({}, tmp_path, DATABASE)
    one = credentials.sort_out({"PREFECT_SERVER_API_AUTH_STRING": SECRET}, tmp_path, DATABASE)
    for here in ("127.0.0.1", "::1", "localhost"):
        assert credentials.open_to_all(here, nothing) is None
    assert "Prefect (set PREFECT_SERVER_API_AUTH_STRING), MLflow" in str(credentials.open_to_all("0.0.0.0", nothing))
    assert "Prefect" not in str(credentials.open_to_all("team.example.org", one))
