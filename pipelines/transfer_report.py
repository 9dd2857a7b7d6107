"""Stage report of the transfer pipeline: the table, and predictions beside ground truth."""

from moco import tracking
from moco.files import whole_folder
from moco.report.transfer import write_transfer_report
from moco.transfer.config import PARAMS, TransferParams, load_transfer_params
from pipelines import stage


def report(params: TransferParams) -> None:
    """Run the stage: outputs/transfer/report/{report.md, report.html} and their pictures."""
    outputs = stage.outputs("transfer")
    folder = outputs / "report"
    settings = {"tasks": params.tasks, "inits": params.inits}
    held = stage.alone("transfer-report", folder, "python -m pipelines.transfer_report")
    with held, tracking.stage_run("transfer-report", settings) as tracked:
        with whole_folder(folder) as part:
            write_transfer_report(part, outputs / "results", params)
        for path in sorted(folder.iterdir()):
            tracked.artifact(path)
    page = folder / "report.md"
    print(page.read_text(encoding="utf-8").split("![", 1)[0].strip())
    print(f"\n{folder / 'report.html'}: open it in a browser; {page} is the same page", flush=True)


if __name__ == "__main__":
    stage.main(report, __doc__, load_transfer_params, PARAMS)
