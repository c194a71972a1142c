"""A run's student as Hugging Face's Hub keeps models: weights in safetensors, config.json, a card made from the run."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

from huggingface_hub import ModelCard, PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from torch import Tensor, nn

from ..core.arguments import checked
from ..core.errors import ContrastillError, UsageError, looked_in
from ..core.fingerprint import weights_hash
from ..core.given_values import note_frames
from ..core.home import expanded
from ..core.input_values import values_can_be_read
from ..core.registry import MODALITIES
from ..core.run import Run
from ..core.tapping import answer
from ..core.torch_settings import own_settings
from ..core.weights import find_weights
from ..models.build import build_module, load_module, save_module, with_answer
from ..models.recipe import read_recipe, recipe_preprocess, tuples
from ..models.wrappers import to_be_filled, unwrapped
from ..xmodal.modalities import SOURCES
from .student_card import answers, card, dense, training_of

log = logging.getLogger(__name__)

_WEIGHTS = "model.safetensors"
_RUN_WEIGHTS = "weights"


@checked
class Student(nn.Module, PyTorchModelHubMixin, library_name="contrastill", tags=["knowledge-distillation"]):
    """A student with its normalisation inside: it takes images as they are, and goes to and from a folder or the Hub.

    ``save_pretrained(folder)`` writes ``model.safetensors`` (under the network's own names), ``config.json`` and a
    card, ``README.md``; ``push_to_hub("you/name")`` uploads the same; ``Student.from_pretrained(folder or "you/name")``
    gives the same student, to the same bits. Nothing is pickled. ``torch.export.export`` and ``torch.jit.trace`` take
    it, ``torch.jit.script`` does not.

    Args:
        recipe: Name of the network, its classes, channels and modality, its normalisation and where its representation
            is.
        trained: What the card says of the training.
        module: Of a class of your own, which contrastill cannot make; None: the network is made by its name.

    Attributes:
        module: The network itself, whose input is normalised images.
        preprocess: Its normalisation.
        classes: Names of its logits, or of its prediction's channels; None where the data had no names.

    Shape:
        - images: (B, C, H, W) of the student's modality: rgb uint8, or float in [0, 1]; depth in metres as float with
          NaN where nothing was measured, or integers as the training's were stored; others in the unit of the training
        - returns logits (B, num_classes); of a network that answers for each position its prediction (B, num_classes,
          H, W), whose channel c is class c + 1 of the label maps, or of one channel a quantity such as depth.

    Raises:
        UsageError: The network is of a class that only you can make, and ``module`` is left out, or of another kind.

    Example:
        >>> import tempfile, torch
        >>> from contrastill.models.build import build_network, save_student
        >>> run, folder = Path(tempfile.mkdtemp()), tempfile.mkdtemp()
        >>> save_student(build_network("resnet8", num_classes=3), run / "student.safetensors")
        >>> student, images = Student.from_run(run), torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
        >>> _ = student.save_pretrained(folder)
        >>> torch.equal(Student.from_pretrained(folder)(images), student(images))
        True
    """

    def __init__(self, recipe: dict, trained: dict | None = None, module: nn.Module | None = None) -> None:
        super().__init__()
        if not {"model", "preprocess"} <= set(recipe):
            raise UsageError(f"recipe has {sorted(recipe)}: it needs model and preprocess; load with Student.from_run")
        # What config.json holds; a module is no part of it.
        labels = _labels(recipe.get("classes"))
        self._hub_mixin_config = {"recipe": recipe, "trained": trained, "answers": answers(recipe), **labels}
        self.recipe, self.trained = tuples(recipe), trained
        self.classes = None if recipe.get("classes") is None else list(recipe["classes"])
        self.module = build_module(self.recipe) if module is None else to_be_filled(module)
        self.preprocess = recipe_preprocess(self.recipe)
        scale, self._frames_seen = self.preprocess.scale, False
        self._stored = scale is not None and scale.stored  # else made of another modality, or not known
        self.eval()

    @classmethod
    @own_settings(device=False)
    def from_run(cls, run: str | os.PathLike, *, module: nn.Module | None = None) -> Student:
        """The student that a run trained, in eval mode on the CPU.

        Args:
            run: A run folder, or the ``student.safetensors`` in one.
            module: As :func:`~contrastill.load_student` takes it.

        Raises:
            UsageError: There is no such file, or it fits another network.
            ContrastillError: The file is damaged, or was not written by a run.
        """
        path = find_weights(run)
        recipe = read_recipe(path)
        if recipe is None:
            raise ContrastillError(
                f"{path} does not say which network it is: only a student that a run wrote can be loaded without "
                "its name"
            )
        student = cls(recipe, training_of(Run(path.parent), path.name, recipe), module)
        student._load(path)
        return student

    def _load(self, path: Path) -> None:
        load_module(self.module, self.recipe, path)
        if self.trained is not None:
            # Goes along in config.json: of a copy that was changed, saved and loaded it is still the run's.
            self.trained.setdefault(_RUN_WEIGHTS, weights_hash(unwrapped(self.module)))

    def _is_changed(self) -> bool:
        """Whether the weights are others than those of the run, as after a training of one's own."""
        before = (self.trained or {}).get(_RUN_WEIGHTS)
        return before is not None and before != weights_hash(unwrapped(self.module))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes), or the prediction (B, classes, H, W) of a network that answers for each position, of
        images (B, C, H, W): uint8, or floats in [0, 1]; depth in metres; of another modality in the unit of the
        training.

        Raises:
            UsageError: Something else, such as colours that are normalised already, or millimetres as floats.
        """
        self._check_modality(images)
        return answer(self.module, self.preprocess(images, like=self.module))

    def _check_modality(self, images: Tensor) -> None:
        """Refuse images of what the student's modality is derived from."""
        modality, channels = self.recipe.get("modality", "rgb"), len(self.preprocess.mean)
        if isinstance(images, Mapping):
            raise UsageError(
                f"this student takes a batch of images as one tensor (B, C, H, W), and this is a "
                f"{type(images).__name__}: give images[{modality!r}], which it reads"
            )
        if getattr(images, "ndim", 0) != 4 or images.shape[1] == channels or modality not in MODALITIES:
            self._check_frames(images)
            return
        of = MODALITIES[modality].of
        if images.shape[1] == SOURCES.get(of, images.shape[1]):
            way = f"contrastill.MODALITIES[{modality!r}].function makes it from {of}"
            raise UsageError(
                f"this student reads {modality} ({channels} channel{'s' * (channels > 1)}), and these images have "
                f"{images.shape[1]}: give {modality}, as {'the data of its training had it' if self._stored else way}"
            )

    def _check_frames(self, images: Any) -> None:
        """Log a line about frames that are not normalised as those of the training; on a device of the first batch."""
        # Stored ones are normalised in whatever way the data's were.
        if self._stored or self.recipe.get("modality") != "normalized_depth" or getattr(images, "ndim", 0) != 4:
            return
        if values_can_be_read(images) and (images.device.type == "cpu" or not self._frames_seen):
            note_frames(images)
            self._frames_seen = True

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card: what was transferred, what was measured, with which versions."""
        about = copy.deepcopy(self._hub_mixin_info.model_card_data)
        if dense(self.recipe):
            about.pipeline_tag = "image-segmentation" if self.recipe["num_classes"] != 1 else "depth-estimation"
        return ModelCard(f"---\n{about.to_yaml()}\n---\n\n{card(self.recipe, self.trained, self._is_changed())}")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **options: Any) -> Self:
        """The student in a folder that ``save_pretrained`` wrote, or in a repository of the Hub, ``USER/NAME``.

        Raises:
            UsageError: It is neither.
            ContrastillError: The Hub cannot be asked, or has no such repository.
        """
        name = os.fspath(expanded(pretrained_model_name_or_path))
        if not os.path.isdir(name) and (name.startswith((".", "/", "~")) or name.count("/") != 1):
            raise UsageError(f"{name} is no folder{looked_in(name)}, and no repository of the Hub, which is USER/NAME")
        try:
            return super().from_pretrained(name, **options)
        except (HfHubHTTPError, LocalEntryNotFoundError) as error:
            what = str(error).strip().partition("\n")[0].rstrip(".")
            raise ContrastillError(
                f"{name} is no folder{looked_in(name)}, and Hugging Face's Hub did not give it ({what}): name the "
                "folder that save_pretrained wrote, or a repository that is there"
            ) from error

    def save_pretrained(self, save_directory: str | os.PathLike, **options: Any) -> str | None:
        """As ``huggingface_hub`` writes a folder, or uploads it too, in which :meth:`from_pretrained` finds it."""
        return super().save_pretrained(expanded(save_directory), **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        if self._is_changed():
            self.recipe = with_answer(self.recipe, self.module)
            cast(dict[str, Any], self._hub_mixin_config)["recipe"] = self.recipe
        save_module(self.module, self.recipe, save_directory / _WEIGHTS)
        there = save_directory / "README.md"
        if there.exists() and there.read_text(encoding="utf-8") != str(self.generate_model_card()):
            log.warning(
                "%s stays as it is, and its figures may be of other weights: remove it before saving for a new card",
                there,
            )

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: Any,
        force_download: bool,
        local_files_only: bool,
        token: Any,
        **made: Any,
    ) -> Self:
        if os.path.isdir(model_id):
            path = Path(model_id) / _WEIGHTS
        else:
            chosen = {"revision": revision, "cache_dir": cache_dir, "token": token}
            chosen |= {"force_download": force_download, "local_files_only": local_files_only}
            path = Path(hf_hub_download(model_id, _WEIGHTS, **chosen))
        if "recipe" not in made:
            raise ContrastillError(
                f"{model_id} has no config.json of a student: only what Student.save_pretrained wrote can be loaded"
            )
        student = cls(**made)
        student._load(path)
        return student


def _labels(classes: Sequence[str] | None) -> dict[str, Any]:
    """The names of the classes as config.json of timm (``label_names``) and of transformers (``id2label``,
    ``label2id``) has them.
    """
    if classes is None:
        return {}
    numbered = {str(number): name for number, name in enumerate(classes)}
    return {
        "num_classes": len(classes),
        "label_names": [*classes],
        "id2label": numbered,
        "label2id": {name: int(number) for number, name in numbered.items()},
    }
