"""The documentation against the tree and the command line: links, navigation, commands, configs, code. Neither mkdocs
nor a network is needed.
"""

import inspect
import re
import shlex
import unicodedata
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from pydantic import BaseModel
from typer.main import get_command

import contrastill
from contrastill.cli.main import app
from contrastill.core.config.loading import load_config, shipped_configs
from contrastill.core.config.schema import RunConfig
from contrastill.core.errors import UsageError
from contrastill.core.registry import DATASETS, MODALITIES, MODELS, OBJECTIVES, TEACHER_AGGREGATIONS
from helpers.paths import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [*DOCS.rglob("*.md"), ROOT / "README.md"])
FENCE = re.compile(r"^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```\s*$", re.MULTILINE | re.DOTALL)
EXECUTED = ["docs/guides/one_call.md", "docs/guides/own.md", "docs/theory.md"]
"""Pages whose Python runs from top to bottom."""


@cache
def text(page):
    return (ROOT / page).read_text(encoding="utf-8")


def fences(page, *languages):
    return [match["code"] for match in FENCE.finditer(text(page)) if match["language"] in languages]


def prose(page):
    """The page without code, where brackets mean something else."""
    return re.sub(r"`[^`\n]*`", "`code`", FENCE.sub("", text(page)))


def anchors(page):
    """The anchors of the headings, as the site names them."""
    for heading in re.findall(r"^#+ (.+)$", FENCE.sub("", text(page)), re.MULTILINE):
        plain = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
        yield re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


# Links and navigation


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_are_there(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"\w+:", target):
            assert target.startswith("https://"), target
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent.joinpath(path).resolve() if path else ROOT / page
        assert file.exists(), f"{page} links to {target}"
        if page != "README.md":
            assert file.is_relative_to(DOCS), f"{page}: {target} is not part of the site"
        if anchor:
            assert anchor in anchors(file.relative_to(ROOT).as_posix()), f"{page}: {target}"


def test_all_pages_are_in_the_navigation():
    def leaves(entry):
        if isinstance(entry, str):
            yield entry
        else:
            for inner in entry.values() if isinstance(entry, dict) else entry:
                yield from leaves(inner)

    named = list(leaves(yaml.safe_load(text("mkdocs.yml"))["nav"]))
    assert sorted(named) == sorted(page.removeprefix("docs/") for page in PAGES if page != "README.md")


def test_no_page_fetches_anything():
    settings = yaml.safe_load(text("mkdocs.yml"))
    assert settings["theme"]["font"] is False
    assert not {"extra_javascript", "extra_css", "repo_url"} & set(settings)
    for page in PAGES:
        assert not re.search(r"<script|<iframe|<link |src=.https?:|!\[[^]]*\]\(https?:|```mermaid", text(page)), page


@pytest.mark.parametrize("picture", sorted(path.name for path in DOCS.rglob("*.svg")))
def test_drawn_pictures_stand_alone(picture):
    drawn = next(DOCS.rglob(picture)).read_text(encoding="utf-8")
    assert "<title" in drawn and "<script" not in drawn and "href" not in drawn


# The reference


def test_what_the_reference_names_is_there_and_everything_public_is_named():
    named = set()
    for page in PAGES:
        for name in re.findall(r"^::: (contrastill\.\S+)$", text(page), re.MULTILINE):
            module, _, attribute = name.rpartition(".")
            named.add(getattr(import_module(module), attribute))
    public = {getattr(contrastill, name) for name in contrastill.__all__ if name != "__version__"}
    registered = {
        *OBJECTIVES.values(),
        *DATASETS.values(),
        *TEACHER_AGGREGATIONS.values(),
        *(getattr(entry, "function", entry) for entry in MODALITIES.values()),
    }
    assert {getattr(public_entry, "__name__", public_entry) for public_entry in (public | registered) - named} == set()


def commands(command, *names):
    """All commands that do something, by their names."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, *names, name)
    if not hasattr(command, "commands"):
        yield " ".join(names), command


def test_what_is_public_is_documented():
    """A sentence for everything; the shapes that a criterion takes and gives; examples for a command."""
    public = {name: getattr(contrastill, name) for name in contrastill.__all__ if name != "__version__"}
    entered = {
        f"{registry.kind} {name}": entry
        for registry in (OBJECTIVES, DATASETS, TEACHER_AGGREGATIONS, MODALITIES, MODELS)
        for name, entry in registry.items()
    }
    docstrings = {
        name: getattr(public_entry, "function", public_entry).__doc__ or ""
        for name, public_entry in (public | entered).items()
    }
    assert [name for name, text in docstrings.items() if not re.match(r"\S.+?\S[.:](?= |\n|$)", text, re.DOTALL)] == []
    losses = ["CRDLoss", *(f"objective {name}" for name, entry in OBJECTIVES.items() if entry.needs_teacher)]
    assert [name for name in losses if "(B, " not in docstrings[name]] == []
    assert [
        name
        for name, command in commands(get_command(app))
        if len(command.help or "") < 40 or f"contrastill {name}" not in command.help
    ] == []


def test_the_functions_that_have_progress_are_named():
    (sentence,) = re.findall(
        r"With `progress=False`, (.+?) print nothing", text("docs/reference/functions.md"), re.DOTALL
    )
    offers = {name: getattr(contrastill, name) for name in contrastill.__all__}
    commands = {name for name, value in offers.items() if inspect.isfunction(value) and name != "fit"}
    with_progress = {name for name in commands if "progress" in inspect.signature(offers[name]).parameters}
    assert set(re.findall(r"`(\w+)`", sentence)) == with_progress


def test_all_shipped_configs_are_shown():
    assert re.findall(r'^--8<-- "(.+)\.yaml"$', text("docs/reference/config.md"), re.MULTILINE) == shipped_configs()


# Commands


def command_lines(page):
    """The commands of a page's code, fenced or indented, as lists of words."""
    blocks = fences(page, "", "bash", "console")
    blocks += re.findall(r"(?:^    [^\n]*\n)+", FENCE.sub("", text(page)), re.MULTILINE)
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            if re.search(r"\b(contrastill|make|sbatch)\b", line):
                for part in re.split(r"&&|;", line):
                    yield shlex.split(part, comments=True)


def arguments(words):
    """What follows contrastill in a command, however it is launched; None where something else is called."""
    if words[:1] == ["contrastill"]:
        return words[1:]
    if words[:2] == ["accelerate", "launch"]:
        return words[words.index("contrastill") + 1 :]
    if words[:1] == ["sbatch"]:
        script = next(place for place, word in enumerate(words) if word.endswith(".sbatch"))
        assert (ROOT / words[script]).is_file()
        return ["train", *words[script + 1 :]]
    return None


def is_key(key):
    """Whether a dotted key is one of a config, as far as its own schema says."""
    schema = RunConfig
    for part in key.split("."):
        if not (isinstance(schema, type) and issubclass(schema, BaseModel)):
            return True
        if part not in schema.model_fields:
            return schema.model_config.get("extra") == "allow"
        schema = schema.model_fields[part].annotation
    return True


def check_config(config, overrides):
    """A shipped config, or one of the repository, with these overrides is one that a training would take."""
    if not (ROOT / config).is_file() and config not in shipped_configs():
        assert config == "CONFIG" or re.fullmatch(r"my\w*\.yaml", config), config
        assert all(is_key(override.partition("=")[0]) for override in overrides)
        return
    settings = [override for override in overrides if "…" not in override]
    for override in settings:
        if (match := re.fullmatch(r"data\.path=(\w+\.h5)", override)) is not None:
            Path(match[1]).touch()
    Path("given.h5").touch()
    for _ in range(4):  # what a page leaves to its reader
        try:
            load_config(str(ROOT / config) if (ROOT / config).is_file() else config, settings)
            return
        except UsageError as error:
            missing = re.match(r"(\S+) is not set", str(error))
            if missing is None:
                raise
            settings.append(f"{missing[1]}={'given.h5' if missing[1] == 'data.path' else 'given'}")
    raise AssertionError(f"{config} {overrides}")


def check_data(name):
    head = re.split(r"[:,]", name)[0]
    assert head in DATASETS or "." in head or head.isupper(), name


def check_values(command, values):
    if command in ("train", "cache"):
        check_config(values["config"], values.get("overrides") or [])
    elif command == "evaluate":
        assert all(is_key(word.partition("=")[0]) for word in values["arguments"] if "=" in word)
    elif command == "bench":
        for objective in re.split(r"[,+]", values["objectives"] or "all"):
            assert objective == "all" or objective in OBJECTIVES
        for network in re.split(r"[,:]", values["pairs"] or "all"):
            assert network == "all" or network in MODELS
        for setting in [
            *(values["overrides"] or []),
            *(values["teacher_overrides"] or []),
            *filter(None, [values["vary"]]),
        ]:
            assert is_key(setting.partition("=")[0]), setting
    elif command == "probe":
        for name in values["data"]:
            check_data(name)
    elif command == "data pack":
        check_data(values["source"])


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist_with_their_options_and_names(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    targets = re.search(r"^\.PHONY: (.+)$", text("Makefile"), re.MULTILINE)[1].split()
    for words in command_lines(page):
        if words[:1] == ["make"]:
            assert words[1] in targets
        words_given = arguments(words)
        command, names = get_command(app), []
        if words_given is None or (
            len(words_given) == 1
            and words_given[0] in ["--help", *(name for option in command.params for name in option.opts)]
        ):
            continue
        while hasattr(command, "commands"):
            assert words_given[0] in command.commands, f"{page}: {shlex.join(words)}"
            names.append(words_given.pop(0))
            command = command.commands[names[-1]]
        try:
            parsed = command.make_context(" ".join(names), [word for word in words_given if word != "--debug"])
        except Exception as error:
            raise AssertionError(f"{page}: {shlex.join(words)}: {getattr(error, 'message', error)}") from error
        check_values(" ".join(names), parsed.params)


def test_the_checks_of_commands_notice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        is_key("train.epochs")
        and is_key("objectives.crd.weight")
        and not is_key("train.epoch")
        and not is_key("trian.epochs")
    )
    with pytest.raises(UsageError, match="num_negative"):
        check_config("compression/cifar100_crd", ["objectives.crd.num_negative=3"])
    with pytest.raises(UsageError, match="resnet21"):
        check_config("teachers/cifar100", ["student.model=resnet21"])
    with pytest.raises(AssertionError):
        check_config("compression/cifar10_crd", [])


# Code


@pytest.mark.parametrize("page", PAGES)
def test_code_compiles(page):
    for code in fences(page, "python"):
        compile(code, page, "exec")
    for code in fences(page, "yaml"):
        yaml.safe_load(re.sub(r"^--8<--.*$", "", code, flags=re.MULTILINE))


@pytest.mark.parametrize("page", EXECUTED)
def test_code_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for registry in (DATASETS, MODALITIES, MODELS, OBJECTIVES):
        assert len(registry)  # all that is there is entered first; what the page adds is gone afterwards
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    with torch.random.fork_rng():
        exec(compile("\n".join(fences(page, "python")), page, "exec"), {"__name__": "page"})
