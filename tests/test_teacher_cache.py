"""Teachers' memory: the numbers of the live teachers, each view looked at once, and the same bits after a stop."""

from types import SimpleNamespace

import psutil
import pytest
import torch

from contrastill.core.engine import fit
from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.objective import Setting
from contrastill.core.representation import Representation, describe
from contrastill.core.run import Run
from contrastill.core.schema import TrainConfig
from contrastill.core.teacher_cache import TeacherMemory
from contrastill.core.transfer import Term, Transfer, teacher_fields
from contrastill.datasets.in_memory import TensorSplit
from contrastill.datasets.views import PaddedImages
from contrastill.models.build import build_network
from contrastill.objectives.attention import Attention
from contrastill.objectives.crd import CRD


def split(count=48):
    images = PaddedImages.zeros(count, 16, 16, 3, dtype=torch.uint8, padding=2)
    images.interior[:] = torch.randint(256, images.interior.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return TensorSplit({"rgb": images}, targets=torch.arange(count) % 4, num_classes=4, flip=True)


def transfer(data):
    torch.manual_seed(3)
    teachers, student = [build_network("resnet14", num_classes=4), build_network("resnet8", num_classes=4)], build_network("resnet8", num_classes=4)
    specs = [describe(network, {"rgb": torch.zeros(2, 3, 16, 16, dtype=torch.uint8)}) for network in (*teachers, student)]
    settings = [Setting(specs[-1], spec, data.num_samples, data.targets, 0) for spec in specs[:-1]]
    terms = {
        "crd": Term([CRD.build(CRD.Options(embed_dim=8, num_negatives=16, bias=3.0), setting) for setting in settings]),
        "attention": Term([Attention.build(Attention.Options(pairs=((1, 1), (3, 3))), setting) for setting in settings]),
    }
    return Transfer(teachers, student, terms)


def loader(data, views=2):
    return data.loader(batch_size=16, device="cpu", seed=5, train=True, views=views)


def test_what_is_kept_is_what_the_teachers_say_of_the_same_views():
    data = split()
    made = transfer(data)
    memory, plain = TeacherMemory(loader(data), made), loader(data)
    for epoch in (0, 1, 3):
        for batch, bare in zip(memory.epoch(epoch), plain.epoch(epoch), strict=True):
            assert torch.equal(batch["rgb"], bare["rgb"]) and torch.equal(batch["view"], torch.full((16,), epoch % 2))
            live = teacher_fields(dict(enumerate(made.teachers_say(bare))))
            assert live.keys() == {name for name in batch if name.startswith("teachers.")} and len(live) == 10
            for name, value in live.items():
                torch.testing.assert_close(batch[name], value, rtol=1e-5, atol=1e-6)
            said = made.teachers_say(batch)
            assert [type(one) for one in said] == [Representation] * 2 and [len(one.maps) for one in said] == [4, 4]


def test_no_teacher_looks_at_a_view_twice():
    data, looks = split(), []
    made = transfer(data)
    made.teachers[0].register_forward_hook(lambda *_: looks.append(1))
    memory = TeacherMemory(loader(data), made)
    for epoch in range(6):
        list(memory.epoch(epoch, start=epoch % 3))
    assert len(looks) == 2 * 3  # two views of three batches


def test_a_stopped_training_ends_in_the_same_bits(tmp_path):
    config = TrainConfig(epochs=4, lr=0.02, views=2, checkpoint_every_steps=2)
    data = split()
    whole = transfer(data)
    fit(whole, TeacherMemory(loader(data), whole), None, config, run=Run(tmp_path / "whole"), progress=False)

    class Stopping(TeacherMemory):
        def epoch(self, k, start=0):
            for place, batch in enumerate(super().epoch(k, start), start):
                if (k, place) == (3, 1):
                    raise KeyboardInterrupt
                yield batch

    stopped = transfer(data)
    with pytest.raises(KeyboardInterrupt):
        fit(stopped, Stopping(loader(data), stopped), None, config, run=Run(tmp_path / "stopped"), progress=False)
    resumed = transfer(data)
    fit(resumed, TeacherMemory(loader(data), resumed), None, config, run=Run(tmp_path / "stopped"), progress=False)
    wanted = whole.trained_state()
    assert all(torch.equal(value, wanted[name]) for name, value in resumed.trained_state().items())


def test_more_than_there_is_room_for_is_refused(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1_000))
    data = split()
    with pytest.raises(UsageError, match="take fewer views, or name fewer maps"):
        list(TeacherMemory(loader(data), transfer(data)).epoch(0))


def files_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_folder_is_read_by_every_later_run_with_the_same_teachers_and_views(tmp_path, monkeypatch):
    data = split()
    loader = data.loader(batch_size=16, device="cpu", seed=1, train=True, views=2)
    made = transfer(data)
    plain, kept = TeacherMemory(loader, made), TeacherMemory(loader, made, tmp_path)
    epochs = {name: [list(memory.epoch(k)) for k in range(2)] for name, memory in (("plain", plain), ("kept", kept))}
    found = files_of(tmp_path)
    assert len(found) == 4 and len({name.split("/")[0] for name in found}) == 2  # a folder a teacher, a file a view
    looks = []
    monkeypatch.setattr(made, "look", lambda *_: looks.append(1))
    again = [list(TeacherMemory(loader, made, tmp_path).epoch(k)) for k in range(2)]
    assert not looks and files_of(tmp_path) == found
    for name in ("kept", "plain"):
        for one, other in zip(epochs[name], again, strict=True):
            for batch, same in zip(one, other, strict=True):
                assert batch.keys() == same.keys()
                assert all(torch.equal(batch[field], same[field]) for field in batch)


def test_another_seed_and_other_weights_are_looked_at_anew(tmp_path):
    data, made = split(), transfer(split())
    next(TeacherMemory(data.loader(batch_size=16, device="cpu", seed=1, train=True, views=2), made, tmp_path).epoch(0))
    next(TeacherMemory(data.loader(batch_size=16, device="cpu", seed=2, train=True, views=2), made, tmp_path).epoch(0))
    assert len(files_of(tmp_path)) == 4
    with torch.no_grad():
        next(made.teachers[1].parameters()).add_(0.5)
    next(TeacherMemory(data.loader(batch_size=16, device="cpu", seed=1, train=True, views=2), made, tmp_path).epoch(0))
    assert len(files_of(tmp_path)) == 5


def test_a_damaged_file_is_named(tmp_path):
    data, made = split(), transfer(split())
    loader = data.loader(batch_size=16, device="cpu", seed=1, train=True, views=2)
    next(TeacherMemory(loader, made, tmp_path).epoch(0))
    path = tmp_path / files_of(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ContrastillError, match="is damaged: remove it"):
        next(TeacherMemory(loader, made, tmp_path).epoch(0))
