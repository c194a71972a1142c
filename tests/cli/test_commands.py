"""What all commands have in common: help with examples, exit codes, --quiet and --json in the same words, nothing heavy
for a word of help.
"""

import subprocess
import sys

import pytest
from typer.main import get_command

from contrastill.cli.main import app, main
from helpers.paths import ROOT

HEAVY = [
    "torch",
    "torchvision",
    "kornia",
    "albumentations",
    "timm",
    "h5py",
    "accelerate",
    "torchmetrics",
    "pandas",
    "scipy",
    "cv2",
]


def leaves(command, names=()):
    """Every command that does something, by its words."""
    inner = getattr(command, "commands", None)
    return (
        {names: command}
        if inner is None
        else {key: leaf for name, parameter in inner.items() for key, leaf in leaves(parameter, (*names, name)).items()}
    )


COMMANDS = leaves(get_command(app))
EACH = pytest.mark.parametrize("words", COMMANDS, ids="-".join)


def option(words, name):
    return next((parameter for parameter in COMMANDS[words].params if name in parameter.opts), None)


@EACH
def test_help_has_examples_that_the_command_takes(words, capsys):
    assert main([*words, "--help"]) == 0
    assert "Usage" in capsys.readouterr().out
    _, present, examples = COMMANDS[words].help.partition("Examples:")
    assert present and f"    contrastill {' '.join(words)}" in examples


@EACH
def test_wrong_options_are_code_2(words, capsys):
    assert main([*words, "--nonsense"]) == 2
    output = capsys.readouterr()
    assert "nonsense" in output.err and not output.out


@EACH
def test_missing_arguments_are_code_2(words, capsys):
    if not any(parameter.required for parameter in COMMANDS[words].params):
        pytest.skip("it needs none")
    assert main([*words]) == 2
    output = capsys.readouterr()
    assert "Missing" in output.err and not output.out


@EACH
def test_quiet_and_json_are_spelt_alike(words):
    quiet, as_json = option(words, "--quiet"), option(words, "--json")
    assert quiet.opts == ["--quiet", "-q"] and quiet.help == "No progress."
    assert as_json.opts == ["--json"] and as_json.help.startswith("Print ") and "on standard output" in as_json.help


def test_no_word_of_help_loads_torch():
    script = f"""
import sys
from contrastill.cli.main import main
for words in {[*COMMANDS]}:
    main([*words, "--help"])
print("|", *set({HEAVY}) & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.rpartition("|")[2].split() == []


def test_the_help_of_all_names_every_command_and_debug(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(words[0] in shown for words in COMMANDS) and "--debug" in shown


def test_the_documentation_lists_every_command():
    root = ROOT
    page, readme = ((root / name).read_text(encoding="utf-8") for name in ("docs/guides/command_line.md", "README.md"))
    for words in COMMANDS:
        assert f"`contrastill {' '.join(words)}`" in page and f"`{words[0]}`" in readme


@pytest.mark.parametrize(("words", "near"), [(["trian"], "train"), (["data", "inof"], "info"), (["doctr"], "doctor")])
def test_misspelt_commands_are_told_the_nearest(words, near, capsys):
    assert main(words) == 2
    assert near in capsys.readouterr().err.partition("Did you mean")[2]
