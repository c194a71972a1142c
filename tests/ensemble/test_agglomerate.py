"""One student of unlike teachers: against naive loops in float64, and real small runs from the config to the adaptors'
answers.
"""

import json
import shutil

import pytest
import torch
from torch.nn import functional as F

import contrastill
from contrastill.cli.main import main
from contrastill.core.config.loading import load_config
from contrastill.core.config.validation import validate
from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.objective import Setting
from contrastill.core.registry import OBJECTIVES
from contrastill.core.representation import Network, Representation
from contrastill.core.representation_spec import RepresentationSpec
from contrastill.core.run import Run
from contrastill.core.weights import load_state_dict, save_state_dict
from contrastill.ensemble.adaptors import Adaptor, load_adaptors, save_adaptors
from contrastill.ensemble.agglomerate import Agglomerate
from contrastill.training.assemble import assemble

STUDENT, TEACHER = RepresentationSpec(10, 5, ((3, 8, 8), (4, 6, 4))), RepresentationSpec(None, 8, ((12, 3, 4),))


def setting(student=STUDENT, teacher=TEACHER):
    return Setting(student, teacher, 20, None, 0)


def build(**options):
    return Agglomerate.build(Agglomerate.Options(**options), setting()).double()


def outputs_of(spec, seed, count=6, scale=1.0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return scale * torch.randn(count, *shape, dtype=torch.float64, generator=generator).requires_grad_()

    return Representation(embedding=draw(spec.embedding_dim), maps=tuple(draw(*shape) for shape in spec.map_shapes))


# The loss


def naive_head(head, x):
    """A vector through Linear, LayerNorm, GELU and Linear."""
    first, norm, _, last = head
    hidden = first.weight @ x + first.bias
    hidden = (hidden - hidden.mean()) / (hidden.var(correction=0) + norm.eps).sqrt() * norm.weight + norm.bias
    return last.weight @ (hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))) + last.bias


def naive_balance(rows, kind):
    """What a balance makes of the vectors it was measured on, by numpy's definitions; of phi_s all but the rotation."""
    rows = torch.stack(rows).detach()
    centred = rows - rows.mean(0)
    if kind == "none":
        return rows
    if kind == "per_channel":
        return centred / centred.square().mean(0).sqrt()
    return centred / centred.square().mean().sqrt()


def naive_distance(ours, theirs):
    return 1 - (ours @ theirs) / (ours.norm() * theirs.norm())


def cells(features, height, width):
    """Averages over equal cells of a sample's map, a vector a position."""
    h, w = features.shape[1] // height, features.shape[2] // width
    return [
        features[:, y * h : (y + 1) * h, x * w : (x + 1) * w].mean((1, 2)) for y in range(height) for x in range(width)
    ]


@pytest.mark.parametrize("kind", ["none", "per_channel", "phi_s"])
def test_it_is_the_naive_one(kind):
    objective = build(balance=kind, hidden=7, cosine_share=0.7, summary_weight=2.0, dense_weight=0.5)
    student, teacher = outputs_of(STUDENT, 1), outputs_of(TEACHER, 2, scale=30)
    adaptor = objective.adaptor
    ours = objective(student, teacher, {})

    def turned(rows, balance):
        return rows if kind != "phi_s" else [balance.rotation @ row for row in rows]

    targets = turned(naive_balance([*teacher.embedding], kind), adaptor.summary_balance)
    summary = (
        sum(
            naive_distance(naive_head(adaptor.summary, x), target)
            for x, target in zip(student.embedding, targets, strict=True)
        )
        / 6
    )
    # Grids of 6×4 and 3×4 meet at 3×4: the student's head answers at each of its own positions, and the answers are
    # averaged.
    positions = [column for sample in teacher.maps[-1] for column in cells(sample, 3, 4)]
    targets = turned(naive_balance(positions, kind), adaptor.dense_balance)
    dense = 0.0
    for b, sample in enumerate(student.maps[-1]):
        answers = torch.stack(
            [naive_head(adaptor.dense, sample[:, y, x]) for y in range(6) for x in range(4)], 1
        ).reshape(12, 6, 4)
        for place, answer in enumerate(cells(answers, 3, 4)):
            target = targets[b * 12 + place]
            smooth = sum(0.5 * d * d if abs(d) < 1 else abs(d) - 0.5 for d in answer - target) / 12
            dense = dense + (0.7 * naive_distance(answer, target) + 0.3 * smooth) / (6 * 12)
    reference = 2 * summary + 0.5 * dense
    torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-12)
    inputs = [student.embedding, student.maps[-1], *objective.parameters()]
    for got, expected in zip(
        *(torch.autograd.grad(loss, inputs, retain_graph=True) for loss in (ours, reference)), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(objective.logs["summary"], summary.detach())
    torch.testing.assert_close(objective.logs["dense"], dense.detach())
    assert not any(value.requires_grad for value in objective.logs.values())


def test_the_loss_is_the_mean_over_samples_and_a_sample_does_not_hang_on_the_others():
    objective = build().eval()
    student, teacher = outputs_of(STUDENT, 1), outputs_of(TEACHER, 2)
    each = objective.per_sample(student, teacher, {})
    assert each.shape == (6,) and Agglomerate.decomposes()
    torch.testing.assert_close(each.mean(), objective(student, teacher, {}))
    alone = [
        Representation(embedding=one.embedding[2:3], maps=tuple(values[2:3] for values in one.maps))
        for one in (student, teacher)
    ]
    torch.testing.assert_close(objective(*alone, {}), each[2])


def test_a_teacher_a_thousand_times_louder_weighs_the_same():
    losses = {}
    for kind in ("none", "phi_s"):
        for scale in (1.0, 1000.0):
            torch.manual_seed(0)
            losses[kind, scale] = build(balance=kind, summary=False, cosine_share=0.0)(
                outputs_of(STUDENT, 1), outputs_of(TEACHER, 2, scale=scale), {}
            ).item()
    assert losses["phi_s", 1.0] == pytest.approx(losses["phi_s", 1000.0], rel=1e-6)
    assert losses["none", 1000.0] > 100 * losses["none", 1.0]


def test_it_reads_what_its_options_ask_for():
    assert (
        build().needs == {"embedding", "maps"}
        and build(dense=False).needs == {"embedding"}
        and build(summary=False).needs == {"maps"}
    )
    assert build(dense=False).adaptor.dense is None and build(summary=False).adaptor.summary is None
    assert build().adaptor.summary[0].out_features == 8 and build(hidden=3).adaptor.dense[0].out_features == 3
    assert build(pair=[0, 0]).adaptor.dense[0].in_features == 3
    only = build(dense=False)
    assert (
        only(
            Representation(embedding=outputs_of(STUDENT, 1).embedding),
            Representation(embedding=outputs_of(TEACHER, 2).embedding),
            {},
        ).ndim
        == 0
    )


def test_under_autocast_the_loss_is_in_float32():
    objective = Agglomerate.build(Agglomerate.Options(), setting())
    student, teacher = (
        Representation(embedding=one.embedding.float(), maps=tuple(value.float() for value in one.maps))
        for one in (outputs_of(STUDENT, 1), outputs_of(TEACHER, 2))
    )
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = objective(student, teacher, {})
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in objective.parameters())


def test_an_adaptor_answers_in_the_teachers_own_space():
    objective, student, teacher = build(), outputs_of(STUDENT, 1), outputs_of(TEACHER, 2, scale=50)
    objective(student, teacher, {})
    adaptor = objective.adaptor.eval()
    answer = adaptor(student)
    assert (
        answer.logits is None
        and answer.embedding.shape == (6, 8)
        and [value.shape for value in answer.maps] == [(6, 12, 6, 4)]
    )
    # Back in the balanced space it is what the heads say.
    torch.testing.assert_close(adaptor.summary_balance(answer.embedding), adaptor.summary(student.embedding))
    torch.testing.assert_close(adaptor.dense_balance(answer.maps[0].movedim(1, -1)), adaptor.on_map(student.maps[-1]))


# What is refused

NO_MAPS, NO_EMBEDDING = RepresentationSpec(10, 5, ()), RepresentationSpec(10, None, ((4, 6, 4),))


@pytest.mark.parametrize(
    ("options", "student", "teacher", "message"),
    [
        ({}, NO_MAPS, TEACHER, r"a student has none: name some with maps=\[MODULE, …\], or set dense=false"),
        ({}, STUDENT, NO_MAPS, r"a teacher has none: name some with maps=\[MODULE, …\], or set dense=false"),
        ({}, STUDENT, NO_EMBEDDING, "a teacher has none: name its module with embedding=MODULE, or set summary=false"),
        ({"pair": (-1, 3)}, STUDENT, TEACHER, "names map 3 of the teacher, which has 1"),
    ],
)
def test_refusals_name_the_side_and_the_way_out(options, student, teacher, message):
    with pytest.raises(UsageError, match=message):
        Agglomerate.build(Agglomerate.Options(**options), setting(student, teacher))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"balance": "phis"}, "objectives.agglomerate.balance='phis' is not allowed"),
        ({"summary": False, "dense": False}, "summary and dense are both false"),
        ({"cosine_share": 2}, "objectives.agglomerate.cosine_share=2 is not allowed"),
        ({"estimate_step": 2}, "did you mean estimate_steps"),
    ],
)
def test_a_config_is_refused_in_one_sentence(options, message):
    tree = {"out": "x", "data": {"name": "rooms"}, "student": {"model": "resnet8"}, "teachers": [{"model": "resnet20"}]}
    with pytest.raises(UsageError, match=message):
        validate({**tree, "objectives": {"agglomerate": options}})


# Real runs

CONFIG = """
data: {name: rooms, size: 24, train_samples: 128, test_samples: 16}
teachers:
  - {model: resnet14, maps: [layer3]}
  - {model: timm/test_vit, resolution: 32}
student: {model: resnet8}
objectives:
  agglomerate: {estimate_steps: 12}
train:
  {epochs: 6, batch_size: 16, optimizer: adamw, lr: 5.0e-3, schedule: cosine,
   checkpoint_every: 4, checkpoint_every_steps: 5, keep_checkpoints: 20}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "agglomerate.yaml"
    path.write_text(CONFIG)
    return str(path)


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", config, f"out={out}", "-q"]) == 0
    return out


def likeness(student, adaptors, teachers, loader):
    """For each teacher, how like what it says an adaptor's answer is: mean cosine of embeddings and of maps, after the
    teacher's mean is taken away.
    """
    with torch.no_grad():
        batches = list(loader.epoch(0))
        means = []
        for teacher, adaptor in zip(teachers, adaptors, strict=True):
            truth, answers = (
                [network(batch, frozenset({"embedding", "maps"})) for batch in batches]
                for network in (teacher, student)
            )
            answers = [adaptor(one) for one in answers]
            embeddings = [torch.cat([one.embedding for one in side]) for side in (truth, answers)]
            maps = [
                F.adaptive_avg_pool2d(torch.cat([one.maps[-1] for one in side]), 2)
                .flatten(2)
                .transpose(1, 2)
                .flatten(0, 1)
                for side in (truth, answers)
            ]
            means += [F.cosine_similarity(a - a.mean(0), b - a.mean(0)).mean().item() for a, b in (embeddings, maps)]
    return means


def test_a_student_answers_like_each_of_two_unlike_teachers(config, run):
    rows = Run(run).history()
    assert {f"agglomerate/{part}.{number}" for part in ("summary", "dense") for number in (0, 1)} <= rows[0].keys()
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"] and "top1" not in rows[-1]
    parts = assemble(load_config(config, [f"out={run}"]))
    transfer = parts.transfer.eval()
    start = likeness(
        transfer.student,
        [objective.adaptor for objective in transfer.terms["agglomerate"].objectives],
        transfer.teachers,
        parts.train,
    )
    module, adaptors = contrastill.load_student(run), contrastill.load_adaptors(run)
    assert [(one.teacher, one.number, one.term) for one in adaptors] == [
        ("resnet14", 0, "agglomerate"),
        ("timm/test_vit", 1, "agglomerate"),
    ]
    assert not any(one.training or parameter.requires_grad for one in adaptors for parameter in one.parameters())
    student = Network(module, taps=module.taps, preprocess=module.preprocess).eval()
    end = likeness(student, adaptors, transfer.teachers, parts.train)
    assert all(after > before + 0.2 for before, after in zip(start, end, strict=True)), (start, end)


def test_the_adaptors_of_the_file_are_those_of_the_last_checkpoint(config, run):
    from contrastill.training.checkpoint import load_newest

    trained = load_newest(run / "checkpoints").model
    for number, adaptor in enumerate(load_adaptors(run / "adaptors.safetensors")):
        state = {key: value for key, value in adaptor.state_dict().items() if not key.endswith("_extra_state")}
        assert any("rotation" in key for key in state)
        for key, value in state.items():
            assert torch.equal(value, trained[f"terms.agglomerate.objectives.{number}.adaptor.{key}"]), key


def test_a_run_that_was_stopped_amid_the_estimate_ends_in_the_same_bits(config, run, tmp_path):
    out = tmp_path / "resumed"
    (out / "checkpoints").mkdir(parents=True)
    shutil.copytree(run / "checkpoints" / "step-00000005", out / "checkpoints" / "step-00000005")
    assert main(["train", config, f"out={out}", "-q"]) == 0
    for name in ("student.safetensors", "adaptors.safetensors"):
        one, other = load_state_dict(run / name), load_state_dict(out / name)
        assert one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items()), name


def test_with_crd_beside_it_and_a_rule_that_weighs_samples(config, tmp_path, capsys):
    short = [
        "train.epochs=2",
        "data.train_samples=32",
        "data.test_samples=16",
        "teachers.1.model=resnet8",
        "teachers.1.resolution=null",
    ]
    out = tmp_path / "crd"
    assert (
        main(
            [
                "train",
                config,
                f"out={out}",
                *short,
                "objectives.crd.weight=0.8",
                "objectives.crd.negatives_from=other_sample",
                "-q",
            ]
        )
        == 0
    )
    assert {"crd", "agglomerate"} <= Run(out).history()[-1].keys() and len(load_adaptors(out)) == 2
    out = tmp_path / "entropy"
    assert (
        main(
            ["train", config, f"out={out}", *short, "ensemble.rule=entropy", "objectives.agglomerate.dense=false", "-q"]
        )
        == 0
    )
    assert load_adaptors(out)[0].needs == {"embedding"}
    out = tmp_path / "without"
    assert (
        main(
            [
                "train",
                config,
                f"out={out}",
                *short,
                "objectives.agglomerate=null",
                "objectives.attention.weight=1",
                "-q",
            ]
        )
        == 0
    )
    assert not (out / "adaptors.safetensors").exists()
    capsys.readouterr()
    with pytest.raises(UsageError, match="written by a finished run with an objective agglomerate"):
        load_adaptors(out)
    assert main(["train", config, f"out={tmp_path / 'x'}", *short, "teachers.0.maps=[]"]) == 2
    assert "or set dense=false" in capsys.readouterr().err


def test_files_that_are_not_what_their_header_says(run, tmp_path):
    state, path = load_state_dict(run / "adaptors.safetensors"), tmp_path / "adaptors.safetensors"
    save_state_dict(state, path)
    with pytest.raises(ContrastillError, match="does not say which adaptors it holds"):
        load_adaptors(path)
    good = {
        "term": "agglomerate",
        "number": 0,
        "teacher": "resnet20",
        "summary": [64, 64],
        "dense": [64, 64],
        "hidden": None,
        "balance": "phi_s",
        "pair": [-1, -1],
    }
    for about, message in (
        ({**good, "summary": [64, 32]}, "is not what its header says"),
        ({**good, "dense": None}, "not those of its header"),
        ({**good, "more": 1}, "is not what"),
    ):
        save_state_dict(
            {key: value for key, value in state.items() if key.startswith("0.")},
            path,
            metadata={"contrastill": json.dumps({"adaptors": [about]})},
        )
        with pytest.raises(ContrastillError, match=message):
            load_adaptors(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ContrastillError, match="damaged"):
        load_adaptors(path)


def test_the_shipped_config_is_valid_and_names_networks_that_exist(tmp_path):
    config = load_config("ensemble/agglomerate", [f"data.path={tmp_path}"])
    assert len(config.teachers) == 3 and all(
        teacher.weights == "pretrained" and len(teacher.maps) == 1 for teacher in config.teachers
    )
    assert list(config.objectives) == ["agglomerate"] and OBJECTIVES["agglomerate"] is Agglomerate


def test_a_transfer_without_adaptors_writes_nothing(tmp_path):
    from contrastill.models.build import build_network
    from contrastill.objectives.cross_entropy import CrossEntropy

    transfer = contrastill.Transfer([], build_network("resnet8", num_classes=3), {"cross_entropy": CrossEntropy()})
    assert not save_adaptors(transfer, tmp_path / "adaptors.safetensors") and not list(tmp_path.iterdir())
    assert Adaptor(summary=(2, 3)).needs == {"embedding"}
