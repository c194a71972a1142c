"""What a cluster does to a training: SIGUSR1, a timeout, SLURM's queue."""

import os
import signal
import stat
import subprocess
from datetime import timedelta
from multiprocessing import get_context

import pytest

from contrastill.cli.main import main
from contrastill.core.config.loading import configs_folder
from contrastill.core.errors import ContrastillError
from contrastill.datasets.io import file_workers
from contrastill.training import accelerator
from contrastill.training.checkpoint import checkpoints
from contrastill.training.processes import others_may_end

SBATCH = configs_folder() / "slurm" / "train.sbatch"


def test_other_errors_are_not_put_down_to_another_process():
    for error in (RuntimeError("shapes do not fit"), ContrastillError("gloo"), ValueError("nccl")):
        with pytest.raises(type(error)) as caught, others_may_end(30):
            raise error
        assert caught.value is error


def test_sigusr1_saves_and_exits_with_138(short_training, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    from contrastill.training import engine

    step, calls = engine._Training._step, []

    def signalled(*arguments):
        step(*arguments)
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGUSR1)

    monkeypatch.setattr(engine._Training, "_step", signalled)
    assert main([*short_training, f"out={out}"]) == 128 + signal.SIGUSR1 == 138
    assert "stopped by SIGUSR1 after epoch 1, batch 2" in capsys.readouterr().err
    assert checkpoints(out / "checkpoints")[-1].name == "step-00000005"
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_a_worker_leaves_the_schedulers_signals_to_its_training():
    with file_workers.sigterm_blocked():
        worker = get_context("fork").Process(target=_signalled_worker)
        worker.start()
    worker.join(60)
    assert worker.exitcode == 7
    assert not {signal.SIGTERM, signal.SIGUSR1} & signal.pthread_sigmask(signal.SIG_BLOCK, [])


def _signalled_worker():
    file_workers.prepare_worker(0)
    os.kill(os.getpid(), signal.SIGUSR1)
    os._exit(7)


def test_the_timeout_reaches_the_processes(monkeypatch, tmp_path):
    from contrastill.core.config.loading import load_config

    options = {}
    monkeypatch.setattr(accelerator, "accelerator_of", lambda _, **keywords: options.update(keywords))
    (tmp_path / "a.h5").touch()
    accelerator.prepare_accelerator(
        load_config(
            "teachers/cifar100", ["data.name=packed", f"data.path={tmp_path / 'a.h5'}", "train.timeout_minutes=45"]
        )
    )
    assert options["kwargs_handlers"][0].timeout == timedelta(minutes=45)


@pytest.mark.parametrize("code,requeued", [(0, False), (1, False), (138, True), (143, True)])
def test_the_slurm_script_trains_and_goes_back_into_the_queue(tmp_path, code, requeued):
    """SLURM's own commands are stood in for: srun runs one task and says what it was asked to run."""
    assert subprocess.run(["bash", "-n", SBATCH], check=True).returncode == 0
    log = tmp_path / "said"
    for name, text in {
        "srun": f'while [ "${{1#--}}" != "$1" ]; do shift; done; SLURM_PROCID=1 SLURM_LOCALID=1 "$@"; exit {code}',
        "python": 'printf "%s\\n" "$MASTER_ADDR:$MASTER_PORT $RANK/$WORLD_SIZE local '
        f'$LOCAL_RANK/$LOCAL_WORLD_SIZE" "$@" > {log}',
        "scontrol": f'if [ "$1" = requeue ]; then echo "$2" > {tmp_path}/requeued; else printf '
        '"node-7\\nnode-8\\n"; fi',
    }.items():
        path = tmp_path / name
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "SLURM_JOB_ID": "345",
        "SLURM_JOB_NODELIST": "node-[7-8]",
        "SLURM_NTASKS": "8",
        "SLURM_NTASKS_PER_NODE": "4",
    }
    (tmp_path / "a b.h5").touch()
    arguments = ["teachers/cifar100", "data.name=packed", f"data.path={tmp_path / 'a b.h5'}", f"out={tmp_path / 'run'}"]
    assert subprocess.run(["bash", SBATCH, *arguments], env=environment, cwd=tmp_path).returncode == code
    first, *program = log.read_text().splitlines()
    assert first == "node-7:20345 1/8 local 1/4"
    assert program[:2] == ["-m", "contrastill"] and program[2:] == ["train", *arguments]
    assert main([*program[2:], "--dry-run"]) == 0
    assert (tmp_path / "requeued").exists() == requeued and "#SBATCH --signal=USR1@120" in SBATCH.read_text()


PARTING = """
import atexit
from contrastill.training.processes import accelerator_of
import torch
assert accelerator_of(cpu=True).num_processes == 2 and torch.distributed.is_initialized()
atexit._run_exitfuncs()
assert not torch.distributed.is_initialized()
"""


def test_processes_leave_their_group_before_the_interpreter_ends(ranks):
    """Threads of a group that is left over abort a process now and then, with all of its work done."""
    ranks(PARTING, 2)
