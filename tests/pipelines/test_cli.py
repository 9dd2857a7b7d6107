"""The command line: a good help page, one line for each mistake, and each command does its work."""

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from small_material import ROOT, rows_of

from moco.config import load_params
from moco.encoders.frozen import EncoderSpec, save_encoder
from moco.encoders.kinds import network_of
from moco.encoders.normalize import IMAGENET_MEAN, IMAGENET_STD
from moco.encoders.resnet import ResNet
from pipelines import STOPPED, cli


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A project with images, shards and an untrained encoder."""
    root = tmp_path_factory.mktemp("project")
    rng = np.random.default_rng(0)
    for number in range(60):
        path = root / "photos" / ("warm" if number % 2 else "cold") / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 90, (20, 20, 3), dtype=np.uint8)
        image[..., 2 if number % 2 else 0] += 150
        cv2.imwrite(str(path), image)
    (root / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        cli.main(["fetch", "--set", "fetch.source=folder", "--set", "fetch.path=photos"])
        cli.main(["shard", "--set", "pretrain.global_batch=32", "--set", "pretrain.bn_group_size=32"])
    torch.manual_seed(0)
    backbone = ResNet("thin", "small")
    spec = EncoderSpec(network_of("thin", "small"), 12, 1.0, IMAGENET_MEAN, IMAGENET_STD, backbone.feature_dim, "hash")
    save_encoder(root / "outputs/pretrain/encoder", backbone, spec)
    return root


@pytest.fixture
def project(made, monkeypatch) -> Path:
    monkeypatch.chdir(made)
    return made


def fails(arguments: list[str], capsys) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    return stopped.value.code, capsys.readouterr().err


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--help"])
    assert stopped.value.code == 0
    page = capsys.readouterr().out
    (commands,) = (action.choices for action in cli.parser()._actions if action.dest == "command")
    assert len(commands) >= 10
    for command in commands:
        assert f"\n  {command} " in page
    assert max(map(len, page.splitlines())) <= 95


def test_help_loads_nothing_heavy():
    code = (
        "import sys, pipelines.cli\n"
        "pipelines.cli.parser().format_help()\n"
        "heavy = {'torch', 'numpy', 'cv2', 'matplotlib', 'mlflow', 'prefect', 'dvc', 'ruamel'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "arguments are required: COMMAND; see `moco --help`"),
        (["nonsense"], 2, "invalid choice: 'nonsense'"),
        (["preset", "v9"], 2, "invalid choice: 'v9'"),
        (
            ["neighbors", "photos/warm/01.png", "--k", "0"],
            2,
            "'0' is no whole number from 1 on; see `moco neighbors --help`",
        ),
        (["fetch", "--set", "fetch.sauce=1"], 1, "fetch.sauce is no known key"),
        (["fetch", "--params", "no.yaml"], 1, "no.yaml: no such file"),
        (["report"], 1, "no such file; run that stage first"),
        (["embed", "nowhere"], 1, "nowhere: no such file or folder; give images"),
        (["embed", "photos", "--encoder", "nowhere"], 1, "nowhere/encoder.json: no encoder there"),
        (["embed", "photos", "--output", "x.json"], 1, "name the output .parquet, .npy or .csv"),
        (["embed", "photos", "--encoder", "params.yaml"], 1, "params.yaml: is a text file, not weights"),
        (["inspect", "nowhere"], 1, "nowhere: No such file or directory"),
        (["inspect", "params.yaml"], 1, "params.yaml: is a text file, not weights"),
        (["inspect", "photos"], 1, "photos: is a folder; name a file of weights in it"),
        (["inspect", "outputs/pretrain/encoder", "--stride", "3"], 1, "says itself that its stem is small"),
        (["neighbors", "no.png"], 1, "no.png: No such file or directory"),
        (["neighbors", "params.yaml"], 1, "params.yaml: not a readable image"),
        (["neighbors", "photos"], 1, "photos: Is a directory"),
        (["neighbors", "photos/warm/01.png", "--shards", "photos"], 1, "index.json"),
        (["neighbors", "photos/warm/01.png", "--output", "x.jpg"], 1, "x.jpg: cannot be written; name a .png"),
        (["verify", "photos"], 1, "index.json"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(project, capsys, arguments, code, said):
    got, error = fails(arguments, capsys)
    assert (got, error.count("\n")) == (code, 1)
    assert error.startswith("error: ") and said in error


def test_inspect_says_what_a_file_holds_and_takes_what_a_person_knows(project, capsys, tmp_path):
    cli.main(["inspect", "outputs/pretrain/encoder"])
    said = capsys.readouterr().out
    assert "encoder of this project, by its metadata" in said and "image size   12 pixels" in said
    torch.save({"state_dict": ResNet("thin", "small").state_dict(), "epoch": 3}, tmp_path / "a.pth")
    cli.main(["inspect", str(tmp_path / "a.pth")])
    assert "A 3x3 stem does not tell its stride" in capsys.readouterr().out
    cli.main(["inspect", str(tmp_path / "a.pth"), "--stride", "2", "--padding", "1", "--no-pool"])
    said = capsys.readouterr().out
    assert "small-stride2: 3x3, stride 2, padding 1, no max-pooling" in said and "does not tell" not in said


def test_set_reaches_the_stage_and_the_file_stays(project, monkeypatch):
    seen = []
    monkeypatch.setattr("pipelines.report.report", seen.append)
    cli.main(["report", "--set", "report.queries=3", "--set", "report.seed=9"])
    assert (seen[0].report.queries, seen[0].report.seed) == (3, 9)
    assert load_params("params.yaml").report.queries == 8


@pytest.mark.parametrize(("options", "restart"), [([], False), (["--restart"], True)])
def test_pretrain_goes_on_unless_told_to_restart(project, monkeypatch, options, restart):
    seen = []
    monkeypatch.setattr("pipelines.pretrain.pretrain", lambda params, restart: seen.append(restart))
    cli.main(["pretrain", *options])
    assert seen == [restart]


@pytest.mark.parametrize("name", ["fetch", "shard", "linear", "report"])
def test_each_stage_is_found_in_its_own_module(project, monkeypatch, name):
    seen = []
    monkeypatch.setattr(f"pipelines.{name}.{name}", lambda params, **_: seen.append(params))
    cli.main([name])
    assert seen == [load_params("params.yaml")]


def test_ctrl_c_ends_with_130_and_no_traceback(project, monkeypatch, capsys):
    def stopped(params):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.report.report", stopped)
    assert fails(["report"], capsys) == (130, f"{STOPPED}\n")


def test_preset_rewrites_the_file_and_says_what_changed(project, tmp_path, capsys):
    path = tmp_path / "params.yaml"
    path.write_bytes((ROOT / "params.yaml").read_bytes())
    cli.main(["preset", "v2", "--params", str(path)])
    assert "pretrain.encoder.name: thin -> resnet50" in capsys.readouterr().out
    assert load_params(path).pretrain.dictionary.num_keys == 65536
    cli.main(["preset", "v2", "--params", str(path)])
    assert "already" in capsys.readouterr().out


def test_encoders_lists_names_that_params_accept(capsys):
    cli.main(["encoders"])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("resnet50 ") and "2048 features" in line and "23.5 M" in line for line in lines)


def test_embed_writes_every_image_and_names_what_it_skipped(project, capsys):
    bad = project / "photos" / "bad.jpg"
    bad.touch()
    try:
        cli.main(["embed", "photos"])
    finally:
        bad.unlink()
    table = pq.read_table("features.parquet")
    assert table.num_rows == 60 and "warm/01.png" in table["path"].to_pylist()
    said = capsys.readouterr()
    assert "skipped photos/bad.jpg: empty file" in said.err
    assert said.out.endswith("features.parquet: 60 images, 256 numbers each, 1 skipped\n")


def test_embed_takes_folders_files_lists_and_tars_at_once(project, capsys):
    shard = next(Path("data/shards").glob("train-*.tar"))
    Path("photos.csv").write_text("path,label\nphotos/warm/03.png,1\nphotos/none.png,0\n")
    cli.main(["embed", "photos/cold", "photos/warm/01.png", "photos.csv", str(shard), "--output", "all.csv"])
    with Path("all.csv").open() as file:
        names = [line.split(",")[0] for line in file][1:]
    assert names[:2] == ["photos/cold/00.png", "photos/cold/02.png"]
    assert names[30:32] == ["photos/warm/01.png", "photos/warm/03.png"]
    assert re.fullmatch(r"[0-9a-f]{16}", names[32].removeprefix(f"{shard}/"))
    said = capsys.readouterr()
    assert f"all.csv: {len(names)} images, 256 numbers each, 1 skipped" in said.out
    assert "skipped photos/none.png: No such file or directory" in said.err
    _, error = fails(["embed", "photos.csv", "--output", "photos.csv"], capsys)
    assert "photos.csv: would replace photos.csv, which is read" in error


def test_embed_in_pieces_makes_what_is_missing_and_says_how_many_are_there(project, capsys):
    command = ["embed", "photos", "--output", "features", "--pieces", "7"]
    cli.main(command)
    assert capsys.readouterr().out.endswith(
        "features: 7 of 7 pieces are there, 7 made now: 60 images, 256 numbers each\n"
    )
    Path("features/piece-00003-of-00007.parquet").unlink()
    cli.main(command)
    assert "7 of 7 pieces are there, 1 made now: 9 images" in capsys.readouterr().out
    assert pq.read_table("features").num_rows == 60


def test_processes_of_torchrun_share_the_pieces_and_never_one_file(project, monkeypatch, capsys):
    for rank in "10":
        for name, value in {"RANK": rank, "WORLD_SIZE": "2", "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": "2"}.items():
            monkeypatch.setenv(name, value)
        cli.main(["embed", "photos", "--output", "shared", "--pieces", "3"])
    first, second = [line for line in capsys.readouterr().out.splitlines() if "pieces are there" in line]
    assert first.startswith("shared: 1 of 3") and second.startswith("shared: 3 of 3")
    _, error = fails(["embed", "photos"], capsys)
    assert (
        error
        == "error: features.parquet: 2 processes (WORLD_SIZE or SLURM_NTASKS) cannot write one file; add --pieces, and name a folder\n"
    )


@pytest.mark.parametrize(
    "command", [["linear"], ["report"], ["embed", "photos"], ["neighbors", "photos/warm/01.png"]], ids=lambda c: c[0]
)
def test_every_command_that_encodes_asks_machine_yaml_for_its_device(project, monkeypatch, capsys, command):
    monkeypatch.setattr("pipelines.report.read_results", lambda folder: None)
    machine = Path("machine.yaml")
    machine.write_text("device: cuda\n")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    try:
        code, error = fails(command, capsys)
    finally:
        machine.unlink()
    assert code == 1 and error.startswith("error: machine.yaml: device = cuda") and error.count("\n") == 1


def test_neighbors_finds_the_image_itself_first_and_answers_from_the_kept_features_next_time(project, capsys):
    row = next(row for row in rows_of(project / "data/raw") if row.split == "train")
    path = row.path
    cli.main(["neighbors", f"photos/{path}", "--k", "3"])
    first = capsys.readouterr()
    assert "encoding" in first.err
    key, similarity, label = first.out.splitlines()[0].split()
    assert key == row.sha256[:16] and float(similarity) == pytest.approx(1, abs=1e-3)
    assert label == path.split("/")[0]
    assert cv2.imread("neighbors.png").shape[1] > 600
    cli.main(["neighbors", f"photos/{path}", "--k", "3"])
    second = capsys.readouterr()
    assert second.out == first.out and second.err == ""


def test_verify_passes_good_shards_and_names_a_changed_one(project, capsys):
    cli.main(["verify"])
    assert "every checksum and count is right" in capsys.readouterr().out
    shard = next(Path("data/shards").glob("train-*.tar"))
    good = shard.read_bytes()
    shard.write_bytes(good[:-1] + b"x")
    try:
        code, error = fails(["verify"], capsys)
    finally:
        shard.write_bytes(good)
    assert code == 1 and "data/shards: 1 problem" in error


def test_stage_metrics_are_where_dvc_expects_them(project):
    assert json.loads(Path("outputs/shard/metrics.json").read_text())["images"] == 60


def test_launch_prints_a_line_for_each_host_and_leaves_the_order(project, capsys):
    machine = project / "machine.yaml"
    try:
        machine.write_text("processes: 1\n")
        cli.main(["launch", "--set", "pretrain.global_batch=16", "--set", "pretrain.bn_group_size=8"])
        alone = capsys.readouterr().out
        assert "torchrun --nnodes=1 --nproc-per-node=1" in alone
        assert "--standalone -m moco.worker runs/pretrain-" in alone
        assert (project / alone.split()[-1] / "job.yaml").exists()
        machine.write_text("processes: 1\nlauncher: {kind: torchrun, nnodes: 1:2, rendezvous: a:29400}\n")
        cli.main(["launch", "--set", "pretrain.global_batch=16", "--set", "pretrain.bn_group_size=8"])
        printed = capsys.readouterr()
        assert "--nnodes=1:2" in printed.out
        assert "--rdzv-endpoint=a:29400" in printed.out
        assert printed.err == "on every host, in the project's folder:\n"
    finally:
        machine.unlink()


@pytest.mark.parametrize(
    ("text", "arguments", "said"),
    [
        ("processes: 1\n", ["--render", "kubernetes"], "has no section kubernetes"),
        ("launcher: {kind: slurm, minutes: 9}\n", [], "launcher.kind = slurm submits a job by itself"),
        ("processes: 3\n", [], "over 3 processes leaves no whole groups"),
        ("processes: 1\nmax_batch_per_process: 4\n", [], "holds no group of pretrain.bn_group_size = 8 images"),
    ],
)
def test_launch_says_in_one_line_what_it_cannot_do(project, capsys, text, arguments, said):
    machine = project / "machine.yaml"
    sizes = ["--set", "pretrain.global_batch=16", "--set", "pretrain.bn_group_size=8"]
    try:
        machine.write_text(text)
        code, err = fails(["launch", *sizes, *arguments], capsys)
    finally:
        machine.unlink()
    assert code == 1
    assert said in err
    assert err.count("\n") == 1


def test_export_writes_a_file_that_embed_reads_alone(project, tmp_path, capsys):
    file = tmp_path / "one.safetensors"
    cli.main(["export", "--to", "safetensors", str(file)])
    said = capsys.readouterr().out
    assert "thin with stem small for safetensors, loaded back, largest difference of features 0" in said
    outputs = tmp_path / "a.npy", tmp_path / "b.npy"
    cli.main(["embed", "photos", "--output", str(outputs[0])])
    cli.main(["embed", "photos", "--encoder", str(file), "--output", str(outputs[1])])
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    cli.main(["embed", "photos", "--encoder", str(file), "--pieces", "2", "--output", str(tmp_path / "pieces")])
    cli.main(["neighbors", "photos/cold/00.png", "--encoder", str(file), "--output", str(tmp_path / "n.png")])


def test_an_export_that_cannot_be_is_one_line_and_an_exit_code(project, tmp_path, capsys, monkeypatch):
    code, said = fails(["export", "--to", "timm", str(tmp_path / "thin.pth")], capsys)
    assert code == 1 and said.count("\n") == 1
    assert said.startswith(
        "error: outputs/pretrain/encoder: timm has no place for a ResNet called thin; take --to onnx"
    )
    code, said = fails(["export", "--to", "pt2", "--from", "nowhere.pt", str(tmp_path / "thin.pt2")], capsys)
    assert code == 1 and said.startswith("error: nowhere.pt: No such file or directory; name an encoder's folder")
    monkeypatch.setenv("MOCO_TRACKING", "off")
    code, said = fails(["export", "--to", "pt2", "--from", "champion", str(tmp_path / "thin.pt2")], capsys)
    assert code == 1 and said.startswith("error: champion: is in the MLflow registry, which is off")
    assert fails(["export", "--to", "keras", "x"], capsys)[0] == 2
    assert not list(tmp_path.iterdir())


def test_embed_and_neighbors_take_files_of_others_and_say_what_they_assume(project, capsys):
    network = ResNet("thin", "small-stride2")
    torch.save({"state_dict": {f"module.encoder_q.{n}": v for n, v in network.state_dict().items()}}, "theirs.pth")
    known = ["--encoder", "theirs.pth", "--stem", "small-stride2", "--image-size", "16", "--crop-ratio", "1"]
    cli.main(["embed", "photos/warm", "--output", "theirs.npy", *known])
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith("theirs.pth: official MoCo: thin with stem small-stride2; ")
    assert line.endswith("mean and deviation are taken to be ImageNet's, for the file does not say them")
    spec = EncoderSpec(network_of("thin", "small-stride2"), 16, 1.0, IMAGENET_MEAN, IMAGENET_STD, 256, "abc")
    save_encoder("theirs", network, spec)
    cli.main(["embed", "photos/warm", "--output", "ours.npy", "--encoder", "theirs"])
    np.testing.assert_allclose(np.load("theirs.npy"), np.load("ours.npy"), rtol=1e-5, atol=1e-6)
    pieces = ["embed", "photos/warm", "--output", "by-others", "--pieces", "2"]
    cli.main([*pieces, *known])
    cli.main([*pieces, *known, "--mean", "0.5", "0.5", "0.5"])
    assert "2 of 2 pieces are there, 2 made now" in capsys.readouterr().out.splitlines()[-1]  # other features
    image = "photos/warm/01.png"
    cli.main(["neighbors", image, "--k", "2", *known])
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--crop-ratio", "2"], "'2' is no number from 0.05 to 1"),
        (["--stem", "7x3"], "stem = '7x3' is no known stem"),
        (["--network", "jax:resnet"], "kind = jax: choose one of resnet, timm"),
        (["--image-size", "64"], "says itself that its image-size is "),
        (["--encoder", "nowhere.pth"], "nowhere.pth: No such file or directory"),
        (["--encoder", "params.yaml"], "params.yaml: is a text file, not weights"),
    ],
)
def test_what_is_stated_of_an_encoder_is_checked_in_one_line(project, capsys, options, said):
    code, error = fails(["embed", "photos", *options], capsys)
    assert code and error.startswith("error: ") and said in error and error.count("\n") == 1
