"""What Prefect would pass over in prefect.yaml: `python -m flows.deployments` checks the file.

`prefect deploy` passes over a key that it does not know, and over the whole file where it cannot
read it, so a misspelled work pool or limit is lost in silence. Its own models say what it knows.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prefect.cli.deploy._models import DeploymentConfig, PrefectYamlModel
from prefect.client.schemas.objects import ConcurrencyOptions
from pydantic import BaseModel, ValidationError

from moco.errors import MocoError
from moco.settings import maybe_meant, models_in
from moco.text import shown
from moco.yaml_files import read_yaml
from pipelines.stage import errors_in_one_line

PREFECT = Path("prefect.yaml")
ANCHORS = "definitions"
"""The section for what the others refer to; Prefect's documentation names it, its models do not."""
TEMPLATE = "{{"  # begins what Prefect fills in later
DeploymentConfig.model_rebuild()  # its schedules are named before they are defined


def check(values: dict[str, Any], origin: str) -> list[str]:
    """Give the names of the deployments in a file's values.

    Raises:
        MocoError: Prefect does not know a key, or refuses a value; one line that names them.
    """
    problems = [*_unknown(values, [PrefectYamlModel], "")] or [*_refused(values, PrefectYamlModel, "")]
    if not problems:
        problems += [] if values.get("deployments") else ["deployments is missing or empty; add one"]
        for number, deployment in enumerate(values.get("deployments") or ()):
            problems += _not_deployed(deployment, f"deployments.{number}.")
    if problems:
        raise MocoError(f"{origin}: {'; '.join(problems)}")
    return [deployment["name"] for deployment in values["deployments"]]


def _unknown(values: Any, models: Sequence[type[BaseModel]], before: str) -> Iterator[str]:
    """Name the keys that none of the models of a place has."""
    if isinstance(values, list):
        for number, value in enumerate(values):
            yield from _unknown(value, models, f"{before}{number}.")
    if not isinstance(values, dict) or not models:
        return
    known: dict[str, list[type[BaseModel]]] = {} if before else {ANCHORS: []}
    for model in models:
        for name, field in model.model_fields.items():
            known.setdefault(field.alias or name, []).extend(models_in(field.rebuild_annotation()))
    for key, value in values.items():
        if key in known:
            yield from _unknown(value, known[key], f"{before}{key}.")
        else:
            meant = maybe_meant(key, list(known)) or "; remove it or correct its spelling"
            yield f"{before}{shown(key, quoted=False)} is no known key{meant}"


def _refused(values: Any, model: type[BaseModel], before: str) -> Iterator[str]:
    """Say what a model refuses, a line for each of the innermost places."""
    try:
        model.model_validate(values)
    except ValidationError as error:
        found: dict[str, str] = {}
        items = error.errors(include_url=False)
        # A value of several kinds has the errors of all; these are of kinds that were not meant.
        for item in [one for one in items if one["type"] not in ("extra_forbidden", "none_required")] or items:
            value, place = values, before
            for part in item["loc"]:  # names of models are among them
                if part in value if isinstance(value, dict) else isinstance(value, list) and isinstance(part, int):
                    value, place = value[part], f"{place}{part}."
            said = item["msg"].removeprefix("Value error, ")
            found.setdefault(place, f"{place[:-1]} = {shown(value)}: {said[0].lower()}{said[1:]}")
        yield from (
            text
            for place, text in found.items()
            if not any(other.startswith(place) for other in found.keys() - {place})
        )


def _not_deployed(deployment: dict[str, Any], before: str) -> Iterator[str]:
    """Say what Prefect refuses only when it deploys."""
    yield from (f"{before}{key} is missing; add it" for key in ("name", "entrypoint") if not deployment.get(key))
    entrypoint = deployment.get("entrypoint") or ""
    file, colon, _ = entrypoint.partition(":")
    if colon and TEMPLATE not in entrypoint and not Path(file).is_file():
        yield f"{before}entrypoint = {shown(entrypoint)}: there is no such file; name one of flows/"
    limit = deployment.get("concurrency_limit")
    if isinstance(limit, dict) and TEMPLATE not in str(limit):
        options = {"collision_strategy": None} | {key: value for key, value in limit.items() if key != "limit"}
        yield from _refused(options, ConcurrencyOptions, f"{before}concurrency_limit.")
        limit = limit.get("limit")
    if isinstance(limit, int) and limit < 1:
        yield f"{before}concurrency_limit: a limit of {limit} lets nothing run; raise it"


def main() -> None:
    """Check the file, and say what it deploys."""
    parser = argparse.ArgumentParser(prog="python -m flows.deployments", description="Check prefect.yaml.")
    parser.add_argument("file", nargs="?", type=Path, default=PREFECT, help=f"(default: {PREFECT})")
    file = parser.parse_args().file
    with errors_in_one_line():
        names = check(read_yaml(file), str(file))
        print(f"{file}: deploys {', '.join(names)}; `prefect deploy --all` does it")


if __name__ == "__main__":
    main()
