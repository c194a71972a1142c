"""The rules that keep a repository whose root is the package from getting in anybody's way."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from functools import cache
from pathlib import Path

import pytest

import contrastill
from helpers.paths import ROOT

NOT_PACKAGED = {"tests", "benchmarks", "docs", "examples"}
GENERATED = {"build", "dist", "runs", "__pycache__"}
HEAVY = {
    "torch",
    "torchvision",
    "kornia",
    "albumentations",
    "timm",
    "h5py",
    "accelerate",
    "torchmetrics",
    "datasets",
    "pandas",
    "scipy",
    "cv2",
}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "NO_ALBUMENTATIONS_UPDATE": "1"}


@cache
def files():
    """The repository's files, relative to its root; git's answer where there is git, so that ignored ones are out."""
    try:
        listing = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        paths = [Path(name) for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]
    except (OSError, subprocess.CalledProcessError):
        paths = []
    if Path("pyproject.toml") not in paths:
        paths = [path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file()]
    return sorted(
        path
        for path in paths
        if not GENERATED & set(path.parts)
        and not any(p.startswith(".venv") or p.endswith(".egg-info") for p in path.parts)
    )


def package_files():
    return [
        path
        for path in files()
        if path.suffix == ".py" and path.parts[0] not in NOT_PACKAGED and not path.parts[0].startswith(".")
    ]


def settings():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def run(*command, cwd=ROOT, **environment):
    answer = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    return answer.stdout


# Names and folders


def test_packages_are_those_of_the_tree():
    tree = {".".join(["contrastill", *path.parent.parts]) for path in package_files()}
    assert sorted(settings()["tool"]["setuptools"]["packages"]) == sorted(tree)
    assert settings()["tool"]["setuptools"]["package-dir"] == {"contrastill": "."}


@pytest.mark.parametrize("name", ["datasets/__init__.py", "tests/__init__.py", "conftest.py"])
def test_files_that_must_not_be_there(name):
    assert not (ROOT / name).exists()


def test_the_root_holds_no_module_but_the_package_itself():
    assert {path.name for path in files() if len(path.parts) == 1 and path.suffix == ".py"} == {
        "__init__.py",
        "__main__.py",
    }


def test_pytest_does_not_collect_doctests_by_itself():
    text = (ROOT / "pyproject.toml").read_text() + (ROOT / "Makefile").read_text() + (ROOT / ".ci" / "run").read_text()
    assert "--doctest-modules" not in text and "--doctest-glob" not in text


def test_no_folder_bears_the_name_of_another_package():
    folders = {path.parts[0] for path in files() if len(path.parts) == 2 and path.name == "__init__.py"}
    assert {"core", "cli", "models"} <= folders
    # compression is a package of Python 3.14's standard library, whichever Python runs this.
    assert not folders & (set(sys.stdlib_module_names) | {"compression"})
    installed = {
        name: set(owners) - {"contrastill"} for name, owners in importlib.metadata.packages_distributions().items()
    }
    assert {name: installed[name] for name in folders if installed.get(name)} == {}


def test_no_public_name_is_that_of_a_subpackage():
    folders = {path.parts[0] for path in package_files() if len(path.parts) > 1}
    assert folders.isdisjoint(contrastill.__all__)


def test_everything_that_is_offered_is_there():
    assert set(contrastill.__all__) <= set(dir(contrastill))
    for name in contrastill.__all__:
        assert getattr(contrastill, name) is not None
        if name != "__version__":
            assert getattr(contrastill, name).__module__.startswith("contrastill.")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        contrastill.nothing  # noqa: B018


# Imports


@cache
def sources():
    """docs/imports.py, which reads and draws who imports whom."""
    spec = importlib.util.spec_from_file_location("docs_imports", ROOT / "docs" / "imports.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_imports_are_read_off_all_sources():
    assert sorted(sources().modules().values()) == sorted(ROOT / path for path in package_files())
    edges = {(entry.importer, entry.imported, entry.when) for entry in sources().imports()}
    assert ("contrastill.core.crd.loss", "contrastill.core.crd.criterion", "import") in edges
    assert ("contrastill.core.config.loading", "contrastill.core.registry", "import") in edges
    assert any(when == "call" and importer.startswith("contrastill.cli.") for importer, _, when in edges)


def test_imports_are_relative_and_lead_to_a_module():
    modules = {*sources().modules(), "contrastill", "contrastill.datasets"}
    for entry in sources().imports():
        assert entry.relative, f"{entry.importer}: {entry.imported} is imported by its full name"
        assert entry.imported in modules, f"{entry.importer} imports {entry.imported}"


def test_imports_go_one_way():
    layers = sources().LAYERS
    level = {name: place for place, names in enumerate(layers) for name in names}
    assert {path.parts[0] for path in package_files() if len(path.parts) > 1} - {"configs"} == set(level), (
        "every folder has its place in the layers"
    )
    for entry in sources().imports():
        here, there = sources().folder(entry.importer), sources().folder(entry.imported)
        if {here, there} <= level.keys() and here != there:
            assert level[here] < level[there], f"{entry.importer} does not import {entry.imported}"


def test_no_module_waits_for_itself():
    """Modules in the order in which they can be imported; what is left over imports each other in a circle."""
    waits = {module: set() for module in sources().modules()}
    for entry in sources().imports():
        if entry.when == "import" and entry.imported in waits:
            waits[entry.importer].add(entry.imported)
    while ready := [module for module, needed in waits.items() if not needed & waits.keys()]:
        for module in ready:
            del waits[module]
    assert not waits, waits


def test_the_picture_of_the_imports_shows_their_arrows():
    """The numbers may be those of another day, the arrows are today's."""

    def arrows(text):
        return set(re.findall(r"(\w+) imports (\w+) \d+ times", text))

    drawn = (ROOT / "docs" / "pictures" / "imports.svg").read_text(encoding="utf-8")
    assert arrows(drawn) == arrows(sources().drawing(sources().imports())), "draw it anew: python docs/imports.py"


@pytest.mark.parametrize(
    "code",
    [
        "import contrastill, contrastill.cli.main",
        "from contrastill.cli.main import main; main(['--help'])",
        "from contrastill.cli.main import main; main(['train', '--help'])",
    ],
    ids=["import", "help", "train-help"],
)
def test_nothing_heavy_is_loaded_for_a_word_of_help(code):
    loaded = set(run("-c", f"{code}\nimport sys; print('|', *sys.modules)").rsplit("|", 1)[1].split())
    assert not HEAVY & loaded


# Hugging Face's datasets

WHOSE = """
import os
import contrastill
from contrastill.datasets import packed
import datasets
print("DATASETS", datasets.__file__, hasattr(datasets, "IterableDataset"), os.getcwd(), packed.__name__)
"""


def theirs(printed):
    line = next(line for line in printed.splitlines() if line.startswith("DATASETS"))
    _, file, has_class, folder, ours = line.split(" ")
    assert not Path(file).is_relative_to(ROOT / "datasets")
    assert has_class == "True" and Path(folder) == ROOT and ours == "contrastill.datasets.packed"


@pytest.fixture
def check_module(tmp_path):
    """A module that says which `datasets` it gets, to be run with -m from the repository's root."""
    (tmp_path / "whose_datasets.py").write_text(WHOSE)
    return {"PYTHONPATH": str(tmp_path)}


def test_datasets_is_theirs_under_python(check_module):
    theirs(run("-m", "whose_datasets", **check_module))


def test_datasets_is_theirs_under_torchrun(check_module):
    theirs(
        run(
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "1",
            "-m",
            "whose_datasets",
            **check_module,
        )
    )


ACCELERATE = (
    "-m",
    "accelerate.commands.launch",
    "--cpu",
    "--num_processes",
    "1",
    "--num_machines",
    "1",
    "--mixed_precision",
    "no",
    "--dynamo_backend",
    "no",
)


def test_datasets_is_theirs_under_accelerate(check_module):
    theirs(run(*ACCELERATE, "-m", "whose_datasets", **check_module))


@pytest.mark.parametrize("launcher", [(), ACCELERATE], ids=["python", "accelerate"])
def test_the_package_runs_from_the_root(launcher):
    assert "train" in run(*launcher, "-m", "contrastill", "--help")


# The wheel


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Where a wheel that was built from the repository's files alone is installed, without its dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    for path in files():
        (folder / "source" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / "source" / path)
    run("-m", "build", "--wheel", "--no-isolation", "--outdir", folder / "dist", folder / "source", cwd=folder)
    (wheel,) = (folder / "dist").glob("contrastill-*.whl")
    run("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", folder / "site", wheel, cwd=folder)
    (folder / "elsewhere").mkdir()
    return folder, wheel


def test_the_wheel_holds_the_package_and_nothing_else(installed):
    _, wheel = installed
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    shipped = {path for path in files() if path.parts[0] == "configs" and path.suffix in (".yaml", ".sbatch")}
    shipped |= {path for path in files() if path.parts[0] == "report" and path.suffix in (".css", ".js")}
    assert names == {f"contrastill/{path.as_posix()}" for path in [*package_files(), *shipped]}
    assert any(name.endswith("/LICENSE") for name in zipfile.ZipFile(wheel).namelist())


def test_the_installed_wheel_runs_the_commands_elsewhere(installed):
    folder, _ = installed
    at = {"cwd": folder / "elsewhere", "PYTHONPATH": str(folder / "site")}
    spec = "importlib.util.find_spec('contrastill.datasets.packed').origin"
    where = run(
        "-c", f"import contrastill, importlib.util; print(contrastill.__file__, {spec}, contrastill.__version__)", **at
    ).split()
    assert all(Path(name).is_relative_to(folder / "site") for name in where[:2])
    assert where[2] == settings()["project"]["version"]
    assert "train" in run("-m", "contrastill", "--help", **at)
    assert "--dry-run" in run("-m", "contrastill", "train", "--help", **at)
    (folder / "a.h5").touch()
    printed = run(
        "-m",
        "contrastill",
        "train",
        "teachers/cifar100",
        "data.name=packed",
        f"data.path={folder}/a.h5",
        "--dry-run",
        **at,
    )
    assert "resnet32x4" in printed
    assert not list((folder / "elsewhere").iterdir())


def test_every_shipped_config_is_installed(installed):
    folder, _ = installed
    printed = run(
        "-c",
        "from contrastill.core.config.loading import shipped_configs; print(*shipped_configs())",
        cwd=folder / "elsewhere",
        PYTHONPATH=str(folder / "site"),
    )
    shipped = {
        path.relative_to("configs").with_suffix("").as_posix()
        for path in files()
        if path.parts[0] == "configs" and path.suffix == ".yaml"
    }
    assert (
        set(printed.split()) == {name for name in shipped if not name.startswith("accelerate/")}
        and {"compression/cifar100", "compression/cifar100_crd", "ensemble/cifar100"} <= shipped
    )
    for name in ("accelerate/several_gpus.yaml", "slurm/train.sbatch"):
        assert (folder / "site" / "contrastill" / "configs" / name).is_file(), name
