"""`moco up`: Prefect's server, MLflow's server and a worker on this machine, until Ctrl-C."""

import argparse
import importlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flows
from flows import credentials, deployments, services
from flows.databases import databases
from flows.services import Service
from moco.errors import MocoError
from moco.locks import exclusive
from moco.yaml_files import read_yaml
from pipelines.stage import errors_in_one_line

LIST = "processes.json"


def parser() -> argparse.ArgumentParser:
    """Make the parser of `moco up`."""
    made = argparse.ArgumentParser(
        prog="moco up",
        description="Bring up Prefect's server, MLflow's server and a worker for this project's runs; make pools,"
        " deployments and automations where they are missing; end all of it on Ctrl-C.",
    )
    made.add_argument("--host", default="127.0.0.1", help="who may connect: this machine (default: %(default)s)")
    made.add_argument("--prefect-port", type=int, default=4200, help="(default: %(default)s)")
    made.add_argument("--mlflow-port", type=int, default=5000, help="(default: %(default)s)")
    made.add_argument(
        "--folder", type=Path, default=Path("servers"), help="of Prefect's database and the logs (default: %(default)s)"
    )
    made.add_argument(
        "--database",
        metavar="postgresql://USER@HOST/NAME",
        help="for a team: databases NAME and NAME_mlflow of a PostgreSQL; the password is PGPASSWORD's or ~/.pgpass's"
        " (default: SQLite files)",
    )
    made.add_argument(
        "--artifacts",
        default="mlartifacts",
        help="where MLflow's server keeps files: a folder or s3://BUCKET/… (default: %(default)s)",
    )
    made.add_argument("--no-worker", action="store_true", help="only the servers: runs start on other machines")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `moco up`."""
    options = parser().parse_args(arguments)
    with errors_in_one_line():
        if not deployments.PREFECT.exists():
            raise MocoError(f"{Path.cwd()}: no {deployments.PREFECT} is here; go to the project's folder")
        prefect_yaml = read_yaml(deployments.PREFECT)
        deployments.check(prefect_yaml, str(deployments.PREFECT))
        options.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with exclusive(options.folder / "lock", options.folder, 0, "has brought the servers up"):
            if services.end_left_over(options.folder / LIST):
                print("ended what an earlier `moco up` left running", flush=True)
            up(options, prefect_yaml)


def up(options: argparse.Namespace, prefect_yaml: dict[str, Any]) -> None:
    """Start everything, say where it is, and stay until Ctrl-C or until a part ends.

    Raises:
        MocoError: a port is taken, a database cannot be used, or a part ended.
    """
    begin, folder = time.monotonic(), options.folder.resolve()
    kept = databases(options.database)
    for port, option in ((options.prefect_port, "--prefect-port"), (options.mlflow_port, "--mlflow-port")):
        services.require_free(options.host, port, option)
    prefect = services.address(options.host, options.prefect_port)
    mlflow = services.address(options.host, options.mlflow_port)
    files = options.artifacts if "://" in options.artifacts else str(Path(options.artifacts).resolve())
    env = {
        **os.environ,
        "PWD": str(Path.cwd()),  # where deployments have their runs work; in a container nobody sets it
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": f"{prefect}/api",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # ten processes for what is not used here
        "MLFLOW_TRACKING_URI": mlflow,
        "MLFLOW_BACKEND_STORE_URI": kept.mlflow,  # here and not in the list of processes: it may hold a password
        "MLFLOW_ARTIFACTS_DESTINATION": files,
    }
    if kept.prefect:
        env["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = kept.prefect
    given = credentials.sort_out(env, folder, kept.mlflow)
    os.environ |= {name: value for name, value in given.workers.items() if name == credentials.PREFECT_CLIENT}
    workers: list[Service] = []
    servers: list[Service] = []

    def run(among: list[Service], name: str, *command: str) -> Service:
        among.append(services.start(name, command, given.servers if among is servers else given.workers, folder))
        services.keep_list([*workers, *servers], folder / LIST)
        return among[-1]

    try:
        here = ("--host", options.host, "--port")
        first = run(servers, "prefect", "prefect", "server", "start", *here, str(options.prefect_port))
        of_mlflow = ("--workers", "1", *(("--app-name", "basic-auth") if given.mlflow_asks else ()))
        second = run(servers, "mlflow", "mlflow", "server", *here, str(options.mlflow_port), *of_mlflow)
        registering = importlib.import_module("flows.registering")  # seconds, in which the servers start
        services.wait_for_answer(first, f"{prefect}/api/health")
        pools = registering.pools(prefect_yaml)
        registering.register(env["PREFECT_API_URL"], pools)
        if given.notify:
            importlib.import_module("flows.notifying").register(env["PREFECT_API_URL"], given.notify)
        if not options.no_worker:
            for pool in pools:
                run(workers, f"worker-{pool}", "prefect", "worker", "start", "--pool", pool)
        state = registering.state_of(Path.cwd(), Path(flows.__file__).parents[1])
        if not registering.is_deployed(env["PREFECT_API_URL"], state):
            deploy = run(workers, "deploy", "prefect", "deploy", "--all")
            if deploy.process.wait() != 0:
                services.require_alive([deploy])
            workers.remove(deploy)
            registering.note_deployed(env["PREFECT_API_URL"], state)
        services.wait_for_answer(second, f"{mlflow}/health")
        if given.mlflow_asks:
            credentials.require_accepted(mlflow, given.workers)
        print(f"runs and forms      {prefect}/deployments\nmetrics and models  {mlflow}")
        print(f"workers             {prefect}/work-pools")
        print(f"export PREFECT_API_URL={prefect}/api MLFLOW_TRACKING_URI={mlflow}   # in other terminals")
        if said := credentials.open_to_all(options.host, given):
            print(said)
        print(f"up in {time.monotonic() - begin:.0f} s; Ctrl-C ends all of it", flush=True)
        while True:
            services.require_alive([*workers, *servers])
            time.sleep(0.5)
    except KeyboardInterrupt:
        print("ending workers, their runs and the servers", file=sys.stderr, flush=True)
        raise
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C cannot leave half of it running
        services.end(workers, servers)
        (folder / LIST).unlink(missing_ok=True)


if __name__ == "__main__":
    main()
