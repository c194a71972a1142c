"""The section ``train`` of a run's config: length, batches, optimiser, schedule, precision, checkpoints and views."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ..errors import nearest
from .fields import PLACE, RECORD, FilePath, Section

OPTIMIZERS = ("sgd", "adamw")
"""Those of torch; ``timm/NAME`` is one of timm's."""


def check_optimizer(name: str) -> None:
    """Refuse the name of an optimiser that does not exist here.

    Raises:
        ValueError: It does not; the message names others.
    """
    if name in OPTIMIZERS:
        return
    if not name.startswith("timm/"):
        hint = nearest(name, OPTIMIZERS, f"choose {' or '.join(OPTIMIZERS)}.")
        raise ValueError(f"{hint} One of timm's is timm/NAME, such as timm/lamb")
    # Imported here, as it takes a second.
    from timm.optim import list_optimizers

    # Those of apex and bitsandbytes need a GPU; kron compiles a function for each shape of a weight, for minutes.
    names = [str(known) for known in list_optimizers(exclude_filters=["fused*", "bnb*", "kron*"])]
    if name.removeprefix("timm/") not in names:
        hint = nearest(name.removeprefix("timm/"), names, f"choose one of {', '.join(names)}", prefix="timm/")
        raise ValueError(f"timm has no such optimiser here: {hint}")


class TrainConfig(Section):
    epochs: int | None = Field(
        None,
        gt=0,
        description="passes over the training split; default: by the number of its samples, 240 for 12 500 or "
        "fewer, 60 for 50 000, 20 for 150 000 or more",
    )
    initial_epochs: int | None = Field(
        None,
        gt=0,
        description="passes before those, for the initial stage that some objectives (ab, factor, fsp) have; "
        "default: the published 30",
    )
    initial_lr: float | None = Field(
        None, gt=0, le=1e30, description="learning rate of the initial stage, which is constant; default: lr"
    )
    batch_size: int = Field(64, gt=0, description="samples an optimiser step takes, over all processes")
    drop_last: bool = Field(
        False,
        description="leave out the last batch of an epoch where it has fewer than batch_size samples; others are "
        "left out in each epoch",
    )
    accumulation_steps: int = Field(
        1,
        gt=0,
        description="backward passes an optimiser step is split into, to save memory; the same result, but for "
        "BatchNorm's statistics and for objectives that "
        "compare the samples of a batch with each other, such as similarity, rkd or fresh_crd: they see the samples of "
        "one pass; the mean over labelled pixels is that of a pass too",
    )
    on_nan: Literal["stop", "skip"] = Field(
        "stop",
        description="what is done where the loss is no finite number: stop, and name the batch in "
        "bad_batch.json; or skip the optimiser step, also for its "
        "gradient's sake, with a line in skipped_batches.jsonl (waits for the device once a step)",
    )
    optimizer: str = Field(
        "sgd",
        description="optimiser of student and heads: sgd, adamw, or one of timm's, such as timm/lamb; "
        "timm/sgd has Nesterov's momentum, timm/momentum has not",
    )
    optimizer_options: dict[str, Any] = Field(
        default_factory=dict, description="further arguments of the optimiser, such as {betas: [0.9, 0.95]}"
    )
    lr: float = Field(0.05, gt=0, le=1e30, description="learning rate at the start")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    nesterov: bool = Field(False, description="Nesterov's momentum, of SGD")
    weight_decay: float = Field(5e-4, ge=0, le=1e30, description="of all trained parameters")
    decay_biases: bool = Field(
        True,
        description="false: no weight decay of biases, norms and other weights of one dimension, nor of those that the "
        "student lists in no_weight_decay()",
    )
    layer_decay: float | None = Field(
        None,
        gt=0,
        le=1,
        description="factor of the learning rate from each layer of the student to the one before it, by timm's "
        "grouping of layers; default: one rate for all",
    )
    backbone_lr: float | None = Field(
        None,
        gt=0,
        le=1,
        description="factor of the learning rate of all of the student but its classifier; default: one rate for all",
    )
    freeze: tuple[str, ...] = Field(
        (),
        description="modules of the student that do not train, such as layer1, or backbone: all but its classifier; "
        "they stay in eval mode",
    )
    clip_norm: float | None = Field(
        None, gt=0, le=1e30, description="largest norm of the gradient of an optimiser step; default: any"
    )
    clip_value: float | None = Field(
        None, gt=0, le=1e30, description="largest absolute value in the gradient of an optimiser step; default: any"
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="decay a step, such as 0.999, of the moving average of the student's weights, which is evaluated "
        "and saved in the student's place; default: none",
    )
    schedule: Literal["step", "cosine", "constant"] = Field("step", description="course of the learning rate")
    milestones: tuple[float, ...] = Field(
        (0.625, 0.75, 0.875), description="fractions of all steps after which the rate falls, for schedule=step"
    )
    gamma: float = Field(0.1, gt=0, le=1, description="factor of the rate at a milestone")
    warmup_epochs: float = Field(
        0.0, ge=0, description="epochs in which the rate rises linearly: over their n steps from lr/n to lr"
    )
    class_balanced: bool = Field(
        False,
        description="every class comes equally often in an epoch: samples of rare classes several times, some of "
        "frequent ones not at all",
    )
    mixup: float | None = Field(
        None,
        gt=0,
        le=100,
        description="α of mixup: training samples are means of two, λ ~ Beta(α, α), alike for teachers and "
        "student; default: none",
    )
    cutmix: float | None = Field(
        None,
        gt=0,
        le=100,
        description="α of CutMix: a rectangle of a second sample is put into each; with mixup each of the two for "
        "half of the samples; default: none",
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="of the forward pass (autocast)")
    teacher_precision: Literal["fp32", "bf16", "fp16"] | None = Field(
        None,
        description="of the teachers' forward pass alone (autocast); default: as precision, and fp32 where teacher "
        "outputs are cached",
    )
    fold_teachers: bool = Field(
        False,
        description="fold each BatchNorm of a teacher into the convolution before it: less time, the same "
        "answers to 1e-4 of the largest value (checked)",
    )
    compile: bool = Field(False, description="compile student and teachers with torch.compile")
    evaluate_every: int = Field(
        1,
        gt=0,
        description="epochs between evaluations on the test split; the last epoch always is",
        json_schema_extra=RECORD,
    )
    validation: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of the training samples of each class that are not trained on but measured with each "
        "evaluation, by top-1, mAP, mIoU or δ < 1.25; the student of the best epoch is saved too, as "
        "student_best.safetensors; default: none",
    )
    checkpoint_every: int = Field(1, gt=0, description="epochs between checkpoints", json_schema_extra=RECORD)
    checkpoint_every_steps: int | None = Field(
        None, gt=0, description="also a checkpoint after so many steps, for long epochs", json_schema_extra=RECORD
    )
    timeout_minutes: float = Field(
        30.0,
        gt=0,
        le=100_000,
        description="how long the processes of a training wait for one that says nothing before they give up",
        json_schema_extra=PLACE,
    )
    keep_checkpoints: int = Field(2, gt=0, description="newest checkpoints that are kept", json_schema_extra=PLACE)
    views: int | None = Field(
        None,
        gt=0,
        description="different views of each sample; teacher outputs of each are computed once and cached, "
        "see cache. Left out: a new view each epoch",
    )

    teacher_cache: FilePath | None = Field(
        None,
        description="folder in which the teacher outputs of each view are cached for further runs, or that "
        "contrastill cache wrote; needs views",
    )

    @field_validator("optimizer")
    @classmethod
    def _exists(cls, name: str) -> str:
        check_optimizer(name)
        return name

    @field_validator("freeze", mode="before")
    @classmethod
    def _one_module(cls, names: Any) -> Any:
        return (names,) if isinstance(names, str) else names

    @model_validator(mode="after")
    def _fits(self) -> TrainConfig:
        if self.teacher_cache is not None and self.views is None:
            raise ValueError(
                "teacher_cache keeps the teacher outputs of views that come again: set train.views, such as "
                "train.views=4"
            )
        if self.nesterov and self.momentum == 0 and self.optimizer == "sgd":
            raise ValueError(
                "train.nesterov is a kind of momentum, and train.momentum=0: give one, or leave nesterov out"
            )
        if self.clip_norm is not None and self.clip_value is not None:
            raise ValueError("clip_norm and clip_value are two ways to clip a gradient: take one")
        if any(not 0 < m < 1 for m in self.milestones) or list(self.milestones) != sorted(self.milestones):
            raise ValueError(
                "milestones are rising fractions of the whole training, between 0 and 1, such as [0.625, 0.75, 0.875]"
            )
        return self
