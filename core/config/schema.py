"""The schema of a run's config: its sections, their keys, defaults and units. Nothing is read, built or looked up here.

A section that names a registered class is open: its further keys are the class's own, see ``core/config/loading.py``.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    PrivateAttr,
    model_validator,
)

from ..plugins import module_names
from .fields import LARGEST_SEED, MOST_CLASSES, PLACE, RECORD, FilePath, Section, Side, run_folder
from .train_section import TrainConfig


class OpenSection(BaseModel):
    """Part of a config whose further keys belong to the registered class that it names."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    def options(self) -> dict[str, Any]:
        """The keys that are not this schema's own."""
        return dict(self.__pydantic_extra__ or {})


class DataConfig(OpenSection):
    name: str | None = Field(None, description="registered dataset; left out, it is recognised from the path")
    path: FilePath | None = Field(None, description="file or folder that holds the data")


def _teacher(value: str) -> str:
    """The name of a teacher, as evaluation.head_of takes it."""
    if re.fullmatch(r"teacher|teachers\.\d+", value) is None:
        raise ValueError("name the teacher whose features heads are trained on: teacher, or of several teachers.0 …")
    return value


def _class_map(value: Any) -> Any:
    """A class_map in one of its three forms; a union of types would complain of each."""
    if isinstance(value, dict):
        fits = all(type(key) in (str, int) and isinstance(name, str) for key, name in value.items())
    else:
        fits = isinstance(value, (list, tuple)) and any(all(type(one) is kind for one in value) for kind in (int, str))
    if not fits or not value:
        names = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
        # What YAML reads of null, 1.5 and 3.
        other = next((json.dumps(name) for name in names if name is None or isinstance(name, (int, float))), None)
        quoted = "" if other is None else f"; a class that is called {other} is written in quotes"
        raise ValueError(
            "give a list of places, a list of names, or a mapping {ITS CLASS: CLASS OF THE DATA} in which the "
            f"data's classes are names{quoted}"
        )
    return value if isinstance(value, dict) else tuple(value)


class NetworkConfig(Section):
    model: str = Field(
        description="name of a network, such as resnet20, timm/vit_tiny_patch16_224 or torchvision/resnet18"
    )
    weights: FilePath | None = Field(
        None,
        description="run folder, .safetensors file or released checkpoint, or pretrained: those its library "
        "publishes; default: random weights",
    )
    modality: str = Field("rgb", description="the modality it reads")
    num_classes: int | None = Field(
        None,
        gt=0,
        le=MOST_CLASSES,
        description="length of its logits; default: the data's number of classes, for a teacher that of its weights",
    )
    class_map: (
        Annotated[tuple[int, ...] | tuple[str, ...] | dict[str | int, str], BeforeValidator(_class_map)] | None
    ) = Field(
        None,
        description="of a teacher whose classes have other names or none: for each class of the data, which of "
        "its own that is, from 0; or the names of its own "
        "classes, in its order; or, for some of its own (by name or number), what the data calls them",
    )
    mean: tuple[float, ...] | None = Field(
        None,
        description="a mean for each channel, of rgb of values in [0, 1], of another modality in its unit; left "
        "out: the network's own, of another modality measured on the data",
    )
    std: tuple[float, ...] | None = Field(
        None, description="a standard deviation for each channel; default: as the mean"
    )
    resolution: Side | tuple[Side, Side] | None = Field(
        None,
        description="side, or [height, width], in pixels that samples are resized to; default: that of its "
        "weights or of the network, else the data's",
    )
    embedding: str | None = Field(
        None, description="module whose output is the embedding, or input:MODULE; default: the network's own choice"
    )
    maps: tuple[str, ...] | None = Field(
        None, description="modules whose outputs are the feature maps; default: the network's own choice"
    )


class ObjectiveConfig(OpenSection):
    name: str | None = Field(None, description="registered objective; default: the key it stands under")
    weight: float | None = Field(
        None, gt=0, le=1e30, description="factor of this term in the loss; default: the published one"
    )
    warmup: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of the training over which the weight rises linearly from 0; default: the published one",
    )
    rule: str | None = Field(
        None, description="how its losses towards several teachers are combined; default: ensemble.rule"
    )


class EnsembleConfig(OpenSection):
    """What several teachers make of one objective; further keys are the rule's own."""

    rule: str = Field(
        "sum",
        description="how the losses towards several teachers become one, for each objective that names no rule "
        "of its own",
    )
    batched: bool = Field(
        False,
        description="run teachers of one architecture as one network (torch.func.vmap); same answers, whether it "
        "is faster depends on the device",
        json_schema_extra=RECORD,
    )


class CacheConfig(Section):
    """How the teacher outputs of each view are cached, in memory or in the folder ``train.teacher_cache``."""

    logits: Literal["all"] | PositiveInt = Field(
        "all",
        description="all logits, or so many of the largest of each sample; the others then share their mass evenly",
    )
    prediction: Literal["all"] | PositiveInt = Field(
        "all", description="the same of each position of a segmenter's prediction"
    )
    precision: Literal["fp32", "fp16"] = Field(
        "fp32", description="in which values are kept; of logits in fp16 the log-probabilities"
    )
    parts: tuple[Literal["logits", "embedding", "maps", "prediction"], ...] | None = Field(
        None,
        description="what a folder keeps beside what the objectives read, for the objectives of other runs; left "
        "out: logits and embedding, where all teachers have them",
    )


class EvaluationConfig(Section):
    """What ``contrastill evaluate`` measures."""

    data: dict[str, Any] = Field(
        default_factory=dict,
        description="changes of data for the evaluation, such as {splits: {train: labelled, test: labelled}}",
    )
    tasks: tuple[Literal["accuracy", "segmentation", "classification", "retrieval"], ...] = Field(
        ("accuracy",),
        min_length=1,
        description="of the student's own logits; of a head on its maps, by label maps; of a linear probe on its "
        "layers, by classes; of its embedding in a teacher's space, by the teacher's of the same samples",
    )
    head_of: Annotated[str, AfterValidator(_teacher)] | None = Field(
        None,
        description="whose features the heads of segmentation and classification are trained on, teacher or teachers.0 "
        "…; they then run unchanged on the student in that teacher's space",
    )
    head: Literal["linear", "unet", "fpn"] = Field(
        "linear",
        description="of a segmentation: a linear classifier of each pixel, or a decoder with skip connections: a UNet, "
        "a feature pyramid",
    )
    mode: Literal["frozen", "fine_tuned"] = Field(
        "frozen", description="of a segmentation: whether the network trains with its head"
    )
    label_fractions: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (1.0,), min_length=1, description="shares of the labelled training samples"
    )
    layers: tuple[str, ...] = Field(
        ("embedding",), min_length=1, description="of the linear probes: embedding, logits, maps.0, maps.1 …"
    )
    spatial: int = Field(1, gt=0, description="of the linear probes: maps are averaged to so many values a side")
    epochs: int = Field(30, gt=0, description="of a segmentation: passes over the labelled training samples")
    batch_size: int = Field(16, gt=0, description="of a segmentation")
    lr: float = Field(1e-3, gt=0, le=1e30, description="of a segmentation's head")


class RunConfig(Section):
    """A whole run: what `contrastill train` reads, prints with --dry-run and writes to config.yaml."""

    imports: Annotated[list[str], BeforeValidator(module_names)] = Field(
        default_factory=list,
        description="modules of your own packages that register objectives, data sets, networks or modalities as they "
        "are imported, such as my_package",
        json_schema_extra=PLACE,
    )
    out: Annotated[FilePath, AfterValidator(run_folder)] = Field(
        description="the run's folder", json_schema_extra=PLACE
    )
    seed: int = Field(
        0,
        ge=0,
        le=LARGEST_SEED,
        description="of the initial weights, the order of samples, the views and the negatives",
    )
    seeds: int | None = Field(
        None,
        gt=0,
        description="trainings, of seed, seed + 1, …, each a run in a folder of its own under out; default: "
        "one, in out",
        json_schema_extra=RECORD,
    )
    data: DataConfig
    teachers: list[NetworkConfig] = Field(default_factory=list)
    student: NetworkConfig
    objectives: dict[str, ObjectiveConfig]
    ensemble: EnsembleConfig = Field(default_factory=EnsembleConfig)
    trackers: list[str] = Field(
        default_factory=list,
        description="experiment trackers that Accelerate knows, such as tensorboard or wandb",
        json_schema_extra=RECORD,
    )
    train: TrainConfig = Field(default_factory=TrainConfig)
    cache: CacheConfig = Field(default_factory=CacheConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig, json_schema_extra=RECORD)
    _command: str | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _every_seed_is_allowed(self) -> RunConfig:
        if self.seeds and self.seed + self.seeds - 1 > LARGEST_SEED:
            raise ValueError(
                f"seeds={self.seeds} from seed={self.seed} on go beyond {LARGEST_SEED}: take a smaller seed"
            )
        return self

    @property
    def command(self) -> str | None:
        """The command line or the call that the config comes from; no setting: two configs are equal without it."""
        return self._command

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunConfig) and self.model_dump() == other.model_dump()

    @model_validator(mode="before")
    @classmethod
    def _null_takes_an_objective_out(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("objectives"), dict):
            values = {
                **values,
                "objectives": {name: entry for name, entry in values["objectives"].items() if entry is not None},
            }
        return values
