"""The networks of a run: built as its config says, with their classes in one order and their scales compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from accelerate.utils import set_seed
from torch import Tensor

from ..core.classes import apply_class_map
from ..core.config.schema import NetworkConfig, RunConfig
from ..core.data import Split
from ..core.errors import UsageError
from ..core.preprocess import Preprocess
from ..core.registry import MODELS, OBJECTIVES, PYTHON_PREFIX, short_name
from ..core.representation import Network
from ..core.run_weights import RANDOM, InitialWeights
from ..core.tapping import answer_tap
from ..core.user_code import is_own
from ..core.value_scale import ValueScale
from ..datasets.io.scale import Statistics, check_chosen_scale, check_same_scale, check_scale, scale_of
from ..models import recorded_answer
from ..models.build import build_network, record_shape
from ..models.recipe import TRAINED_SIZE
from ..xmodal.recorded_modality import KEY as MADE
from ..xmodal.recorded_modality import recorded
from .class_order import ClassOrder, compares_classes, order_classes
from .data import measure_statistics
from .modality_scale import check_trained_modality, trained_scale, warn_of_changed_modality
from .pixel_labels import PixelLabels, answers_for_positions


@dataclass
class Networks:
    """The networks of a run; ``order`` is that of the classes of their logits."""

    teachers: list[Network]
    student: Network
    order: ClassOrder

    def __iter__(self) -> Iterator[Network]:
        """The teachers and then the student, as their entries are in the config."""
        return iter([*self.teachers, self.student])


def build_networks(
    config: RunConfig, splits: Mapping[str, Split] | Mapping[str, PixelLabels], statistics: Mapping[str, Statistics]
) -> Networks:
    """Build the networks of a config, each from the run's seed.

    Args:
        config: Of the run.
        splits: Of its data; the classes of their label maps, where the student answers for each position.
        statistics: Mean and standard deviation of each modality but rgb.

    Raises:
        UsageError: Their weights, classes or lengths do not fit the data or each other.
    """
    classes, names = splits["train"].num_classes, splits["train"].classes
    way = getattr(splits["train"], "way_to_classes", "")
    _check_student_is_dense(config)
    set_seed(config.seed)
    teachers = [
        build(teacher, classes, statistics, names=names, key=f"teachers.{number}", way_to_classes=way)
        for number, teacher in enumerate(config.teachers)
    ]
    order = order_classes(teachers, config, splits, config.student.num_classes or classes)
    if order.refusal is not None and compares_classes(config):
        raise order.refusal
    # Seeded again, so that one seed gives every objective and every teacher the same untrained student.
    set_seed(config.seed)
    student = build(
        config.student,
        classes or next((teacher.recipe["num_classes"] for teacher in teachers), None),
        statistics,
        names=names,
        student=True,
        key="student",
        way_to_classes=way,
        maps=getattr(splits["train"], "called", None),
    )
    _check_kinds_of_answers(config, teachers, student)
    return Networks(teachers, student, order)


def _check_student_is_dense(config: RunConfig) -> None:
    """Refuse a term that reads an answer for each position of a student that answers for the sample.

    Raises:
        UsageError: There is one.
    """
    for label, entry in config.objectives.items():
        if OBJECTIVES[entry.name or label].needs == {"prediction"} and not answers_for_positions(config.student.model):
            raise UsageError(
                f"objective {label} reads an answer for each position, (B, C, h, w), and the student "
                f"({short_name(config.student.model)}) answers for the sample, with (B, C) or (B, C, 1, 1): take "
                "unet/resnet20 or another network that gives one, or name the map of your own module's outputs with "
                "contrastill.Taps(prediction='output:KEY')"
            )


def _check_kinds_of_answers(config: RunConfig, teachers: Sequence[Network], student: Network) -> None:
    """Refuse a term that compares answers for the sample with answers for each position.

    Raises:
        UsageError: There is one.
    """
    for label, entry in config.objectives.items():
        objective = OBJECTIVES[entry.name or label]
        for part, other in (("logits", "prediction"), ("prediction", "logits")):
            if part not in objective.needs_with(entry.options()) or not objective.needs_teacher:
                continue
            for number, teacher in enumerate(teachers):
                if part not in teacher.parts(None) and other in teacher.parts(None):
                    kinds = ("for each position", "for the sample")
                    own, read = kinds if part == "logits" else reversed(kinds)
                    raise UsageError(
                        f"objective {label} reads answers {read}, and teacher {number} "
                        f"({short_name(config.teachers[number].model)}) answers {own}: "
                        + (
                            "use dense_kd with a student that does so too, or objectives on embeddings or maps"
                            if part == "logits"
                            else "take a segmenter as teacher, name the map of your own module's outputs with "
                            "contrastill.Taps(prediction='output:KEY'), or take objectives on embeddings or maps"
                        )
                    )


def compare_scales(
    config: RunConfig,
    networks: Networks,
    split: Split,
    statistics: Mapping[str, Statistics],
    batch: Mapping[str, Tensor],
) -> None:
    """Complain where a network was trained on other values than the data's, and give the student, and whoever has mean
    and std from the config, the data's scale.

    Args:
        config: Of the run.
        networks: Their preprocessing is set.
        split: The training split.
        statistics: As :func:`build_networks` takes them.
        batch: A few samples of the split.

    Raises:
        UsageError: Values of another range, unit or kind.
    """
    for entry, network in zip([*config.teachers, config.student], networks, strict=True):
        measured = statistics.get(entry.modality)
        if entry.mean is None:
            check_same_scale(network, entry.model, split, measured)
        elif measured is not None:
            check_other_data(network, entry.model, split, measured, chosen=True, trained=trained_scale(entry))
        if network is networks.student or entry.mean is not None:
            network.preprocess = _of_data(network, split, statistics, {} if entry.mean is None else batch)
    images = batch[networks.student.modality]
    record_shape(networks.student, images)
    networks.student.recipe = {**networks.student.recipe, TRAINED_SIZE: (images.shape[2], images.shape[3])}
    if (made := recorded(networks.student.modality, split.modalities)) is not None:
        networks.student.recipe = {**networks.student.recipe, MADE: made}


def initial_weights(
    config: RunConfig, networks: Networks, batch: Callable[[], Mapping[str, Tensor]]
) -> dict[str, InitialWeights]:
    """Those of the teachers, and of the student where they are from a file, published or a module's.

    Args:
        config: Of the run.
        networks: Its.
        batch: Gives a few samples as networks read them.
    """

    def answer(network: Network) -> list[float] | None:
        channels, *sides = batch()[network.modality].shape[1:]
        size = network.preprocess.resolution or sides
        height, width = (size, size) if isinstance(size, int) else size
        made = recorded_answer.recorded(network.module, (channels, height, width), answer_tap(network.taps))
        return (made or {}).get("values")

    keys = [*(f"teachers.{number}" for number in range(len(config.teachers))), "student"]
    return {
        key: InitialWeights.of(network.module, RANDOM)
        if is_random(entry)
        else InitialWeights.of(
            network.module, entry.weights, answer(network) if entry.weights is None and key != "student" else None
        )
        for key, entry, network in zip(keys, [*config.teachers, config.student], networks, strict=True)
        if key != "student" or not is_random(entry)
    }


def is_random(entry: NetworkConfig) -> bool:
    """Whether a network has the weights that the seed gives it, and neither a file's nor a module's."""
    return entry.weights is None and not entry.model.startswith(PYTHON_PREFIX)


def random_teacher_notes(config: RunConfig) -> list[str]:
    """A line for each teacher without weights: whoever forgot them would not see it otherwise."""
    return [
        f"teachers.{number} ({short_name(entry.model)}) has no weights and is random, as the seed initialises it"
        f"{'' if is_own(MODELS[entry.model]) else ', unless its builder loads some'}: name those of a trained network "
        f"with teachers.{number}.weights=RUN, FILE or pretrained, if it is to teach"
        for number, entry in enumerate(config.teachers)
        if is_random(entry)
    ]


def _of_data(
    network: Network, split: Split, statistics: Mapping[str, Statistics], batch: Mapping[str, Tensor]
) -> Preprocess:
    """A network's preprocessing, with what is known of the values that it is trained on.

    Args:
        network: Of this training.
        split: The training split.
        statistics: Mean and std of each modality but rgb.
        batch: Of the split, where mean and std were set for its values: normalised colours are right then.
    """
    scale = scale_of(split, network.modality, statistics.get(network.modality))
    images = batch.get(network.modality)
    if network.modality == "rgb" and scale.low is None and images is not None and images.is_floating_point():
        low, high = (float(value) for value in images.aminmax())
        scale = replace(scale, low=low, high=high)
    return replace(network.preprocess, scale=scale)


def check_other_data(
    network: Network,
    name: str,
    split: Split,
    measured: Statistics | None = None,
    *,
    chosen: bool = False,
    trained: ValueScale | None = None,
) -> None:
    """Complain where data have a network's modality in another scale than those of its training, see
    :func:`~contrastill.datasets.io.scale.check_same_scale`, or than the mean and std that were set for it.

    Args:
        network: What it reads is in the data.
        name: What it is called.
        split: Of the data.
        measured: Mean and std of its modality there; None: they are measured.
        chosen: Whether its mean and std were set, so that it may have been for these data.
        trained: The scale of the training of its weights, where other mean and std were set.
    """
    if measured is None and network.modality != "rgb":
        measured = measure_statistics(split, network.modality)
    if chosen and network.preprocess.scale is None and measured is not None:
        check_chosen_scale(network, name, split, measured, trained)
    else:
        check_same_scale(network, name, split, measured)


def build(
    config: NetworkConfig,
    classes: int | None,
    statistics: Mapping[str, tuple] | None = None,
    *,
    names: Sequence[str] | None = None,
    student: bool = False,
    key: str = "",
    way_to_classes: str = "",
    maps: str | None = None,
    others: bool = False,
) -> Network:
    """One network of the config; a teacher with weights keeps the classifier they came with.

    Args:
        config: The network.
        classes: Of the data.
        statistics: Mean and standard deviation of modalities for which no network has its own.
        names: Names of the data's classes, for a class_map.
        student: Whether it is the student.
        key: Of its section, as ``teachers.0``, for messages.
        way_to_classes: How what the data stores would be classes, for a message; empty: not known.
        maps: A modality that is called as label maps often are, where the data has none that is known for such.
        others: Whether classes that a class_map of places leaves out stay possible answers, as in a measurement.

    Raises:
        UsageError: Its length is not known, or its class_map does not fit, or a network that is used as it is was
            trained on another modality than the one that it is to read.
    """
    if student and config.class_map is not None:
        raise UsageError("class_map is for teachers: a student has the data's classes, or those of student.num_classes")
    if config.mean is None:
        check_trained_modality(config, key, learns=student)
    warn_of_changed_modality(config)
    options = config.model_dump(exclude={"model", "num_classes", "class_map"})
    num_classes = config.num_classes or (classes if student or config.weights is None else None)
    if num_classes is None and (student or config.weights is None):
        where = "student.num_classes" if student else "teachers.NUMBER.num_classes (NUMBER from 0)"
        name = short_name(config.model)
        if answers_for_positions(config.model):
            known = f", and has {maps}" if maps else ""
            raise UsageError(
                f"the training data has no label maps (modality semantics){known}: call them so in your "
                f"samples, or by data.modalities={{semantics: {maps or 'mask'}}} (data.folders, data.fields), or say "
                f"how many channels {name} answers with by {where}"
            )
        way = f"{way_to_classes}, else " if way_to_classes else ""
        raise UsageError(
            f"the training data has no classes for whole samples: {way}say how long the logits of {name} are with "
            f"{where}, or of label maps take a network that answers for each position, such as unet/resnet20"
        )
    measured = (statistics or {}).get(config.modality)
    network = build_network(
        config.model,
        num_classes=num_classes,
        new_classifier=student,
        classes=names if student else None,
        statistics=measured,
        weights_key=f"{key}.weights" if key else "weights",
        **options,
    )
    if config.mean is None and measured is not None:
        check_scale(network, config.model, measured)
    if config.class_map is not None:
        apply_class_map(network, config.class_map, classes, names, config.model, others=others)
    return network
