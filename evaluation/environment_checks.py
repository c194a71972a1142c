"""The checks of ``contrastill doctor``, one function per subject; each yields findings, with advice where something
would stop a training.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from ..core.cores import available_cores

MARKS = ("ok", "note", "problem")
"""As it should be; worth knowing; would stop a training."""

_VARIABLES = re.compile(
    r"(OMP|MKL|CUDA|NCCL|GLOO|ACCELERATE|CONTRASTILL|HF|TORCH|PYTORCH)_\w+"
    r"|HF_HOME|XDG_CACHE_HOME|TRANSFORMERS_OFFLINE|NO_ALBUMENTATIONS_UPDATE"
)
_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSWORD")
_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
_DEVELOPERS = ("test", "docs", "benchmark")
"""Extras that serve work on contrastill itself."""


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        subject: What was checked.
        name: Which part of it.
        mark: One of ``MARKS``.
        message: The state of it.
        advice: What to do about it; empty where nothing has to be done.
    """

    subject: str
    name: str
    mark: str
    message: str
    advice: str = ""

    def to_dict(self) -> dict[str, str]:
        """Plain values, under the keys that ``contrastill doctor --json`` has."""
        return {
            "subject": self.subject,
            "name": self.name,
            "mark": self.mark,
            "message": self.message,
            "advice": self.advice,
        }


def requirements() -> list[Any]:
    """What contrastill asks for, as packaging's Requirements: of the checkout's pyproject.toml, else of the installed
    distribution.
    """
    from packaging.requirements import Requirement

    checkout = Path(__file__).resolve().parent.parent / "pyproject.toml"
    if checkout.is_file():
        project = tomllib.loads(checkout.read_text(encoding="utf-8"))["project"]
        extras = [
            f'{one} ; extra == "{extra}"' for extra, group in project["optional-dependencies"].items() for one in group
        ]
        return [Requirement(text) for text in [*project["dependencies"], *extras]]
    return [Requirement(text) for text in metadata.requires("contrastill") or []]


def installed(name: str) -> str | None:
    """The version of a distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def versions() -> Iterator[Finding]:
    """Python, contrastill, and each package that it needs against the least version, and against what the others ask of
    it.
    """
    from packaging.requirements import Requirement

    from .. import __version__

    yield Finding("versions", "contrastill", "ok", f"{__version__} in {Path(__file__).resolve().parent.parent}")
    yield Finding(
        "versions",
        "python",
        "ok",
        f"{platform.python_version()} in {sys.prefix}, {platform.system()} {platform.machine()}",
    )
    needed = [required for required in requirements() if required.marker is None]
    present = {required.name: installed(required.name) for required in needed}
    for required in needed:
        name, version, advice = required.name, present[required.name], f"pip install --upgrade '{required}'"
        if version is None:
            yield Finding("versions", name, "problem", "is not installed", advice)
        elif not required.specifier.contains(version, prereleases=True):
            message = f"{version}, and contrastill needs {required.specifier}"
            yield Finding("versions", name, "problem", message, advice)
        else:
            yield Finding("versions", name, "ok", version)
    for name, version in present.items():
        for other in map(Requirement, (metadata.requires(name) or []) if version else []):
            other_version = present.get(other.name)
            applies = other.marker is None or other.marker.evaluate({"extra": ""})
            if other_version and applies and not other.specifier.contains(other_version, prereleases=True):
                message = f"{version} needs {other.name}{other.specifier}, and {other_version} is installed"
                advice = f"pip install --upgrade {name} '{other.name}{other.specifier}'"
                yield Finding("versions", name, "problem", message, advice)


def extras() -> Iterator[Finding]:
    """Optional parts, installed or how to install them."""
    groups: dict[str, list[str]] = {}
    for required in requirements():
        match = re.search(r'extra == "([\w-]+)"', str(required.marker or ""))
        if match and required.name != "contrastill":
            groups.setdefault(match[1], []).append(required.name)
    for extra, names in groups.items():
        missing = [name for name in names if installed(name) is None]
        if extra in _DEVELOPERS:
            continue
        if missing:
            advice = f"pip install 'contrastill[{extra}]'"
            yield Finding("extras", extra, "note", f"without {', '.join(missing)}", advice)
        else:
            yield Finding("extras", extra, "ok", ", ".join(f"{name} {installed(name)}" for name in names))


def devices() -> Iterator[Finding]:
    """Processor, accelerators, and what processes can talk through."""
    cores, usable = os.cpu_count() or 1, available_cores()
    of = f" of {cores}" if usable < cores else ""
    try:
        import torch
    except Exception as error:  # a library that it lacks is an OSError, a half-installed one anything
        yield Finding(
            "devices",
            "torch",
            "problem",
            f"cannot be imported: {' '.join(str(error).split())[:200]}",
            "install torch again, see pytorch.org",
        )
        return
    threads = torch.get_num_threads()
    many = threads > usable
    yield Finding(
        "devices", "processor", "note" if many else "ok",
        f"{usable}{of} core{'s' * (usable > 1)}, {threads} thread{'s' * (threads > 1)}, "
        f"{torch.backends.cpu.get_cpu_capability()}",
        f"OMP_NUM_THREADS={usable}: more threads than cores wait for each other" if many else "",
    )  # fmt: skip
    yield _bf16()
    accelerators = list(_accelerators(torch))
    yield from accelerators or [Finding("devices", "accelerator", *_no_accelerator(torch))]
    if not torch.distributed.is_available():
        yield Finding(
            "devices",
            "several processes",
            "note",
            "torch was built without distributed: one process at a time",
            "another build of torch",
        )
        return
    backends = [name for name in ("gloo", "nccl", "mpi") if getattr(torch.distributed, f"is_{name}_available")()]
    yield Finding("devices", "several processes", "ok", f"backends {', '.join(backends) or 'none'}")


def _bf16() -> Finding:
    """Whether the processor computes in bf16, or takes longer for it."""
    flags = (
        Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split()
        if Path("/proc/cpuinfo").is_file()
        else None
    )
    if flags is None:
        return Finding("devices", "bf16 on the processor", "ok", f"{platform.system()} does not say")
    units = [flag for flag in ("amx_bf16", "avx512_bf16", "bf16") if flag in flags]
    if units:
        return Finding("devices", "bf16 on the processor", "ok", f"{units[0]}: train.precision=bf16 pays")
    return Finding("devices", "bf16 on the processor", "ok", "no unit for it: train.precision=fp32 is faster here")


def _accelerators(torch: Any) -> Iterator[Finding]:
    for number in range(torch.cuda.device_count()):
        try:
            card = torch.cuda.get_device_properties(number)
        except RuntimeError as error:
            message = f"cannot be used: {str(error).splitlines()[0]}"
            yield Finding(
                "devices", f"cuda:{number}", "problem", message, "CUDA_VISIBLE_DEVICES= trains on the processor"
            )
            continue
        yield Finding(
            "devices",
            f"cuda:{number}",
            "ok",
            f"{card.name}, {_size(card.total_memory)}, compute capability {card.major}.{card.minor}",
        )
    if torch.backends.mps.is_available():
        yield Finding("devices", "mps", "ok", "Apple's GPU, which shares the memory")


def _no_accelerator(torch: Any) -> tuple[str, ...]:
    if os.environ.get("CUDA_VISIBLE_DEVICES", "x").strip() in ("", "-1"):
        return "ok", "none: CUDA_VISIBLE_DEVICES hides them"
    if Path("/dev/nvidia0").exists():
        build = (
            f"for CUDA {torch.version.cuda}, which this driver may be too old for"
            if torch.version.cuda
            else "for processors alone"
        )
        return (
            "note",
            f"a GPU is there, and torch cannot use it: this build is {build}",
            "install another build, see pytorch.org",
        )
    return "ok", "none: trainings run on the processor"


def environment() -> Iterator[Finding]:
    """Variables that change what a training does or how fast."""
    policy = os.environ.get("OMP_WAIT_POLICY", "")
    if policy.lower() != "passive":
        message = policy or "not set: threads that wait keep their cores busy"
        yield Finding(
            "environment",
            "OMP_WAIT_POLICY",
            "note",
            message,
            "OMP_WAIT_POLICY=passive where several processes share the cores",
        )
    for name in sorted(name for name in os.environ if _VARIABLES.fullmatch(name)):
        value = "(set)" if _SECRET.search(name) else os.environ[name]
        if name in _OFFLINE and value.lower() in ("1", "on", "yes", "true"):
            yield Finding(
                "environment",
                name,
                "note",
                f"{value}: weights=pretrained finds only what was fetched before",
                f"unset {name} to fetch more",
            )
        elif name != "OMP_WAIT_POLICY" or policy.lower() == "passive":
            yield Finding("environment", name, "ok", value)


def room() -> Iterator[Finding]:
    """Disk here, memory, and memory that worker processes share."""
    import psutil

    here, free = Path.cwd(), shutil.disk_usage(Path.cwd()).free
    if not os.access(here, os.W_OK):
        yield Finding(
            "room",
            "folder",
            "problem",
            f"{here} cannot be written to",
            "call contrastill elsewhere, or give out=FOLDER",
        )
    low = free < 2e9
    mark = "problem" if free < 5e7 else "note" if low else "ok"
    yield Finding(
        "room",
        "disk",
        mark,
        f"{_size(free)} free in {here}",
        "make room: checkpoints are written beside the old ones" if low else "",
    )
    memory = psutil.virtual_memory()
    low = memory.available < 1e9
    message = f"{_size(memory.available)} available of {_size(memory.total)}"
    yield Finding(
        "room",
        "memory",
        "note" if low else "ok",
        message,
        "end other programs, or lower train.batch_size" if low else "",
    )
    if Path("/dev/shm").is_dir() and (shared := shutil.disk_usage("/dev/shm")).total < 256e6:
        message = f"{_size(shared.total)} in /dev/shm, which data.workers hand images over in"
        yield Finding(
            "room", "shared memory", "note", message, "data.workers=0, or start the container with --shm-size=2g"
        )


def configs() -> Iterator[Finding]:
    """Whether the shipped configs can be read."""
    from yaml import YAMLError, safe_load

    from ..core.config.loading import configs_folder, shipped_configs

    names, damaged = shipped_configs(), 0
    for name in names:
        try:
            if not isinstance(safe_load((configs_folder() / f"{name}.yaml").read_text(encoding="utf-8")), dict):
                raise YAMLError("no mapping")
        except (YAMLError, OSError, UnicodeDecodeError) as error:
            damaged += 1
            yield Finding(
                "configs", name, "problem", f"cannot be read: {str(error).splitlines()[0]}", "install contrastill again"
            )
    if not names:
        yield Finding(
            "configs", "shipped", "problem", f"there are none in {configs_folder()}", "install contrastill again"
        )
    elif not damaged:
        yield Finding("configs", "shipped", "ok", f"{len(names)} in {configs_folder()}")


def weights() -> Iterator[Finding]:
    """Where published weights are kept between calls, and what is there."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    torch_home = Path(os.environ.get("TORCH_HOME") or cache / "torch").expanduser()
    hub = Path(
        os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or cache / "huggingface") / "hub"
    ).expanduser()
    for name, folder, pattern in (
        ("torchvision", torch_home / "hub" / "checkpoints", "*.pth"),
        ("timm", hub, "models--*"),
    ):
        count = len(list(folder.glob(pattern))) if folder.is_dir() else 0
        yield Finding(
            "weights",
            name,
            "ok",
            f"{count} in {folder}" if count else f"none in {folder} yet: weights=pretrained fetches them once",
        )


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
