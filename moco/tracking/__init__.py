"""MLflow: one parent run for a pipeline run, a child for each stage, the registered encoder.

Only this folder knows MLflow, and it imports MLflow when first needed. Without MLflow, on ranks
other than 0, and with MOCO_TRACKING=off, every function here does nothing. Environment:

- MLFLOW_TRACKING_URI: where to record; unset: mlflow.db in the project's root, with mlartifacts/
  beside it.
- MLFLOW_EXPERIMENT_NAME: the experiment; unset: "moco".
- MOCO_TRACKING: on (default) or off.
- MOCO_PIPELINE_RUN: id of the parent run, set by the driver of the pipeline. Unset: the `dvc`
  process above this one has a parent run of its own. Empty: no parent.
- MOCO_REGISTER: on (default) or off: encoders are neither logged as models nor registered.
- MOCO_FLOW_RUN: id of the Prefect flow run, kept as a tag.
"""

from moco.tracking.champion import promote
from moco.tracking.connection import enabled, tracking_uri
from moco.tracking.pipeline import add_to_run, end_pipeline_run, name_runs, page_of, start_pipeline_run
from moco.tracking.registry import MODEL_NAME, describe_version, download_encoder, log_encoder, register_encoder
from moco.tracking.runs import TrackedRun, dvc_digest, flat, stage_run

__all__ = [
    "MODEL_NAME",
    "TrackedRun",
    "add_to_run",
    "describe_version",
    "download_encoder",
    "dvc_digest",
    "enabled",
    "end_pipeline_run",
    "flat",
    "log_encoder",
    "name_runs",
    "page_of",
    "promote",
    "register_encoder",
    "stage_run",
    "start_pipeline_run",
    "tracking_uri",
]
