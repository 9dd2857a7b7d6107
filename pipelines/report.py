"""Stage report: what the stages found, as one page with tables and pictures (outputs/report)."""

from dataclasses import asdict
from pathlib import Path

from moco import tracking
from moco.cluster.machine import load_machine
from moco.config import Params
from moco.devices import compute_devices
from moco.encoders.frozen import load_encoder
from moco.explore.of_splits import of_splits
from moco.explore.page import write_page
from moco.files import whole_folder
from moco.images.index import open_split
from moco.report.results import read_results
from moco.report.samples import gather
from moco.report.write import write_report
from pipelines import stage


def report(params: Params) -> None:
    """Run the stage: outputs/report/{report.md, report.html, explore.html} and their pictures."""
    results = read_results(Path("outputs"))
    machine = load_machine()
    encoder = load_encoder(stage.ENCODER, compute_devices(machine.device))
    train, val = open_split(stage.SHARDS, "train"), open_split(stage.SHARDS, "val")
    with stage.alone("report"), tracking.stage_run("report", params.report.model_dump()) as tracked:
        samples = gather(encoder, train, val, params, machine.workers())
        folder = stage.outputs("report")
        with whole_folder(folder) as part:
            write_report(part, results, samples, params)
            if samples.map:
                pool = val if samples.held_out else train
                shown = of_splits(f"{pool.split} images", [pool], [samples.map.rows], samples.map.features, len(pool))
                write_page(part / "explore.html", shown, points=samples.map.points, device=encoder.devices[0])
        tracked.results({kind: asdict(measures) for kind, measures in samples.collapse.items()})
        for path in sorted(folder.iterdir()):
            tracked.artifact(path)
    print(f"{folder / 'report.html'}: open it in a browser; {folder / 'report.md'} is the same page")


if __name__ == "__main__":
    stage.main(report, __doc__)
