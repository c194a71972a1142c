"""A student in its teacher's space: its adaptor's answers, the sizes of its maps, and what is refused."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from contrastill import InTeacherSpace, Network, Preprocess, Representation, Taps, UsageError
from contrastill.core.value_scale import ValueScale
from contrastill.ensemble.adaptors import Adaptor
from contrastill.ensemble.in_teacher_space import in_teacher_space
from contrastill.models.build import build_network, save_student
from contrastill.probe.features import copied


@pytest.fixture(scope="module")
def student():
    torch.manual_seed(0)
    return build_network("resnet8", num_classes=5, modality="depth", mean=(2.0,), std=(0.5,)).eval()


@pytest.fixture(scope="module")
def adaptor():
    torch.manual_seed(1)
    return Adaptor(summary=(64, 12), dense=(32, 20), pair=(-2, -1)).eval()


BATCH = {"depth": 1 + 2 * torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(2))}


def test_it_is_the_adaptor_behind_the_student(student, adaptor):
    network = InTeacherSpace(student, adaptor).freeze()
    answer, reference = network(BATCH), adaptor(student(BATCH))
    assert network.modality == "depth" and answer.logits is None and answer.prediction is None and len(answer.maps) == 1
    assert torch.equal(answer.embedding, reference.embedding) and torch.equal(answer.maps[0], reference.maps[0])
    assert answer.maps[0].shape == (3, 20, 16, 16) and not answer.embedding.requires_grad
    only = network(BATCH, ("embedding",))
    assert only.maps == () and torch.equal(only.embedding, answer.embedding)


def test_every_batch_is_looked_at_of_a_loaded_one(tmp_path, student, adaptor, monkeypatch):
    scale = ValueScale("floats", "m", (2.0,), (0.5,))
    network = build_network("resnet8", num_classes=5, modality="depth", mean=(2.0,), std=(0.5,))
    network.preprocess = replace(network.preprocess, scale=scale)
    save_student(network, tmp_path / "student.safetensors")
    monkeypatch.setattr("contrastill.ensemble.in_teacher_space.adaptor_of", lambda *_: adaptor)
    loaded = in_teacher_space(tmp_path)
    loaded(BATCH)
    with pytest.raises(UsageError, match="that of this data is 1986"):
        loaded({"depth": BATCH["depth"] * 1000})
    loaded(BATCH)


@pytest.mark.parametrize("size", [(8, 4), (16, 16), (40, 30), (4, 30)])
def test_a_map_is_averaged_where_it_becomes_smaller_and_interpolated_where_larger(student, adaptor, size):
    plain = InTeacherSpace(student, adaptor).freeze()(BATCH).maps[0]
    answer = InTeacherSpace(student, adaptor, map_size=size).freeze()(BATCH).maps[0]
    assert answer.shape[2:] == size
    if size == (8, 4):
        cell = plain[1, 5, 6:8, 4:8].mean()
        torch.testing.assert_close(answer[1, 5, 3, 1], cell)
    elif size == (40, 30):
        torch.testing.assert_close(answer, F.interpolate(plain, size, mode="bilinear", align_corners=False))
    elif size == (4, 30):
        rows = plain.unflatten(2, (4, 4)).mean(3)
        torch.testing.assert_close(answer, F.interpolate(rows, size, mode="bilinear", align_corners=False))
    else:
        assert torch.equal(answer, plain)


def test_a_copy_of_its_parts_answers_the_same_and_the_student_is_not_touched(student, adaptor):
    before = copy.deepcopy(student.state_dict())
    network = InTeacherSpace(copied(student, trainable=False), adaptor, map_size=(7, 7)).freeze()
    answer = network(BATCH)
    for other in (copied(network, trainable=False), copy.deepcopy(network)):
        assert all(torch.equal(a, b) for a, b in zip(other(BATCH).tensors(), answer.tensors(), strict=True))
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert sum(parameter.numel() for parameter in network.parameters()) == sum(
        parameter.numel() for part in (student, adaptor) for parameter in part.parameters()
    )


def test_gradients_reach_the_student_where_it_is_not_frozen(student, adaptor):
    network = InTeacherSpace(copied(student, trainable=True), adaptor)
    network(BATCH).maps[0].sum().backward()
    assert network.module.student.module.conv1.weight.grad.abs().sum() > 0


def test_what_an_adaptor_does_not_give(student):
    network = InTeacherSpace(student, Adaptor(summary=(64, 12)).eval())
    assert network(BATCH).maps == ()
    with pytest.raises(UsageError, match=r"objectives\.agglomerate\.dense=false"):
        network(BATCH, ("maps",))
    with pytest.raises(UsageError, match="no tap for its prediction: a student answers in its teacher's space by"):
        network(BATCH, ("prediction",))
    blind = Network(student.module, taps=Taps(embedding="input:fc"), preprocess=Preprocess((2.0,), (0.5,)))
    with pytest.raises(UsageError, match=r"has no tap for its maps: name the module that gives it, as maps=…"):
        InTeacherSpace(blind, Adaptor(dense=(64, 12)))


class Same(Adaptor):
    """Of a student that is its teacher."""

    def forward(self, student):
        return Representation(embedding=student.embedding, maps=(student.maps[self.pair[0]],))


def test_a_student_that_is_its_teacher_answers_as_it_does_to_the_bit(student):
    answer = InTeacherSpace(student, Same(summary=(64, 64), dense=(64, 64)), map_size=(8, 8)).freeze()(BATCH)
    teacher = student(BATCH)
    assert torch.equal(answer.embedding, teacher.embedding) and torch.equal(answer.maps[0], teacher.maps[-1])


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(UsageError, match="nowhere"):
        in_teacher_space(tmp_path / "nowhere")
