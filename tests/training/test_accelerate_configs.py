"""The shipped settings of `accelerate launch`: Accelerate reads them, and a training runs under them."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from contrastill.cli.main import main
from contrastill.core.config.loading import configs_folder
from helpers.paths import ROOT

FOLDER = configs_folder() / "accelerate"
TRAIN = [
    "train",
    "teachers/rooms",
    "student.model=resnet8",
    "data.train_samples=24",
    "data.test_samples=8",
    "train.epochs=1",
    "train.batch_size=16",
]


def test_there_is_one_for_each_size_and_its_head_says_how_it_is_used():
    assert sorted(path.name for path in FOLDER.iterdir()) == ["one_gpu.yaml", "several_gpus.yaml", "several_nodes.yaml"]
    for path in FOLDER.iterdir():
        head = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        assert any(f"accelerate launch --config_file configs/accelerate/{path.name}" in line for line in head)


@pytest.mark.parametrize(
    ("name", "kind", "machines", "processes"),
    [("one_gpu", "NO", 1, 1), ("several_gpus", "MULTI_GPU", 1, 4), ("several_nodes", "MULTI_GPU", 2, 16)],
)
def test_accelerate_reads_it_and_knows_every_key(name, kind, machines, processes):
    path = FOLDER / f"{name}.yaml"
    config = load_config_from_file(str(path))
    assert (config.distributed_type.value, config.num_machines, config.num_processes, config.use_cpu) == (
        kind,
        machines,
        processes,
        False,
    )
    # Precision and compilation are the training's own: a file that sets them would say one thing and do another.
    assert not {"mixed_precision", "dynamo_config", "dynamo_backend", "fsdp_config"} & set(
        yaml.safe_load(path.read_text(encoding="utf-8"))
    )


@pytest.mark.parametrize("name", ["one_gpu", "several_gpus", "several_nodes"])
def test_the_command_in_its_head_is_one_of_accelerates_and_of_ours(name, capsys, monkeypatch):
    head = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").replace("\\\n#", "")
    command = (
        next(line for line in head.splitlines() if "accelerate launch --config_file" in line)
        .split("accelerate launch ")[1]
        .split()
    )
    monkeypatch.chdir(ROOT)
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(command))
    assert (
        arguments.module and arguments.training_script == "contrastill" and arguments.main_training_function == "main"
    )
    assert arguments.multi_gpu == (name != "one_gpu")
    assert (
        main(
            [
                *arguments.training_script_args,
                "data.name=packed" if name == "one_gpu" else "train.batch_size=64",
                "--dry-run",
            ]
        )
        == 0
    )
    assert "objectives" in capsys.readouterr().out


def test_a_training_runs_under_it_where_there_is_no_gpu_too(tmp_path):
    launch = ["-m", "accelerate.commands.launch", "--config_file", str(FOLDER / "one_gpu.yaml"), "-m", "contrastill"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "NO_ALBUMENTATIONS_UPDATE": "1"}
    command = [sys.executable, *launch, *TRAIN, f"out={tmp_path}", "--json", "-q"]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert json.loads(answer.stdout.splitlines()[-1])["epoch"] == 0 and (tmp_path / "student.safetensors").is_file()


def test_processes_that_would_each_train_alone_in_one_folder_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([*TRAIN, f"out={tmp_path / 'run'}"]) == 2
    assert "started 2 processes, and there is no GPU for them" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
