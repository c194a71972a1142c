"""Completion, by the protocol that a shell speaks and by the script that bash is given: names, keys, values, runs; at
once, without torch.
"""

import os
import shutil
import subprocess
import sys

import pytest

from contrastill.cli import completion
from contrastill.core.config.loading import shipped_configs
from contrastill.core.registry import MODELS, OBJECTIVES


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the shell is: a run, a folder with another, a config and other files."""
    root = tmp_path_factory.mktemp("here")
    for run in ("kd", "runs/crd"):
        (root / run).mkdir(parents=True)
        (root / run / "config.yaml").touch()
    (root / "kept.yaml").touch()
    (root / "kept.h5").touch()
    return root


def answers(folder, shell, *words):
    """What a shell is answered; bash takes the equals sign for a word of its own."""
    variables = {"_CONTRASTILL_COMPLETE": f"complete_{shell}"}
    if shell == "bash":
        variables |= {"COMP_WORDS": "\n".join(["contrastill", *words]), "COMP_CWORD": str(len(words))}
    else:
        variables |= {
            "_TYPER_COMPLETE_ARGS": " ".join(["contrastill", *words]),
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        }
    command = [sys.executable, "-m", "contrastill"]
    done = subprocess.run(
        command, env={**os.environ, **variables}, cwd=folder, capture_output=True, text=True, check=True
    )
    assert not done.stderr
    return [line.split("\t")[0] for line in done.stdout.split()] if shell == "fish" else done.stdout.split()


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["tra"], ["train"]),
        (["train", "teachers/c"], ["teachers/cifar100"]),
        (["train", "ke"], ["kept.yaml"]),
        (["train", "teachers/cifar100", "train.ep"], ["train.epochs="]),
        (["train", "compression/ci"], ["compression/cifar100", "compression/cifar100_crd"]),
        (["train", "teachers/cifar100", "train.precision", "=", "b"], ["bf16"]),
        (["train", "teachers/cifar100", "student.model", "=", "resnet3"], ["resnet32", "resnet32x4"]),
        (["train", "teachers/cifar100", "train.schedule", "="], ["step", "cosine", "constant"]),
        (["train", "compression/cifar100_crd", "teachers.0.weights", "=", "runs/"], ["runs/crd"]),
        (["export", ""], ["kd", "runs/"]),
        (["cost", "resnet8x"], ["resnet8x4"]),
        (["evaluate", "kd", "evaluation.mode", "=", "f"], ["frozen", "fine_tuned"]),
    ],
)
def test_bash_is_answered(folder, words, answer):
    assert answers(folder, "bash", *words) == answer


def test_zsh_and_fish_complete_whole_overrides(folder):
    expected = ["student.model=resnet32", "student.model=resnet32x4"]
    assert answers(folder, "fish", "train", "teachers/cifar100", "student.model=resnet3") == expected
    shown = "".join(answers(folder, "zsh", "train", "teachers/cifar100", "student.model=resnet3"))
    assert all(f'"{word}"' in shown for word in expected)


def test_the_script_works_in_a_real_bash(folder, tmp_path):
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash here")
    command = tmp_path / "contrastill"
    command.write_text(f'#!{bash}\nexec "{sys.executable}" -m contrastill "$@"\n')
    command.chmod(0o755)
    script = """
eval "$(_CONTRASTILL_COMPLETE=source_bash contrastill)"
COMP_WORDS=(contrastill train teachers/cifar100 objectives.kd.w) COMP_CWORD=3
_contrastill_completion contrastill
printf '%s\n' "${COMPREPLY[@]}"
complete -p contrastill
"""
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([bash, "-c", script], env=environment, cwd=folder, capture_output=True, text=True, check=True)
    assert (
        done.stdout.split()[:2] == ["objectives.kd.weight=", "objectives.kd.warmup="]
        and "_contrastill_completion" in done.stdout
    )


def test_it_answers_at_once_and_without_torch(folder):
    script = """
import sys
from contrastill.cli.main import main
try:
    main([])
finally:
    assert not {"torch", "timm", "h5py"} & set(sys.modules)
"""
    variables = {
        "_CONTRASTILL_COMPLETE": "complete_bash",
        "COMP_WORDS": "contrastill train teachers/cifar100 train.lr",
        "COMP_CWORD": "3",
    }
    before = os.times().children_user
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **variables},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["train.lr=", "train.lr=0.05"]
    assert os.times().children_user - before < 1.5  # half a second on a machine that is not busy


def test_names_that_are_listed_without_loading_anything_are_those_there_are():
    # Other tests of this process may have registered some of their own.
    ours = [
        [name for name in registry if registry[name].__module__.startswith("contrastill.")]
        for registry in (MODELS, OBJECTIVES)
    ]
    assert list(completion.NETWORKS) == ours[0]
    assert completion.objectives() == sorted(ours[1])
    assert completion.config_names("")[: len(shipped_configs())] == shipped_configs()


def test_a_single_section_is_entered():
    assert completion.overrides_after([], "stu")[0] == "student.model="
    assert "teachers.0.weights=" in completion.overrides_after([], "teach")
    assert completion.overrides_after([], "nothing.") == [] and completion.overrides_after([], "train.lr.x=") == []
