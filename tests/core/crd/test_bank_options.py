"""What helps CRD's bank: rows that begin as the teacher's outputs, momentum by visits, a fixed map of the teacher;
against nested loops, over processes, resumed.
"""

import copy
import itertools
import shutil

import pytest
import torch
from safetensors.torch import load, load_file, save
from torch.nn.functional import linear, normalize, softplus

from contrastill.cli.main import main
from contrastill.core.crd.loss import CRDLoss
from contrastill.core.crd.memory_bank import MemoryBank
from contrastill.core.crd.shared import SharedCRDLoss
from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.objective import Setting
from contrastill.core.representation import Representation
from contrastill.core.representation_spec import RepresentationSpec
from contrastill.objectives.crd import CRD

M, B, K, D = 30, 8, 9, 5
TARGETS = torch.arange(M) % 4
ALL_THREE = {"bank_init": "teacher_outputs", "bank_momentum": "visits", "teacher_map": "whitened"}
MODES = ["all", "shared", "sampled"]


def teacher_embeddings(dim=6, seed=11):
    """(M, dim) of unlike variances around a mean that is large, as behind a ReLU."""
    generator = torch.Generator().manual_seed(seed)
    return 3 + torch.randn(M, dim, generator=generator, dtype=torch.float64) * torch.linspace(
        0.5, 2, dim, dtype=torch.float64
    )


def batches(embeddings, size=7):
    yield from zip(torch.arange(M).split(size), embeddings.split(size), strict=True)


def build(mode="all", origin="other_class", prepared=True, dtype=torch.float64, **options):
    torch.manual_seed(0)
    known = {"targets": TARGETS} if origin == "other_class" else {"num_samples": M}
    crd = CRDLoss(4, 6, negatives=mode, num_negatives=K, embed_dim=D, bias=2.0, temperature=0.3, **known, **options).to(
        dtype
    )
    if prepared:
        crd.prepare([teacher_embeddings()], [batches(teacher_embeddings())])
    return crd


def inputs(seed):
    """Student embeddings and samples of a step, some of them twice."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, 4, generator=generator, dtype=torch.float64), torch.randint(M, (B,), generator=generator)


def step(crd, seed):
    student, index = inputs(seed)
    dtype = crd.embed_student.weight.dtype
    return crd(student.to(dtype), teacher_embeddings().to(dtype)[index], index)


# The defaults


def earlier_update(self, index, embeddings, momentum):
    """MemoryBank.update as it was with a number alone."""
    place = self.places(torch.where(index < 0, ~index, index)).to(self.memory.device)
    ordered, origin = torch.sort(place, stable=True)
    last = origin[torch.searchsorted(ordered, place, right=True) - 1]
    at = torch.where(self.shard.holds(place), self.shard.below(place), self.rows.shape[1])
    old = self.memory.index_select(1, at).to(torch.promote_types(self.memory.dtype, torch.float32))
    new = torch.lerp(embeddings.to(old).index_select(1, last), old, momentum)
    norm = torch.linalg.vector_norm(new, dim=2, keepdim=True)
    new = torch.where(norm > 1e-6, new / norm.clamp_min(1e-6), old)
    self.memory.index_copy_(1, at, new.to(self.memory.dtype))


# Losses of three steps and Σ i · rows of both banks behind them, of the release before these options.
RECORDED = {
    "all": [9.003243555391888, 8.139575552182846, 7.1454786489704905, 712.9912682652265, -1076.3593646360184],
    "shared": [9.967852384089866, 9.233631724224601, 7.626870939610255, 737.5007618667021, -1283.5971957711363],
    "sampled": [9.482236312866497, 8.232282240104698, 6.919948909033973, 675.4396328398548, -1183.293605905183],
}


def trained_by_default(mode, dtype):
    crd, losses = build(mode, dtype=dtype), []
    optimizer = torch.optim.SGD(crd.parameters(), lr=0.1)
    for seed in range(3):
        optimizer.zero_grad()
        losses.append(step(crd, seed))
        losses[-1].backward()
        optimizer.step()
    return crd, torch.stack(losses).detach()


@pytest.mark.parametrize("mode", MODES)
def test_the_defaults_are_to_the_bit_what_they_were(mode, monkeypatch):
    crd, losses = trained_by_default(mode, torch.float32)
    monkeypatch.setattr(MemoryBank, "update", torch.no_grad()(earlier_update))
    earlier, earlier_losses = trained_by_default(mode, torch.float32)
    assert torch.equal(losses, earlier_losses)
    state, earlier_state = crd.state_dict(), earlier.state_dict()
    assert state.keys() == earlier_state.keys() and all(
        torch.equal(value, earlier_state[name]) for name, value in state.items()
    )
    monkeypatch.undo()
    crd, losses = trained_by_default(mode, torch.float64)
    weights = torch.arange(1, M * D + 1, dtype=torch.float64).view(M, D)
    results = [*losses.tolist(), float((crd.bank.student * weights).sum()), float((crd.bank.teacher * weights).sum())]
    assert results == pytest.approx(RECORDED[mode], rel=1e-9)


def test_defaults_ask_the_teacher_nothing():
    class Silent:
        cached = True

        def sample(self, needs):
            raise AssertionError("asked")

        all = sample

    spec = RepresentationSpec(4, 6, ())
    setting = Setting(spec, spec, M, TARGETS, 0)
    CRD.build(CRD.Options(bias=1.0), setting).prepare([Silent()])
    for options in ({"bank_init": "teacher_outputs"}, {"teacher_map": "whitened"}):
        with pytest.raises(AssertionError, match="asked"):
            CRD.build(CRD.Options(bias=1.0, **options), setting).prepare([Silent()])


# Against nested loops


def naive_whitening(sample):
    """Mean and (d, D) directions such that (x − mean) @ directions has deviation 1 along each of the D widest."""
    mean = sample.mean(0)
    _, singular, directions = torch.linalg.svd(sample - mean)
    columns = []
    for direction, value in list(zip(directions, singular, strict=False))[:D]:
        sign = 1.0 if direction[direction.abs().argmax()] > 0 else -1.0
        columns.append(sign * direction * len(sample) ** 0.5 / value)
    return mean, torch.stack(columns, 1)


class Naive:
    """CRD over all eligible rows with lists of rows, one sample after the other."""

    def __init__(self, crd, origin, embeddings):
        """Takes parameters and the initial noise of a loss; maps and rows that begin as outputs are worked out here."""
        self.crd, self.origin = crd, origin
        self.parameters = {name: value.detach().clone().requires_grad_() for name, value in crd.named_parameters()}
        self.whitening = naive_whitening(embeddings) if crd.teacher_map == "whitened" else None
        self.rows = {"student": list(crd.bank.student), "teacher": list(crd.bank.teacher)}
        if crd.bank_init == "teacher_outputs":
            self.rows = {side: [self.teacher(x).detach() for x in embeddings] for side in ("student", "teacher")}
        self.visits = [0] * M

    def student(self, x):
        return normalize(
            linear(x, self.parameters["embed_student.weight"], self.parameters["embed_student.bias"]), dim=0
        )

    def teacher(self, x):
        if self.whitening is not None:
            mean, directions = self.whitening
            return normalize((x - mean) @ directions, dim=0)
        return normalize(
            linear(x, self.parameters["embed_teacher.weight"], self.parameters["embed_teacher.bias"]), dim=0
        )

    def loss(self, student, teacher, index):
        total = 0.0
        for x, y, sample in zip(student, teacher, index.tolist(), strict=True):
            for anchor, rows in ((self.student(x), self.rows["teacher"]), (self.teacher(y), self.rows["student"])):
                scores = [anchor @ row / self.crd.temperature for row in rows]
                eligible = [
                    j
                    for j in range(M)
                    if (TARGETS[j] != TARGETS[sample] if self.origin == "other_class" else j != sample)
                ]
                total = total + softplus(self.crd.bias - scores[sample])
                for j in eligible:
                    total = total + K / len(eligible) * softplus(scores[j] - self.crd.bias)
        return total / len(index)

    def update(self, student, teacher, index):
        last = {sample: number for number, sample in enumerate(index.tolist())}
        for sample, number in last.items():
            self.visits[sample] += 1
            momentum = self.crd.bank_momentum
            if momentum == "visits":
                momentum = min(0.5, (self.visits[sample] - 1) / self.visits[sample])
            for side, new in (("student", self.student(student[number])), ("teacher", self.teacher(teacher[number]))):
                self.rows[side][sample] = normalize(
                    momentum * self.rows[side][sample] + (1 - momentum) * new, dim=0
                ).detach()


@pytest.mark.parametrize("origin", ["other_class", "other_sample"])
@pytest.mark.parametrize(
    "init, momentum, kind",
    list(itertools.product(["random", "teacher_outputs"], [0.3, "visits"], ["learned", "whitened"])),
)
def test_a_training_is_that_of_nested_loops(init, momentum, kind, origin):
    embeddings = teacher_embeddings()
    crd = build("all", origin, prepared=False, bank_init=init, bank_momentum=momentum, teacher_map=kind)
    naive = Naive(crd, origin, embeddings)
    crd.prepare([embeddings], [batches(embeddings)])
    close = {"rtol": 1e-9, "atol": 1e-11}
    for seed in range(6):
        student, index = inputs(seed)
        student.requires_grad_()
        expected = naive.loss(student, embeddings[index], index)
        slopes = torch.autograd.grad(expected, [student, *naive.parameters.values()])
        naive.update(student, embeddings[index], index)
        loss = crd(student, embeddings[index], index)
        results = torch.autograd.grad(loss, [student, *crd.parameters()])
        torch.testing.assert_close(loss, expected, **close)
        for one, other in zip(results, slopes, strict=True):
            torch.testing.assert_close(one, other, **close)
        with torch.no_grad():
            for (name, parameter), slope in zip(crd.named_parameters(), results[1:], strict=True):
                parameter -= 0.1 * slope
                naive.parameters[name] -= 0.1 * slope
        for side in ("student", "teacher"):
            torch.testing.assert_close(crd.bank.side(side), torch.stack(naive.rows[side]), **close)
    assert max(naive.visits) > 2
    if momentum == "visits":
        assert crd.bank.visits.tolist() == naive.visits
    assert (kind == "learned") == any(name.startswith("embed_teacher") for name, _ in crd.named_parameters())


@pytest.mark.parametrize("mode", MODES)
def test_rows_begin_the_same_and_are_visited_the_same_whatever_the_negatives(mode):
    crd, plain = build(mode, **ALL_THREE), build("all", "other_sample", **ALL_THREE)
    assert torch.equal(crd.bank.student, crd.bank.teacher) and torch.equal(crd.bank.teacher, plain.bank.teacher)
    assert crd.bank.radius == pytest.approx(1.001)
    for seed in range(3):
        step(crd, seed), step(plain, seed)
    assert torch.equal(crd.bank.visits, plain.bank.visits) and torch.equal(crd.bank.student, plain.bank.student)


def test_the_first_visit_replaces_the_row_and_the_second_averages():
    bank = MemoryBank(6, 4, sides=("student",), count_visits=True)
    first, second, third = normalize(torch.randn(3, 1, 1, 4), dim=3)
    index = torch.tensor([2])
    bank.update(index, first, "visits")
    torch.testing.assert_close(bank.student[2], first[0, 0])
    bank.update(torch.tensor([~2, 2, 2]), second.expand(1, 3, 4), "visits")
    torch.testing.assert_close(bank.student[2], normalize(first + second, dim=2)[0, 0])
    bank.update(index, third, "visits")
    torch.testing.assert_close(bank.student[2], normalize(normalize(first + second, dim=2) + third, dim=2)[0, 0])
    assert bank.visits.tolist() == [0, 0, 3, 0, 0, 0]


def test_a_step_that_is_not_made_counts_no_visit():
    crd = build(**ALL_THREE)
    crd.defer(B)
    before = {name: value.clone() for name, value in crd.state_dict().items()}
    step(crd, 0)
    crd.rollback()
    crd.commit()
    crd.eval()
    step(crd, 0)
    assert all(torch.equal(value, before[name]) for name, value in crd.state_dict().items())


@pytest.mark.parametrize("dtype, bound", [("fp16", 2e-3), ("bf16", 2e-2)])
def test_rows_of_half_precision_in_the_hosts_memory_are_near(dtype, bound):
    exact, near = (
        build(dtype=torch.float32, **ALL_THREE),
        build(dtype=torch.float32, prepared=False, bank_dtype=dtype, bank_memory="host", **ALL_THREE),
    )
    near = near.to(torch.float32)
    near.prepare([teacher_embeddings()], [batches(teacher_embeddings())])
    for seed in range(3):
        assert float(step(near, seed).detach()) == pytest.approx(float(step(exact, seed).detach()), rel=bound)
    assert torch.equal(near.bank.visits, exact.bank.visits) and near.bank.student.dtype != torch.float32
    assert (near.bank.student.float() - exact.bank.student).norm() < bound * exact.bank.student.norm()
    assert near.to("meta").bank.count.device.type == "cpu"


def test_the_fixed_map_is_exact_under_autocast():
    crd = build(dtype=torch.float32, **ALL_THREE)
    embeddings = teacher_embeddings().float()
    expected = crd.embed_teacher.project(embeddings)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(crd.embed_teacher.project(embeddings), expected)
        loss = step(crd, 0)
    loss.backward()
    assert loss.dtype == torch.float32 and torch.isfinite(crd.embed_student.weight.grad).all()


# Several teachers


@pytest.mark.parametrize("negatives", MODES)
def test_several_teachers_with_one_side_of_the_student(negatives):
    chosen = {
        "targets": TARGETS,
        "num_negatives": K,
        "embed_dim": D,
        "bias": 2.0,
        "temperature": 0.3,
        "negatives": negatives,
        **ALL_THREE,
    }
    embeddings = [teacher_embeddings(6, 1), teacher_embeddings(3, 2)]
    torch.manual_seed(0)
    shared = SharedCRDLoss(4, [6, 3], **chosen).double()
    shared.prepare(embeddings, [batches(one) for one in embeddings])
    single = []
    for values in embeddings:
        single.append(CRDLoss(4, values.shape[1], **chosen).double())
        single[-1].embed_student.load_state_dict(shared.embed_student.state_dict())
        single[-1].prepare([values], [batches(values)])
    teachers = [one.bank.teacher for one in single]
    for number, rows in enumerate(teachers):
        assert torch.equal(shared.bank.side(f"teacher.{number}"), rows)
    torch.testing.assert_close(shared.bank.student, normalize(teachers[0] + teachers[1]))
    for one in single:
        one.bank.load_state_dict(one.bank.state_dict() | {"student": shared.bank.student})
    for seed in range(3):
        student, index = inputs(seed)
        loss = shared(student, [values[index] for values in embeddings], index)
        expected = sum(one(student, values[index], index) for one, values in zip(single, embeddings, strict=True))
        torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    for number, one in enumerate(single):
        torch.testing.assert_close(shared.bank.side(f"teacher.{number}"), one.bank.teacher)
        assert torch.equal(shared.bank.visits, one.bank.visits)
    torch.testing.assert_close(shared.bank.student, single[0].bank.student)


class Outputs:
    """Outputs of a teacher that are there."""

    cached = True

    def __init__(self, embeddings):
        self.embeddings = embeddings

    def sample(self, needs):
        return Representation(embedding=self.embeddings)

    def all(self, needs):
        for index, values in batches(self.embeddings):
            yield index, Representation(embedding=values)


@pytest.mark.parametrize("student_side", ["separate", "shared"])
def test_an_objective_shows_its_teachers_outputs_to_its_loss(student_side):
    embeddings = [teacher_embeddings(6, 1).float(), teacher_embeddings(3, 2).float()]
    settings = [
        Setting(RepresentationSpec(4, 4, ()), RepresentationSpec(4, values.shape[1], ()), M, TARGETS, 0)
        for values in embeddings
    ]
    objectives = CRD.build_each(
        CRD.Options(bias=1.0, embed_dim=D, negatives="shared", num_negatives=K, student_side=student_side, **ALL_THREE),
        settings,
    )
    outputs = [Outputs(values) for values in embeddings]
    for number, objective in enumerate(objectives):
        objective.prepare(outputs if objective.joint else outputs[number : number + 1])
    for number, values in enumerate(embeddings):
        mean, directions = naive_whitening(values.double()) if values.shape[1] >= D else (None, None)
        rows = (
            objectives[0].loss.bank.side(f"teacher.{number}")
            if student_side == "shared"
            else objectives[number].loss.bank.teacher
        )
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(M))
        if mean is not None:
            torch.testing.assert_close(
                rows, normalize((values.double() - mean) @ directions).float(), rtol=1e-4, atol=1e-5
            )


# The state


def test_a_saved_loss_goes_on_with_the_same_bits_in_another_order():
    crd = build("shared", **ALL_THREE)
    for seed in range(3):
        step(crd, seed)
    saved = load(save(crd.state_dict()))
    assert {name for name in saved if not name.startswith("embed_student")} == {
        "bank.student",
        "bank.teacher",
        "bank.visits",
        "_extra_state",
        *(f"embed_teacher.{name}" for name in ("mean", "scale", "whitening")),
    }
    assert saved["bank.visits"].dtype == torch.int32 and saved["bank.visits"].tolist() == naive_visits(range(3))
    # Prepared with other outputs, as it does not matter what a checkpoint then overwrites.
    again, other = build("shared", prepared=False, **ALL_THREE), build("sampled", prepared=False, seed=5, **ALL_THREE)
    for one in (again, other):
        one.prepare([teacher_embeddings(seed=7)], [batches(teacher_embeddings(seed=7))])
        one.load_state_dict(saved)
        assert torch.equal(one.bank.visits, crd.bank.visits) and torch.equal(one.bank.student, crd.bank.student)
    for seed in range(3, 6):
        assert torch.equal(step(crd, seed), step(again, seed))
        step(other, seed)
    for one in (again, other):
        assert torch.equal(crd.bank.teacher, one.bank.teacher) and torch.equal(crd.bank.visits, one.bank.visits)
    twin = copy.deepcopy(crd)
    step(twin, 9)
    assert not torch.equal(twin.bank.visits, crd.bank.visits)


def naive_visits(seeds):
    visits = [0] * M
    for seed in seeds:
        for sample in set(inputs(seed)[1].tolist()):
            visits[sample] += 1
    return visits


def test_states_of_other_options_are_refused_by_name():
    counting, plain = build(**ALL_THREE), build()
    with pytest.raises(RuntimeError, match="Missing.*bank.visits"):
        build(bank_momentum="visits").load_state_dict(plain.state_dict())
    with pytest.raises(RuntimeError, match="Unexpected.*bank.visits"):
        plain.load_state_dict(build(bank_momentum="visits").state_dict())
    with pytest.raises(RuntimeError, match="bank.visits has shape"):
        counting.load_state_dict({**counting.state_dict(), "bank.visits": torch.zeros(3, dtype=torch.int32)})


@pytest.mark.parametrize("views", [["train.views=2"], []])
def test_a_resumed_training_ends_in_the_bits_of_a_whole_one(four_classes, tmp_path, views):
    options = [f"objectives.crd.{name}={value}" for name, value in ALL_THREE.items()]
    command = ["train", "compression/cifar100_crd", f"data.path={four_classes}", "teachers.0.model=resnet8",
        "student.model=resnet8", "train.epochs=3",
               "train.batch_size=16", "train.checkpoint_every_steps=2", "train.keep_checkpoints=9", *options,
               *views]  # fmt: skip
    teacher = tmp_path / "teacher"
    assert (
        main(
            [
                *command[:1],
                "teachers/cifar100",
                *command[2:3],
                "student.model=resnet8",
                "train.epochs=1",
                f"out={teacher}",
                "-q",
            ]
        )
        == 0
    )
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    command.append(f"teachers.0.weights={teacher}")
    assert main([*command, f"out={whole}", "-q"]) == 0
    shutil.copytree(whole, resumed)
    later = [path for path in sorted((resumed / "checkpoints").glob("step-*")) if path.name != "step-00000004"]
    assert len(later) > 2
    for path in later:
        shutil.rmtree(path)
    (resumed / "student.safetensors").unlink()
    assert main([*command, f"out={resumed}", "-q"]) == 0
    last = "checkpoints/step-00000009/model.safetensors"
    expected, results, early = (
        load_file(whole / last),
        load_file(resumed / last),
        load_file(whole / "checkpoints/step-00000004/model.safetensors"),
    )
    assert expected.keys() == results.keys() and all(
        torch.equal(value, results[name]) for name, value in expected.items()
    )
    (visits,) = (name for name in expected if name.endswith("bank.visits"))
    assert expected[visits].tolist() == [3] * 48 and set(early[visits].tolist()) == {1, 2}


# Several processes

STEPS = """
import sys, torch
from contrastill.core.crd.loss import CRDLoss
from contrastill.core.crd.shared import SharedCRDLoss

CASES = [
    (mode, several, passes, options)
    for options in (
        {"bank_init": "teacher_outputs", "bank_momentum": "visits", "teacher_map": "whitened"},
        {"bank_init": "teacher_outputs", "bank_momentum": "visits"},
    )
    for mode, several, passes in (
        ("all", False, 1), ("shared", False, 2), ("shared", True, 1), ("sampled", True, 1), ("sampled", False, 1)
    )
]

def steps(mode, several, passes, options, share, **more):
    torch.manual_seed(0)
    crd = (SharedCRDLoss if several else CRDLoss)(
        5, [6, 4] if several else 6, targets=torch.arange(61) % 4, num_negatives=9, embed_dim=5, bias=2.0,
        temperature=0.3, negatives=mode, **options, **more).double()
    dims = (6, 4) if several else (6,)
    seeded = [(dim, torch.Generator().manual_seed(dim)) for dim in dims]
    embeddings = [torch.randn(61, dim, generator=generator, dtype=torch.float64) + 1 for dim, generator in seeded]
    crd.prepare(embeddings, [zip(torch.arange(61).split(8), one.split(8)) for one in embeddings])
    results = {f"start.{name}": value.clone() for name, value in crd.state_dict().items() if name.startswith("bank.")}
    if passes > 1:
        crd.defer(9, passes)
    # Shares of 5 and 4 samples: the shorter one is filled up with a copy.
    for number, batch in enumerate((9, 9, 8, 4)):
        generator = torch.Generator().manual_seed(number)
        student = torch.randn(batch, 5, generator=generator, dtype=torch.float64)
        index = torch.randint(20, (batch,), generator=generator)
        losses = []
        crd.zero_grad()
        for part, rows in zip(share(student).tensor_split(passes), share(index).tensor_split(passes), strict=True):
            if len(rows):
                teachers = [one[rows] for one in embeddings]
                loss = crd.per_sample(part, teachers if several else teachers[0], rows)
                loss.sum().backward()
                losses.append(loss.detach())
        crd.commit()
        results[f"losses.{number}"] = torch.cat(losses)
        results |= {f"grad.{number}.{name}": parameter.grad.clone() for name, parameter in crd.named_parameters()}
    state = {name: value.clone() for name, value in crd.state_dict().items()}
    results |= {name: value for name, value in state.items() if name.startswith(("bank.", "embed_teacher"))}
    return results | {"radius": torch.tensor(crd.bank.radius)}
"""

RANK = (
    STEPS
    + """
rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
for number, case in enumerate(CASES):
    for placement in ("sharded", "replicated"):
        results = steps(*case, lambda value: value.tensor_split(world)[rank], bank_placement=placement)
        torch.save(results, f"{folder}/{placement}-{number}-{rank}.pt")
torch.distributed.destroy_process_group()
"""
)

exec(STEPS, alone := {})


def test_two_processes_with_rows_dealt_out_or_not_are_one(ranks, tmp_path):
    ranks(RANK, 2, tmp_path)
    for number, case in enumerate(alone["CASES"]):
        expected = alone["steps"](*case, lambda value: value)
        assert set(expected["bank.visits"].tolist()) >= {0, 1, 2, 3}
        for placement in ("sharded", "replicated"):
            results = [torch.load(tmp_path / f"{placement}-{number}-{rank}.pt", weights_only=True) for rank in range(2)]
            for name, value in expected.items():
                parts = [one[name] for one in results]
                if name.startswith("losses"):
                    together = torch.cat(parts)
                elif name.startswith("grad"):
                    together = sum(parts)
                else:
                    assert parts[0].equal(parts[1]), name
                    together = parts[0]
                torch.testing.assert_close(
                    together,
                    value,
                    rtol=1e-10,
                    atol=1e-10,
                    msg=lambda text, where=(placement, case, name): f"{where}: {text}",
                )


# Refusals


def test_wrong_options_are_refused_in_one_sentence():
    for options, sentence in (
        ({"bank_init": "teacher_output"}, "did you mean teacher_outputs"),
        ({"bank_momentum": "visit"}, "bank_momentum 'visit' does not exist: did you mean visits"),
        ({"bank_momentum": 1.0}, "bank_momentum"),
        ({"teacher_map": "none"}, "learned"),
    ):
        with pytest.raises(UsageError, match=sentence):
            CRDLoss(4, 6, num_samples=M, **options)
    for momentum in (1.5, "visit", -0.1):
        with pytest.raises(ValueError, match=r"a share in \[0, 1\), or visits"):
            CRD.Options(bank_momentum=momentum)
    with pytest.raises(UsageError, match="samples of each of the 1 teachers, not of 0"):
        build(prepared=False, teacher_map="whitened").prepare()
    with pytest.raises(UsageError, match="batches of each of the 2 teachers, not of 1"):
        SharedCRDLoss(4, [6, 6], num_samples=M, bank_init="teacher_outputs").prepare(
            (), [batches(teacher_embeddings())]
        )


@pytest.mark.parametrize(
    ("options", "way"),
    [
        ({"teacher_map": "whitened"}, r"teacher_map='whitened' takes .* none were shown: call prepare .*'learned'"),
        ({"bank_init": "teacher_outputs"}, r"bank_init='teacher_outputs' begins .*: call prepare.*bank_init='random'"),
    ],
)
def test_what_prepare_is_to_show_is_asked_for_at_the_first_step(options, way):
    bare, prepared, loaded = (build(prepared=ready, **options) for ready in (False, True, False))
    for crd in (bare, SharedCRDLoss(4, [6, 6], num_samples=M, **options).double()):
        one = teacher_embeddings()[:3]
        with pytest.raises(UsageError, match=way):
            crd(torch.randn(3, 4).double(), one if crd is bare else [one, one], torch.arange(3))
    step(bare.eval(), 0)
    loaded.load_state_dict(prepared.state_dict())
    assert torch.equal(step(loaded, 0), step(prepared, 0))


def test_a_teacher_that_gives_no_numbers_begins_no_bank():
    values = teacher_embeddings()
    values[4] = float("inf")
    with pytest.raises(ContrastillError, match="output for training sample 4 is not a finite number"):
        build(prepared=False, bank_init="teacher_outputs").prepare([], [batches(values)])
    with pytest.raises(UsageError, match="finite numbers for 0 of the"):
        build(prepared=False, teacher_map="whitened").prepare([values * float("nan")])
