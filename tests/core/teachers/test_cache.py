"""Teachers' memory: the numbers of the live teachers, each view looked at once, and the same bits after a stop."""

from types import SimpleNamespace

import h5py
import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from contrastill.core.atomic import create_h5
from contrastill.core.config.schema import CacheConfig, TrainConfig
from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.objective import Setting
from contrastill.core.representation_spec import describe
from contrastill.core.run import Run
from contrastill.core.teachers import cache_shard
from contrastill.core.teachers.cache import CachedTeachers
from contrastill.core.teachers.cache_shard import FileRows, MemoryRows
from contrastill.core.teachers.live import LiveTeachers
from contrastill.core.term import Term
from contrastill.core.transfer import Transfer
from contrastill.datasets.image_folder import ImageFolder
from contrastill.datasets.io.in_memory import TensorSplit
from contrastill.datasets.io.views import PaddedImages, draw_views
from contrastill.models.build import build_network
from contrastill.objectives.attention import Attention
from contrastill.objectives.crd import CRD
from contrastill.objectives.kd import KD
from contrastill.training.engine import fit
from contrastill.xmodal.derive import DerivedLoader

OPTIONS = {CRD: CRD.Options(embed_dim=8, num_negatives=16, bias=3.0)}


def split(count=48):
    images = PaddedImages.zeros(count, 16, 16, 3, dtype=torch.uint8, padding=2)
    images.interior[:] = torch.randint(
        256, images.interior.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return TensorSplit({"rgb": images}, targets=torch.arange(count) % 4, num_classes=4, flip=True)


def transfer(data, *objectives):
    torch.manual_seed(3)
    teachers, student = (
        [build_network("resnet14", num_classes=4), build_network("resnet8", num_classes=4)],
        build_network("resnet8", num_classes=4),
    )
    specs = [
        describe(network, {"rgb": torch.zeros(2, 3, 16, 16, dtype=torch.uint8)}) for network in (*teachers, student)
    ]
    settings = [Setting(specs[-1], spec, data.num_samples, data.targets, 0) for spec in specs[:-1]]
    terms = {
        "crd": Term([CRD.build(OPTIONS[CRD], setting) for setting in settings]),
        "attention": Term(
            [Attention.build(Attention.Options(pairs=((1, 1), (3, 3))), setting) for setting in settings]
        ),
    }
    if objectives:
        terms = {
            objective.__name__: Term(
                [objective.build(OPTIONS.get(objective, objective.Options()), setting) for setting in settings]
            )
            for objective in objectives
        }
    return Transfer(teachers, student, terms)


def loader(data, views=2):
    return data.loader(batch_size=16, device="cpu", seed=5, train=True, views=views)


def cached(batches, transfer, *options):
    """The transfer takes its teacher outputs from this cache from now on."""
    if isinstance(transfer.source, CachedTeachers):
        transfer.source = LiveTeachers(transfer.teachers)
    transfer.source = CachedTeachers(batches, transfer.source, transfer.teacher_needs, *options)
    return transfer.source


def epoch_outputs(transfer, k, start=0):
    """The batches of an epoch, each with the teachers' outputs."""
    transfer.source.start_epoch(k)
    for batch in transfer.source.loader.epoch(k, start):
        yield batch, transfer.teacher_outputs(batch)


def test_what_is_kept_is_what_the_teachers_say_of_the_same_views():
    data = split()
    fresh = transfer(data)
    live = fresh.source
    cached(loader(data), fresh)
    for epoch in (0, 1, 3):
        for batch, outputs in epoch_outputs(fresh, epoch):
            assert torch.equal(batch["view"], torch.full((16,), epoch % 2))
            expected = live.outputs(batch, (0, 1), fresh.teacher_needs)
            assert [len(one.maps) for one in outputs] == [4, 4]
            for one, other in zip(outputs, expected, strict=True):
                for value, expected_value in zip(one.tensors(), other.tensors(), strict=True):
                    torch.testing.assert_close(value, expected_value, rtol=1e-5, atol=1e-6)


def test_no_teacher_looks_at_a_view_twice():
    data, looks = split(), []
    fresh = transfer(data)
    fresh.teachers[0].register_forward_hook(lambda *_: looks.append(1))
    cached(loader(data), fresh)
    for epoch in range(6):
        list(epoch_outputs(fresh, epoch, start=epoch % 3))
    # Two views of three batches; a few samples twice, to see that it is not random, and some of them beside fewer.
    assert len(looks) == 2 * 3 + 2 + 2


def test_a_stopped_training_ends_in_the_same_bits(tmp_path):
    config = TrainConfig(epochs=4, lr=0.02, views=2, checkpoint_every_steps=2)
    data = split()

    def trained(name, stops=False):
        fresh, batches = transfer(data), loader(data)
        cached(loader(data), fresh)
        if stops:
            epoch = batches.epoch
            batches.epoch = lambda k, start=0: stopping(epoch(k, start), k, start)
        fit(fresh, batches, None, config, run=Run(tmp_path / name), progress=False)
        return fresh.trained_state()

    def stopping(batches, k, start):
        for place, batch in enumerate(batches, start):
            if (k, place) == (3, 1):
                raise KeyboardInterrupt
            yield batch

    expected = trained("whole")
    with pytest.raises(KeyboardInterrupt):
        trained("stopped", stops=True)
    assert all(torch.equal(value, expected[name]) for name, value in trained("stopped").items())


def test_more_than_there_is_room_for_is_refused(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1_000))
    data = split()
    with pytest.raises(UsageError, match="take fewer views, or name fewer maps"):
        cached(loader(data), transfer(data)).start_epoch(0)


def files_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.h5"))


def same_outputs(one, other):
    for (batch, outputs), (other_batch, other_outputs) in zip(one, other, strict=True):
        assert torch.equal(batch["index"], other_batch["index"])
        for pair in zip(outputs, other_outputs, strict=True):
            assert all(map(torch.equal, *(representation.tensors() for representation in pair)))
            assert len({len(representation.tensors()) for representation in pair}) == 1


@pytest.fixture
def short_files(monkeypatch):
    """Files of 32 samples, so that 48 are in two."""
    monkeypatch.setattr(cache_shard, "ROWS", 32)


def test_memory_a_folder_and_its_later_readers_hold_the_same_bits(tmp_path, monkeypatch, short_files):
    data = split()
    fresh = transfer(data)
    epochs = {}
    for name, folder in (("memory", None), ("first", tmp_path)):
        cached(loader(data), fresh, folder)
        epochs[name] = [list(epoch_outputs(fresh, k)) for k in range(2)]
    files = files_of(tmp_path)
    # Two teachers, three parts, two views; of each two files.
    assert len({name.split("/")[0] for name in files}) == 12 and len(files) == 24
    # But for the few samples by which outputs are compared.
    for teacher in fresh.teachers:
        teacher.register_forward_pre_hook(
            lambda _, args: pytest.fail("a teacher was asked") if len(args[0]["rgb"]) != 8 else None
        )
    later = cached(loader(data), fresh, tmp_path)
    assert later.complete and files_of(tmp_path) == files
    # Where memory is short, each batch's rows are read from the files.
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1_000))
    lazy = cached(loader(data), fresh, tmp_path)
    for source, kind in ((later, MemoryRows), (lazy, FileRows)):
        if kind is MemoryRows:
            monkeypatch.undo()
            monkeypatch.setattr(cache_shard, "ROWS", 32)
        else:
            monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1_000))
        fresh.source = source
        for k in range(2):
            again = list(epoch_outputs(fresh, k))
            same_outputs(epochs["memory"][k], again)
            same_outputs(epochs["first"][k], again)
        assert all(isinstance(rows, kind) for view in source._rows.values() for rows in view.values())


def test_what_is_kept_does_not_depend_on_the_batch_size_beyond_its_power_of_two(tmp_path):
    data = split()
    fresh = transfer(data)
    batches = []
    for size in (16, 31):
        cached(data.loader(batch_size=size, device="cpu", seed=5, train=True, views=1), fresh)
        batch, outputs = next(epoch_outputs(fresh, 0))
        batches.append((batch["index"].tolist(), outputs[0].embedding))
    (first_index, first), (index, embeddings) = batches
    shared = [sample for sample in index if sample in first_index]
    assert shared
    for sample in shared:
        assert torch.equal(embeddings[index.index(sample)], first[first_index.index(sample)])


def test_another_seed_other_weights_and_more_views_are_looked_at_and_the_rest_is_read(tmp_path):
    data, fresh = split(), transfer(split())

    def files_after(seed, views, epochs=1):
        source = cached(data.loader(batch_size=16, device="cpu", seed=seed, train=True, views=views), fresh, tmp_path)
        for k in range(epochs):
            source.start_epoch(k)
        return len(files_of(tmp_path))

    assert files_after(1, 2) == 6  # two teachers, three parts
    assert files_after(2, 2) == 12
    with torch.no_grad():
        next(fresh.teachers[1].parameters()).add_(0.5)
    assert files_after(1, 2) == 15
    assert files_after(1, 3, epochs=2) == 21  # the first view is there, the second is new
    fresh.teachers[0].compute_in("bf16")
    assert files_after(1, 2) == 24


def test_a_part_more_is_added_to_what_is_there(tmp_path):
    data = split()
    fresh = transfer(data)
    fresh.teacher_needs = frozenset({"embedding"})
    cached(loader(data), fresh, tmp_path).start_epoch(0)
    before = files_of(tmp_path)
    assert {name.split("-")[0] for name in before} == {"embedding", "logits"}  # logits come for nothing
    computed = []

    def count(_, args):
        batch, needs = args
        if len(batch["rgb"]) > 8:  # others are those by which outputs are compared
            computed.append(needs)

    for teacher in fresh.teachers:
        teacher.register_forward_pre_hook(count)
    fresh.teacher_needs = frozenset({"embedding", "maps"})
    cached(loader(data), fresh, tmp_path)
    _, outputs = next(epoch_outputs(fresh, 0))
    assert set(computed) == {frozenset({"maps"})} and set(before) < set(files_of(tmp_path))
    assert len(outputs[1].maps) == 4


def test_a_damaged_file_is_named(tmp_path):
    data, fresh = split(), transfer(split())
    cached(loader(data, views=1), fresh, tmp_path).start_epoch(0)
    path = tmp_path / files_of(tmp_path)[0]
    whole = path.read_bytes()
    for cut in (whole[:1000], whole[:-200], b""):
        path.write_bytes(cut)
        with pytest.raises(ContrastillError, match=f"{path.name}.* is damaged: remove it, and the teacher looks again"):
            cached(loader(data, views=1), fresh, tmp_path)
    path.unlink()
    cached(loader(data, views=1), fresh, tmp_path).start_epoch(0)
    assert path.read_bytes() == whole


def test_a_file_that_was_moved_is_not_taken_for_another(tmp_path):
    data, fresh = split(), transfer(split())
    cached(loader(data, views=1), fresh, tmp_path).start_epoch(0)
    one, other = (tmp_path / name for name in files_of(tmp_path) if name.startswith("embedding"))
    one.write_bytes(other.read_bytes())
    with pytest.raises(ContrastillError, match="it is of another teacher or view"):
        cached(loader(data, views=1), fresh, tmp_path)


def test_rows_are_the_views_of_their_samples(tmp_path):
    """Each row is what the teacher says of that very view: cut here pixel by pixel from the sample, by the draws of
    (seed, view, index).
    """
    data, fresh = split(), transfer(split())
    cached(loader(data), fresh, tmp_path)
    for epoch in (0, 1, 2):
        for batch, outputs in epoch_outputs(fresh, epoch):
            draws = draw_views(5, epoch % 2, batch["index"], padding=2, flip=True)
            images = torch.zeros(16, 3, 16, 16, dtype=torch.uint8)
            for place, index in enumerate(batch["index"].tolist()):
                for y in range(16):
                    for x in range(16):
                        across = 15 - x if draws.flip[place] else x
                        images[place, :, y, x] = data.images["rgb"].storage[
                            index, y + draws.dy[place], across + draws.dx[place]
                        ]
            expected = fresh.teachers[1]({"rgb": images}, frozenset({"embedding"})).embedding
            torch.testing.assert_close(outputs[1].embedding, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("workers", [0, 2])
def test_files_and_derived_modalities_are_looked_at_in_the_same_views(tmp_path, short_files, workers):
    """A teacher of luminance on a folder of images that are cropped by workers: what comes from the folder is what it
    says of each batch as it is handed out.
    """
    generator = np.random.default_rng(0)
    for number in range(40):
        path = tmp_path / "images" / "train" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (24, 20, 3), dtype=np.uint8)).save(path)
    folder = ImageFolder(ImageFolder.Options(path=str(tmp_path / "images"), size=16, workers=workers)).open("train")
    data = DerivedLoader(folder.loader(batch_size=16, device="cpu", seed=5, train=True, views=2), {"luminance"}, None)
    statistics = {"mean": (0.5,), "std": (0.25,), "modality": "luminance"}
    teacher, student = (build_network(name, num_classes=2, **statistics) for name in ("resnet14", "resnet8"))
    fresh = Transfer([teacher], student, {"kd": KD()})
    for epoch in range(3):
        # A new one each time: it fills a view, fills the other, reads the first.
        source = cached(data, fresh, tmp_path / "said")
        for batch, (outputs,) in epoch_outputs(fresh, epoch):
            torch.testing.assert_close(
                outputs.logits, fresh.teachers[0](batch, {"logits"}).logits, rtol=1e-5, atol=1e-5
            )
    assert (
        source.complete and len(files_of(tmp_path / "said")) == 2 * 2 * 2
    )  # logits and embedding, two views, two files


def test_two_that_write_one_file_at_once_leave_it_whole(tmp_path):
    path = tmp_path / "said.h5"
    with create_h5(path) as slow:
        slow["values"] = [1, 2]
        with create_h5(path) as quick:
            quick["values"] = [1, 2]
        assert [one.name for one in tmp_path.iterdir()] == ["said.h5"]
    with h5py.File(path) as file:
        assert file["values"][()].tolist() == [1, 2]
    assert [one.name for one in tmp_path.iterdir()] == ["said.h5"]


def test_a_training_from_float16_and_the_largest_logits(tmp_path):
    """The loss of an epoch is that in float32, to 1e-3 in float16; with all logits but one, which gets all of the
    rest's mass, nothing is lost.
    """
    data = split()
    losses = []
    for cache_config in (
        CacheConfig(),
        CacheConfig(logits=3),
        CacheConfig(precision="fp16"),
        CacheConfig(precision="fp16", logits=3),
    ):
        fresh = transfer(data, KD)
        cached(loader(data), fresh, tmp_path, cache_config)
        losses.append(
            fit(fresh, loader(data), None, TrainConfig(epochs=1, lr=0.02, views=2), progress=False).last["loss"]
        )
    assert [abs(loss / losses[0] - 1) < bound for loss, bound in zip(losses[1:], (1e-4, 1e-3, 1e-3), strict=True)] == [
        True
    ] * 3, losses
    assert len(set(losses)) == 4
