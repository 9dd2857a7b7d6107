"""Stage report of the transfer pipeline: the table, and predictions beside ground truth (outputs/transfer/report)."""

import argparse
import shutil
from pathlib import Path

from moco import tracking
from moco.report.transfer import write_transfer_report
from moco.transfer.params import PARAMS, TransferParams, load_transfer_params
from pipelines import stage


def report(params: TransferParams) -> None:
    """Run the stage: outputs/transfer/report/{report.md, report.html} and their pictures."""
    outputs = stage.outputs("transfer")
    folder, partial = outputs / "report", outputs / "report.part"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    with tracking.stage_run("transfer-report", {"tasks": params.tasks, "inits": params.inits}) as tracked:
        try:
            write_transfer_report(partial, outputs / "results", params)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        for path in sorted(folder.iterdir()):
            tracked.artifact(path)
    print((folder / "report.md").read_text(encoding="utf-8").split("![", 1)[0].strip())
    print(
        f"\n{Path(folder) / 'report.html'}: open it in a browser; {folder / 'report.md'} is the same page", flush=True
    )


if __name__ == "__main__":
    arguments = stage.with_parameters(argparse.ArgumentParser(description=__doc__), str(PARAMS)).parse_args()
    with stage.errors_in_one_line():
        report(load_transfer_params(arguments.params, arguments.set))
