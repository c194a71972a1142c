"""What a DataLoader or a wrapper around a module carries, handed to the one call: kept, or refused in a sentence."""

import logging

import pytest
import torch
from timm.utils.model_ema import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

import contrastill
from contrastill.core.errors import UsageError
from contrastill.models.module_facts import module_parts
from contrastill.models.user_module import UserModule
from contrastill.models.wrappers import unwrapped

IMAGES = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
DATA = TensorDataset(IMAGES, torch.arange(20) % 4)


def network(width=4):
    with torch.random.fork_rng():
        torch.manual_seed(width)
        return nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4)
        )


def mixup(samples):
    images, labels = default_collate(samples)
    return 0.5 * images + 0.5 * images.flip(0), labels


class Own(DataLoader):
    def __iter__(self):
        return iter(())


class Halves(BatchSampler):
    pass


class Whole(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, number):
        return IMAGES[:10], torch.zeros(10)


def distilled(data, folder, **changes):
    return contrastill.distill(network(8), network(), data, out=folder, epochs=1, quiet=True, **changes)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (
            lambda: DataLoader(DATA, 4, shuffle=True, collate_fn=mixup),
            "collate_fn mixup cannot be kept, as samples are read one by one",
        ),
        (
            lambda: DataLoader(DATA, 4, shuffle=True, collate_fn=lambda samples: samples),
            "collate_fn .*<lambda> cannot be kept",
        ),
        (lambda: DataLoader(DATA, 4, shuffle=True, worker_init_fn=print), "worker_init_fn print cannot be kept"),
        (lambda: DataLoader(DATA, batch_sampler=Halves(SequentialSampler(DATA), 4, False)), "Halves cannot be kept"),
        (lambda: DataLoader(DATA, batch_sampler=[[0, 1], [2, 3]]), "list cannot be kept"),
        (lambda: DataLoader(DATA, batch_sampler=BatchSampler(range(20), 4, False)), "range cannot be kept"),
        (
            lambda: DataLoader(DATA, batch_sampler=BatchSampler(WeightedRandomSampler([1.0] * 20, 20), 4, False)),
            "WeightedRandomSampler cannot be kept",
        ),
        (
            lambda: DataLoader(DATA, batch_sampler=BatchSampler(SequentialSampler(range(7)), 4, False)),
            "SequentialSampler draws with replacement or another number",
        ),
        (
            lambda: (DATA, DataLoader(DATA, batch_sampler=BatchSampler(SequentialSampler(DATA), 4, True))),
            "drop_last leaves test samples out",
        ),
        (
            lambda: DataLoader(Whole(), batch_size=None),
            "batch_size=None hands out what the dataset gives as whole batches",
        ),
        (
            lambda: DataLoader(DATA, 4, sampler=WeightedRandomSampler([1.0] * 20, 20)),
            "WeightedRandomSampler cannot be kept",
        ),
        (
            lambda: DataLoader(DATA, 4, sampler=RandomSampler(DATA, replacement=True)),
            "RandomSampler draws with replacement",
        ),
        (
            lambda: DataLoader(DATA, 4, sampler=RandomSampler(DATA, num_samples=7)),
            "RandomSampler draws with replacement or another number",
        ),
        (lambda: Own(DATA, 4, shuffle=True), "class Own hands out batches in a way of its own"),
        (lambda: (DATA, DataLoader(DATA, 4, drop_last=True)), "drop_last leaves test samples out"),
        (lambda: (DATA, DataLoader(DATA, 4, collate_fn=mixup)), "collate_fn mixup cannot be kept"),
    ],
)
def test_what_a_loader_carries_and_a_training_would_drop_is_refused(loader, message, tmp_path):
    with pytest.raises(UsageError, match=f"the DataLoader's {message}.*: hand over its dataset"):
        distilled(loader(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_batch_size_and_drop_last_are_kept_and_the_rest_changes_no_value(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        plain = distilled((DATA, DATA), tmp_path / "plain", batch_size=8, drop_last=True)
        handed = DataLoader(
            DATA,
            8,
            shuffle=True,
            drop_last=True,
            pin_memory=False,
            generator=torch.Generator().manual_seed(9),
            timeout=0,
        )
        result = distilled((handed, DataLoader(DATA, 3)), tmp_path / "kept")
        assert not [record for record in caplog.records if "shuffle" in record.getMessage()]
    assert result.config.train.drop_last and result.config.train.batch_size == 8 and result.metrics["step"] == 2
    assert all(
        torch.equal(value, plain.student.state_dict()[name]) for name, value in result.student.state_dict().items()
    )


@pytest.mark.parametrize("sampler", [RandomSampler, SequentialSampler])
def test_a_plain_batch_sampler_is_read_as_the_settings_that_it_has(sampler, tmp_path, caplog):
    def loader(size, drop_last, order=sampler):
        return DataLoader(DATA, batch_sampler=BatchSampler(order(DATA), size, drop_last))

    with caplog.at_level(logging.WARNING):
        result = distilled((loader(8, True), loader(3, False, SequentialSampler)), tmp_path / "run")
    in_order = [record for record in caplog.records if "shuffle=False" in record.getMessage()]
    assert len(in_order) == (sampler is SequentialSampler)
    assert result.config.train.drop_last and result.config.train.batch_size == 8 and result.metrics["step"] == 2


def test_an_order_that_a_training_does_not_keep_is_told(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        result = distilled((DataLoader(DATA, 8), DATA), tmp_path / "run")
    assert not result.config.train.drop_last and result.metrics["step"] == 3
    assert [record.getMessage() for record in caplog.records if "shuffle=False" in record.getMessage()]


def averaging(wrapper, module):
    """A wrapper around the module itself, where it copies what it is given."""
    wrapped = wrapper(module)
    wrapped.module = module
    return wrapped


@pytest.mark.parametrize(
    "wrap",
    [
        torch.compile,
        nn.DataParallel,
        lambda module: nn.DataParallel(torch.compile(module)),
        lambda module: averaging(AveragedModel, module),
        lambda module: averaging(ModelEmaV3, module),
    ],
    ids=["compiled", "parallel", "both", "averaged", "timm"],
)
def test_a_wrapper_around_a_module_is_taken_off(wrap):
    bare = network()
    assert unwrapped(wrap(bare)) is bare and unwrapped(bare) is bare
    module, taps, _, _ = module_parts(
        contrastill.Network(
            bare, taps=contrastill.Taps(embedding="input:4"), preprocess=contrastill.Preprocess((0.0,) * 3, (1.0,) * 3)
        )
    )
    assert module is bare and UserModule(
        unwrapped(wrap(bare)), taps, contrastill.Preprocess((0.0,) * 3, (1.0,) * 3), (3, 8, 8)
    ).classifiers == ("4",)


def test_a_compiled_teacher_and_student_are_those_of_the_modules(tmp_path):
    teacher, student = network(8), network()
    plain, wrapped = (
        contrastill.distill(one, other, DATA, out=tmp_path / name, epochs=1, batch_size=8, quiet=True)
        for name, one, other in (
            ("plain", teacher, student),
            ("wrapped", torch.compile(teacher), nn.DataParallel(student)),
        )
    )
    assert plain.student.state_dict().keys() == wrapped.student.state_dict().keys()
    assert all(
        torch.equal(value, wrapped.student.state_dict()[name]) for name, value in plain.student.state_dict().items()
    )


def frozen():
    made = network()
    made[0].requires_grad_(False)
    return made


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"student": network().half()},
            r"the student's 0.weight is float16, and images come as float32: hand over student.float\(\)",
        ),
        ({"teacher": network(8).bfloat16()}, "the teacher's 0.weight is bfloat16, .*train.teacher_precision=bf16"),
        (
            {"student": frozen()},
            "objective crd reads the student's embedding, which depends on no parameter that trains",
        ),
        (
            {"objectives": {"infonce": 1.0}, "batch_size": 19},
            "the last batch of an epoch has 1 sample .* train.drop_last=true",
        ),
        ({"objectives": {"crd": 0}}, "objectives.crd.weight=0 is not allowed"),
        ({"objectives": {"crd": -0.8}}, "objectives.crd.weight=-0.8 is not allowed"),
    ],
)
def test_what_is_refused_before_the_first_step_leaves_no_folder_in_the_way_of_the_next_call(changes, message, tmp_path):
    call = {"teacher": network(8), "student": network(), "objectives": "crd", "batch_size": 4} | changes
    with pytest.raises(UsageError, match=message):
        contrastill.distill(data=DATA, out=tmp_path / "run", epochs=1, quiet=True, **call)
    assert not (tmp_path / "run").exists()


def test_a_student_of_inference_mode_and_the_module_that_is_teacher_too_are_copied(tmp_path):
    with torch.inference_mode():
        made = network()
    result = contrastill.distill(
        made, made, DATA, out=tmp_path / "run", objectives="kd", epochs=1, batch_size=4, quiet=True
    )
    assert result.metrics["step"] == 5 and not torch.equal(result.student[0].weight, made[0].weight)
