"""When and where the graph's stages run: Prefect drives, DVC decides what is to do.

Importing this package switches the usage reports of Prefect, DVC and MLflow off, for this process
and its children; on a closed network they cost time-outs. Set the variables yourself to have them
on.
"""

import os

import pipelines  # noqa: F401 - Ctrl-C during imports is one line

for _name, _value in {
    "DO_NOT_TRACK": "1",  # Prefect's client, and others that honor the convention
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # The server of a run without one starts slowly on a busy machine; Prefect's default is 20 s.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
}.items():
    os.environ.setdefault(_name, _value)
