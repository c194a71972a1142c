"""Measures of a student in its teacher's space: heads that were trained on the teacher's features and run unchanged on
the student, and retrieval between both.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from ..core.config.schema import EvaluationConfig
from ..core.errors import UsageError
from ..core.memory_layout import channels_last
from ..core.representation import Network
from ..core.representation_spec import describe
from ..core.run_weights import WeightsRecord
from ..core.weights import STUDENT, find_weights
from ..datasets.io.fingerprint import file_digest
from ..ensemble.adaptors import ADAPTORS, Adaptor
from ..ensemble.in_teacher_space import InTeacherSpace, adaptor_of, adaptors_of
from ..probe.features import Features, check_classes, features_of
from ..probe.linear import fit_classifier
from ..probe.linear_classifier import ProbeResult
from ..probe.pixel_measures import measures_of
from ..probe.retrieval import retrieval
from ..probe.segmentation import SegmentationResult, Segmenter, count_confusion, segment
from ..training.pixel_labels import LABELS
from .evaluation_data import share_of_maps
from .evaluation_result import ClassificationScores, EvaluationRow, LayerScores, SegmentationScores
from .networks import EvaluatedNetwork
from .retrieval_scores import RetrievalScores

if TYPE_CHECKING:
    from .run_evaluation import RunEvaluation

_READS = {"segmentation": "maps", "classification": "embedding"}
HEAD_TASKS = tuple(_READS)
"""The tasks that have a head, which ``evaluation.head_of`` trains on a teacher."""


def head_obstacles(options: EvaluationConfig, baselines: Collection[str]) -> list[str]:
    """What of an evaluation does not go with ``evaluation.head_of``, in a sentence each."""
    if options.head_of is None:
        return []
    obstacles = []
    if options.mode != "frozen":
        obstacles.append(
            f"evaluation.mode={options.mode} trains a network along with its head, and --head-of {options.head_of} "
            "runs one head on two frozen networks: leave one of them out"
        )
    if "classification" in options.tasks and options.layers != ("embedding",):
        obstacles.append(
            f"evaluation.layers=[{','.join(options.layers)}] are of a probe of each network's own, and --head-of "
            f"{options.head_of} takes heads on the teacher's embedding alone: set evaluation.layers=[embedding]"
        )
    if others := [name for name in ("random", "scratch") if name in baselines]:
        obstacles.append(
            f"a network that is {' or '.join(others)} does not answer in the space of the teacher, whose heads "
            f"--head-of {options.head_of} takes: leave it out of --baselines"
        )
    return obstacles


def file_suffix(options: EvaluationConfig) -> str:
    """What stands in the names of an evaluation's files: a report compares each network with a head of its own."""
    return "" if options.head_of is None else f"-head-of-{options.head_of}"


def head_rows(evaluation: RunEvaluation) -> Iterator[EvaluationRow]:
    """The rows of the teacher that ``evaluation.head_of`` names, and of the student with the same heads.

    Args:
        evaluation: Of the run; its tasks, splits and device.

    Raises:
        UsageError: The run has no such teacher, or no adaptor that gives what a task reads, or student or teacher are
            others than those that it was trained with.
    """
    number, tasks = _number(evaluation), [task for task in evaluation.options.tasks if task in HEAD_TASKS]
    adaptors = {task: adaptor_of(evaluation.run.path, number, _READS[task]) for task in tasks}
    teacher, student = evaluation.networks.teacher(number), evaluation.networks.student()
    _check_trained_together(evaluation, teacher, number)
    for candidate in (teacher, student):
        evaluation.prepare(candidate)
    for task in tasks:
        evaluation.say(f"{evaluation.run.path}: {task}, the head of teacher {teacher.model} on {student.model}")
        if task == "segmentation":
            yield from _segmentation(evaluation, teacher, student, adaptors[task])
        else:
            yield from _classification(evaluation, teacher, student, adaptors[task])


def retrieval_rows(evaluation: RunEvaluation, candidate: EvaluatedNetwork) -> Iterator[EvaluationRow]:
    """The rows of how well the student's embedding of a test sample finds each teacher's of the same sample among all.

    Args:
        evaluation: Of the run.
        candidate: Nothing comes of any but the student.

    Raises:
        UsageError: The run has no adaptor with an embedding, or student or teacher are others than those that it was
            trained with.
    """
    if candidate.role != "student":
        return
    path, device = evaluation.run.path, evaluation.accelerator.device
    adaptors = [adaptor for adaptor in adaptors_of(path) if adaptor.number is not None]
    numbers = sorted(
        {adaptor.number for adaptor in adaptors if "embedding" in adaptor.needs and adaptor.number is not None}
    )
    if not numbers:
        raise UsageError(
            f"no adaptor of {path} gives an embedding, which retrieval compares: train it with "
            "objectives.agglomerate.summary=true"
        )
    for number in numbers:
        teacher = evaluation.networks.teacher(number)
        _check_trained_together(evaluation, teacher, number)
        evaluation.prepare(teacher)
        evaluation.say(f"{path}: retrieval, student {candidate.model} and teacher {teacher.model}")
        adapted = _adapted(candidate, adaptor_of(path, number, "embedding"), device)
        ours, theirs = (_embeddings(evaluation, network, evaluation.test).values for network in (adapted, teacher))
        result = retrieval(ours, theirs)
        scores = RetrievalScores(
            teacher.model,
            number,
            (candidate.network.modality, teacher.network.modality),
            _rounded(result.recall),
            _rounded(result.reverse),
            _rounded(result.chance),
        )
        yield evaluation.row(adapted, "retrieval", scores)


def _check_trained_together(evaluation: RunEvaluation, teacher: EvaluatedNetwork, number: int) -> None:
    """Refuse a student, or a teacher, that the adaptor between them was not trained with: its answers mean nothing.

    Raises:
        UsageError: One of them is another than the run's own.
    """
    run, weights = evaluation.run, str(evaluation.config.student.weights)
    if not evaluation.networks.has_own_student:
        file = find_weights(weights)
        if file_digest(file) != file_digest(run.student):
            other = file.name == STUDENT and (file.parent / ADAPTORS).is_file()
            own = f", or evaluate {file.parent}, which has adaptors of its own" if other else ""
            raise UsageError(
                f"the adaptors of {run.path} were trained with its own student of the last epoch, not with {weights}: "
                f"leave student.weights out{own}"
            )
    elif not run.finished:
        raise UsageError(
            f"the adaptors of {run.path} belong to its finished student, and there is a checkpoint alone: end the "
            "training first"
        )
    if not WeightsRecord(run).is_teacher(number, teacher.network.module):
        raise UsageError(
            f"the adaptor of {run.path} towards teacher {number} was trained towards other weights than those of "
            f"{teacher.weights}: leave teachers.{number}.weights out, or name those of the run's own teacher"
        )


def _rounded(values: Mapping[int, float]) -> dict[int, float]:
    return {k: round(value, 4) for k, value in values.items()}


def _number(evaluation: RunEvaluation) -> int:
    """The number of the teacher that ``evaluation.head_of`` names."""
    name, count = str(evaluation.options.head_of), len(evaluation.config.teachers)
    if name != "teacher":
        number = int(name.rpartition(".")[2])
        if number < count:
            return number
    elif count == 1:
        return 0
    if not count:
        raise UsageError(f"{evaluation.run.path} has no teacher whose head could be taken: leave --head-of out")
    listed = ", ".join(f"teachers.{place}" for place in range(count))
    raise UsageError(f"{evaluation.run.path} has {count} teacher(s): say whose head with --head-of, one of {listed}")


def _adapted(
    student: EvaluatedNetwork, adaptor: Adaptor, device: torch.device, map_size: tuple[int, int] | None = None
) -> EvaluatedNetwork:
    network = InTeacherSpace(student.network, adaptor.to(device), map_size=map_size)
    return replace(student, network=network.freeze())


def _segmentation(
    evaluation: RunEvaluation, teacher: EvaluatedNetwork, student: EvaluatedNetwork, adaptor: Adaptor
) -> Iterator[EvaluationRow]:
    options, device, seed = evaluation.options, evaluation.accelerator.device, evaluation.config.seed
    mode, classes = f"head of {options.head_of}", evaluation.pixel_classes
    encoder = _with_one_map(teacher.network, adaptor.pair[1])
    train, test = (evaluation.source(split, teacher) for split in (evaluation.train, evaluation.test))
    batch = next(iter(train.loader(batch_size=2, device=device, seed=0, train=False).epoch(0)))
    _, height, width = describe(encoder, batch).map_shapes[0]
    adapted = _adapted(student, adaptor, device, (height, width))
    students = evaluation.source(evaluation.test, student)
    best: tuple[float, list[tuple[str, Segmenter, Any, float]]] | None = None
    for fraction in options.label_fractions:
        first, model = segment(encoder, train, test, label_fraction=fraction, **evaluation.head_options)
        labels = share_of_maps(evaluation.data.data, fraction)
        yield evaluation.row(teacher, "segmentation", SegmentationScores.of(first, mode, options.head, labels))
        began = time.perf_counter()
        # In the memory format of the head's training, so that a student that answers as the teacher is it to the bit.
        answering = channels_last(Segmenter(adapted.network, model.head)).eval()
        loader = students.loader(batch_size=options.batch_size, device=device, seed=seed, train=False)
        measures = measures_of(count_confusion(answering, loader, classes, LABELS))
        seconds = round(time.perf_counter() - began, 3)
        second = SegmentationResult(**measures, num_train=first.num_train, num_test=first.num_test, seconds=seconds)
        share = _share(second.miou, first.miou)
        yield evaluation.row(adapted, "segmentation", SegmentationScores.of(second, mode, options.head, labels, share))
        if best is None or fraction > best[0]:
            best = (fraction, [("teacher", model, test, first.miou), ("student", answering, students, second.miou)])
    for role, segmenter, source, miou in best[1] if best is not None else ():
        whose = evaluation.name if role == "student" else role
        evaluation.gallery.add(role, f"{whose}\n{mode}\nmIoU {miou:.1f} %", segmenter, source, LABELS, device)


def _classification(
    evaluation: RunEvaluation, teacher: EvaluatedNetwork, student: EvaluatedNetwork, adaptor: Adaptor
) -> Iterator[EvaluationRow]:
    options, device, mode = evaluation.options, evaluation.accelerator.device, f"head of {evaluation.options.head_of}"
    adapted = _adapted(student, adaptor, device)
    train, test = (_embeddings(evaluation, teacher, split) for split in (evaluation.train, evaluation.test))
    students = _embeddings(evaluation, adapted, evaluation.test)
    for features in (test, students):
        check_classes(train, features, unseen="wrong")
    for fraction in options.label_fractions:
        classifier = fit_classifier(train, "embedding", fraction, evaluation.config.seed, device=device)
        first, second = (classifier.measure(features) for features in (test, students))
        yield evaluation.row(teacher, "classification", _probe_scores(first, fraction, mode))
        share = _share(second.top1, first.top1)
        yield evaluation.row(adapted, "classification", _probe_scores(second, fraction, mode, share))


def _probe_scores(result: ProbeResult, labels: float, mode: str, share: float | None = None) -> ClassificationScores:
    layers = {result.layer: LayerScores(result.top1, result.top5, result.weight_decay)}
    return ClassificationScores(labels, result.num_train, layers, mode, share)


def _embeddings(evaluation: RunEvaluation, candidate: EvaluatedNetwork, split: Any) -> Features:
    loader = evaluation.source(split, candidate).loader(
        batch_size=64, device=evaluation.accelerator.device, seed=0, train=False
    )
    return features_of(candidate.network, loader, ("embedding",))["embedding"]


def _with_one_map(network: Network, place: int) -> Network:
    """The same network with one of its maps alone."""
    taps = replace(network.taps, maps=(network.taps.maps[place],))
    return Network(network.module, taps=taps, preprocess=network.preprocess, modality=network.modality).freeze()


def _share(student: float, teacher: float) -> float | None:
    """Per cent of the teacher's measure; None where that is 0."""
    return round(100 * student / teacher, 4) if teacher > 0 else None
