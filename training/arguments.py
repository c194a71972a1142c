"""What is handed to a call in Python, as the entries of a config: names, paths, and objects under names that stand for
them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
)

from ..core.classes import listed
from ..core.errors import UsageError, names_beside, nearest
from ..core.fingerprint import tensors_hash
from ..core.home import expanded
from ..core.registry import DATASETS, MODELS, PRETRAINED, PYTHON_PREFIX, object_name
from ..core.representation import Network, Preprocess
from ..core.seeds import members
from ..core.weights import find_weights
from ..datasets.huggingface import LoadedHuggingFace, has_stored_pictures, is_dataset_dict, is_streamed, usual_pair
from ..datasets.io.scale import check_same_scale, scale_of
from ..datasets.user_dataset import UserDataset
from ..models.module_facts import module_classes, module_parts, module_training
from ..models.recipe import read_recipe
from ..models.transformers_taps import class_names
from ..models.user_module import UserModule
from ..models.wrappers import refuse_program, unwrapped
from .loader_arguments import AS_DATASET, batches_of, dataset_of, holds_samples
from .modality_scale import check_modality_of_module
from .module_preprocess import module_preprocess
from .student import Student

log = logging.getLogger(__name__)


@dataclass
class ArgumentResolver:
    """Turns the arguments of a call into sections of a config; objects are registered for as long as the call lasts.

    Args:
        stack: Ends with the call.

    Attributes:
        train: The settings of the section ``train`` that a DataLoader brings.
    """

    stack: ExitStack
    train: dict[str, Any] = field(default_factory=dict)
    _names: list[str] = field(default_factory=list)

    def data(self, argument: Any) -> dict[str, Any]:
        """The section ``data`` of a path, the name of a data set, a dict of that section, a dataset, a DataLoader, a
        ``DatasetDict`` of Hugging Face, or a pair of datasets or DataLoaders for training and testing, also as
        ``{"train": …, "test": …}``.

        Raises:
            UsageError: It is none of these.
        """
        if is_dataset_dict(argument):
            if all(map(has_stored_pictures, argument.values())):
                return self._loaded(argument, holds_out=True)
            argument = usual_pair(argument)
        if isinstance(argument, Mapping) and not is_streamed(argument):
            if not any(holds_samples(value) or _lists_samples(value) for value in argument.values()):
                # A split may be a pair of images and labels.
                parts = [
                    one
                    for value in argument.values()
                    for one in (value if isinstance(value, (tuple, list)) else [value])[:2]
                ]
                arrays = any(isinstance(one, (np.ndarray, Tensor)) for one in parts)
                if arrays and not {"name", "path"} & {*argument}:
                    raise UsageError(f"data is a {type(argument).__name__} of arrays: {AS_DATASET}")
                return dict(argument)
            if "train" not in argument or not {*argument} <= {"train", "test"}:
                raise UsageError(
                    f"data is a dict with the keys {', '.join(map(str, argument))}, and datasets in it: pass "
                    "{'train': …, 'test': …}, or (train, test)"
                )
            argument = argument["train"], argument.get("test")
        argument = expanded(argument)
        if isinstance(argument, (str, os.PathLike)):
            is_name = not os.path.exists(argument) and str(argument) in DATASETS
            return {"name" if is_name else "path": str(argument)}
        pair = tuple(argument) if isinstance(argument, (tuple, list)) else (argument, None)
        if len(pair) != 2:
            if pair and isinstance(pair[0], (tuple, list, Mapping)):
                raise UsageError(
                    f"data is a sequence of {len(pair)} samples, and a list of samples is one dataset: hand over two, "
                    "(train_samples, test_samples), or (train_samples, None)"
                )
            raise UsageError(f"data is a sequence of {len(pair)}: hand over (train, test)")
        if all(map(_is_sample, pair)):
            raise UsageError(
                "data is a list of two samples, and two of a list are (train, test): hand over (samples, None) to "
                "train on both"
            )
        for part in pair:
            # Of a pair of its own, images and labels, the images; a list of images is a dataset.
            first = part[0] if isinstance(part, (tuple, list)) and part else part
            array = first if part is first or getattr(first, "ndim", 0) > 3 else part
            if isinstance(part, (str, os.PathLike)):
                raise UsageError(
                    f"data is a pair, and {part} in it a path: a path stands alone, as its folder or file holds both "
                    "splits; a pair is two datasets"
                )
            if isinstance(array, (np.ndarray, Tensor)) or type(array).__module__.partition(".")[0] == "pandas":
                whose = "" if pair[1] is None else "a pair, and one of it "
                kind = f"{type(array).__name__} of shape {tuple(array.shape)}"
                raise UsageError(f"data is {whose}a {kind}: {AS_DATASET}")
        options: dict[str, Any] = {}
        if isinstance(pair[0], DataLoader):
            options, self.train = {"workers": pair[0].num_workers}, batches_of(pair[0])
        train, test = (dataset_of(one, training=place == 0) for place, one in enumerate(pair))
        if has_stored_pictures(train) and (test is None or has_stored_pictures(test)):
            splits = {"train": train} if test is None else {"train": train, "test": test}
            return self._loaded(splits, holds_out=False) | options
        name = object_name(train)
        self.stack.enter_context(DATASETS.temporarily(name, UserDataset(train, test)))
        return {"name": name, **options}

    def _loaded(self, datasets: Mapping[str, Any], *, holds_out: bool) -> dict[str, Any]:
        """The section of datasets of Hugging Face, whose pictures are read as those of files."""
        name = object_name(next(iter(datasets.values())))
        self.stack.enter_context(DATASETS.temporarily(name, LoadedHuggingFace(datasets, holds_out=holds_out)))
        return {"name": name}

    def network(
        self, argument: Any, role: str, modality: str | None, batch: Any, keys: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The entry of a teacher or the student: of a name, the folder or file of a run, a module, or a dict of an
        entry.

        Args:
            argument: Of a dict ``model`` may be a name, a path of a run or a module.
            role: ``"teacher"`` or ``"student"``.
            modality: What it reads; None: what it was made for, else rgb.
            batch: Gives a small batch in which a modality is, by its name.
            keys: What is said of it besides, by the keys of an entry.

        Raises:
            UsageError: No such network or path, or a module that fails on this data.
        """
        entry = dict(argument) if isinstance(argument, Mapping) else {"model": argument}
        if "model" not in entry:
            raise UsageError(
                f"{role} has no model: name a network, the folder of a run, or hand over a module under 'model'"
            )
        model = expanded(entry.pop("model"))
        entry |= keys or {}
        if "weights" in entry:
            entry["weights"] = expanded(entry["weights"])
        if modality is not None:
            entry.setdefault("modality", modality)
        if isinstance(model, nn.Module):
            return self._module(model, entry, role, batch)
        if not isinstance(model, (str, os.PathLike)):
            raise UsageError(
                f"{role} is a {type(model).__name__}: name a network, the folder of a run, or hand over a module"
            )
        if os.path.exists(model):
            return _of_run(model, role) | entry
        _check_name(str(model), role)
        return {
            "model": str(model),
            **({"weights": PRETRAINED} if role == "teacher" and not isinstance(argument, Mapping) else {}),
            **entry,
        }

    def _module(self, argument: nn.Module, entry: dict[str, Any], role: str, batch: Any) -> dict[str, Any]:
        if entry.get("weights") is not None:
            raise UsageError(
                f"{role} is a module and comes with weights={entry['weights']}: load them into the module first"
            )
        argument = unwrapped(argument)
        if isinstance(argument, Student):
            # Its normalisation would be done twice; the network inside knows how it sees.
            entry.setdefault("modality", argument.recipe["modality"])
            argument = argument.module
        module, taps, preprocess, modality = module_parts(argument)
        if role == "student":
            refuse_program(module, "the student")
        classes = module_classes(argument)
        names = batch.split.classes
        if role == "student" and classes and names and [*classes] != [*names]:
            raise UsageError(
                f"the student's logits are of the classes {listed(classes)}, and the data's are {listed(names)}: "
                "delete the module's attribute classes to train its logits anew for the data's, or pass the folder of "
                "its run as student, whose classifier is matched by name"
            )
        classes = (classes or class_names(module)) if role == "teacher" else None
        if role == "teacher" and isinstance(argument, Network) and argument.classes is not None:
            # It answers for some of its module's logits, in an order of its own; without a class_map that would be
            # lost.
            places, names = argument.classes.tolist(), module_classes(argument)
            entry.setdefault("class_map", tuple(places) if names is None else dict(zip(places, names, strict=True)))
            classes = None
        entry.setdefault("modality", modality or "rgb")
        training = module_training(argument)
        check_modality_of_module(type(module).__name__, training, entry["modality"], learns=role == "student")
        half = next(
            (
                (name, str(value.dtype)[6:])
                for name, value in module.named_parameters()
                if value.dtype in (torch.float16, torch.bfloat16, torch.float64)
            ),
            None,
        )
        if half is not None:
            way = "train.precision=bf16" if role == "student" else "train.teacher_precision=bf16"
            half_precision = "" if half[1] == "float64" else f", and compute in half precision with {way}"
            raise UsageError(
                f"the {role}'s {half[0]} is {half[1]}, and images come as float32: hand over "
                f"{role}.float(){half_precision}"
            )
        images = batch(entry["modality"], type(module).__name__)
        chosen = entry.get("mean") is not None
        if chosen != (entry.get("std") is not None):
            raise UsageError(f"{role} was given {'mean' if chosen else 'std'} alone: give mean and std together")
        preprocess = preprocess or module_preprocess(
            module, images, entry["modality"], None if chosen else role, batch.split
        )
        preprocess = Preprocess(
            preprocess.mean if entry.get("mean") is None else entry["mean"],
            preprocess.std if entry.get("std") is None else entry["std"],
            preprocess.resolution if entry.get("resolution") is None else entry["resolution"],
            colours=entry["modality"] == "rgb",
            scale=scale_of(batch.split, entry["modality"]) if entry.get("mean") is not None else preprocess.scale,
        )
        taps = replace(
            taps, embedding=entry.get("embedding") or taps.embedding, maps=tuple(entry.get("maps") or taps.maps)
        )
        # Complains of names that are not there.
        network = Network(module, taps=taps, preprocess=preprocess, modality=entry["modality"])
        check_same_scale(network, type(module).__name__, batch.split)
        channels, height, width = preprocess(images).shape[1:]
        own = UserModule(
            module, taps, preprocess, (channels, height, width), classes, batch.split.num_classes, training
        )
        # Of a student it is the class alone: one that is made anew to go on with a training has other weights until
        # they are loaded.
        name = object_name(module, mark=_mark(module) if role == "teacher" else "")
        # Teachers of one class with the same weights may differ in what no weight says.
        self._names.append(name)
        name += f"-{count}" if (count := self._names.count(name)) > 1 else ""
        self.stack.enter_context(MODELS.temporarily(name, own))
        resolved = {
            "mean": preprocess.mean,
            "std": preprocess.std,
            "resolution": preprocess.resolution,
            "embedding": own.taps.embedding,
            "maps": own.taps.maps,
        }
        return {"model": name, "num_classes": own.num_logits, **entry, **resolved}


def _is_sample(part: Any) -> bool:
    """Whether one of a pair is a sample, as (image, label) or a dict of modalities, and no dataset."""
    values = part.values() if isinstance(part, Mapping) else part if isinstance(part, (tuple, list)) else ()
    shapes = [tuple(getattr(value, "shape", ())) for value in values]
    pictures = [hasattr(value, "getpixel") or len(shape) > 1 for value, shape in zip(values, shapes, strict=True)]
    if isinstance(part, Mapping):
        return any(pictures)
    label = len(shapes) == 2 and len(shapes[1]) < 2 and not isinstance(part[1], (tuple, list, Mapping))
    return label and pictures[0] and len(shapes[0]) < 4 and not pictures[1]


def _lists_samples(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and bool(value) and _is_sample(value[0])


def _of_run(path: str | os.PathLike, role: str) -> dict[str, Any]:
    """The entry of a network that a run trained, or of a folder of such runs."""
    first = next(iter(members(path)), Path(path))
    file = find_weights(first)
    recipe = read_recipe(file) if file.suffix == ".safetensors" else None
    if recipe is None:
        raise UsageError(
            f"{role} {str(path)!r} does not say which network its weights are of: give {{'model': NAME, "
            f"'weights': {str(path)!r}}}"
        )
    if recipe["model"].startswith(PYTHON_PREFIX):
        # Another module of that class in this call, as the student, may have been made with other arguments.
        kind = recipe["model"].removeprefix(PYTHON_PREFIX)
        raise UsageError(
            f"{role} {str(path)!r} is a run of {kind}, which only you can make: pass "
            f"contrastill.load_student({str(first)!r}, module={kind.rpartition('.')[2]}(…)), made with the arguments "
            "of that run"
        )
    # A student that starts from a run gets the data's classes.
    return {
        "model": recipe["model"],
        "weights": str(path),
        "modality": recipe["modality"],
        "num_classes": recipe["num_classes"] if role == "teacher" else None,
    }


def _mark(module: nn.Module) -> str:
    """Stands for a module's weights; what is no tensor, as in quantised layers, by its text."""
    values = [*module.state_dict().values()]
    others = [value for value in values if not isinstance(value, Tensor)]
    return tensors_hash(str(others) if others else "", [value for value in values if isinstance(value, Tensor)])[:8]


def _check_name(name: str, role: str) -> None:
    try:
        _ = MODELS[name]
    except UsageError as error:
        # What looks like a path has its like in the folder, else among the networks.
        beside = names_beside(name)
        hint = nearest(name, beside, "") if os.sep in name and beside and not MODELS.of_family(name) else ""
        raise UsageError(
            f"{role} {name!r} is neither a folder or file that exists nor the name of a network: {hint or error}"
        ) from error


def networks(argument: Any) -> Sequence[Any]:
    """Teachers as a sequence of single ones."""
    if argument is None:
        return ()
    return tuple(argument) if isinstance(argument, (list, tuple)) else (argument,)
