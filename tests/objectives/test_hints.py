"""fitnet and attention against naive versions in float64, gradients included; and what they refuse."""

import pytest
import torch
from torch.nn import functional as F

from contrastill.core.errors import UsageError
from contrastill.core.objective import Setting
from contrastill.core.representation import Representation
from contrastill.core.representation_spec import RepresentationSpec
from contrastill.objectives.attention import Attention
from contrastill.objectives.fitnet import FitNet


def random_maps(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(3, *shape, dtype=torch.float64, generator=generator, requires_grad=True) for shape in shapes
    )


def setting(student, teacher, dims=(5, 7)):
    return Setting(RepresentationSpec(10, dims[0], student), RepresentationSpec(10, dims[1], teacher), 20, None, 0)


def cells(features, height, width):
    """Averages over equal cells of one sample's map, by loops."""
    channels, h, w = features.shape
    rows = []
    for y in range(height):
        for x in range(width):
            cell = features[:, y * h // height : (y + 1) * h // height, x * w // width : (x + 1) * w // width]
            rows.append(
                sum(cell[:, i, j] for i in range(cell.shape[1]) for j in range(cell.shape[2]))
                / (cell.shape[1] * cell.shape[2])
            )
    return torch.stack(rows, 1).reshape(channels, height, width)


def naive_attention(features):
    energy = torch.stack(
        [
            sum(features[c, y, x] ** 2 for c in range(len(features)))
            for y in range(features.shape[1])
            for x in range(features.shape[2])
        ]
    )
    return energy / sum(value**2 for value in energy).sqrt()


def assert_same(ours, reference, inputs):
    torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-12)
    for got, expected in zip(
        *(torch.autograd.grad(loss, inputs, retain_graph=True) for loss in (ours, reference)), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


def test_attention_is_the_naive_one_across_sizes():
    student = random_maps((4, 8, 6), (5, 4, 3), seed=1)
    teacher = random_maps((6, 4, 3), (2, 4, 3), seed=2)
    ours = Attention(pairs=((0, 0), (1, 1)))(Representation(maps=student), Representation(maps=teacher), {})
    reference = 0.0
    for student_map, theirs in zip(student, teacher, strict=True):
        pairs = [
            (naive_attention(cells(a, 4, 3)), naive_attention(cells(b, 4, 3)))
            for a, b in zip(student_map, theirs, strict=True)
        ]
        reference = reference + sum(((a - b) ** 2).sum() for a, b in pairs) / (len(pairs) * 12)
    assert_same(ours, reference, student)


def test_attention_compares_the_last_three_maps_by_default():
    maps = ((4, 8, 8), (8, 8, 8), (16, 4, 4), (32, 2, 2))
    assert Attention.build(Attention.Options(), setting(maps, maps[1:])).pairs == ((-3, -3), (-2, -2), (-1, -1))
    assert Attention.build(Attention.Options(), setting(maps, maps[:2])).pairs == ((-2, -2), (-1, -1))


def test_attention_of_half_precision_is_taken_in_float32():
    maps = (torch.full((2, 3, 2, 2), 300.0, dtype=torch.float16),)  # squares beyond float16
    assert Attention(pairs=((0, 0),))(Representation(maps=maps), Representation(maps=maps), {}).item() == 0.0


@pytest.mark.parametrize("standardize", [False, True])
def test_fitnet_is_the_naive_one(standardize):
    (student,), (teacher,) = random_maps((4, 6, 8), seed=3), random_maps((7, 3, 4), seed=4)
    fitnet = FitNet(4, 7, pair=(0, 0), standardize=standardize).double()
    ours = fitnet(Representation(maps=(student,)), Representation(maps=(teacher,)), {})
    weight, bias = fitnet.regressor.weight[:, :, 0, 0], fitnet.regressor.bias
    expected = teacher
    if standardize:
        per_channel = teacher.transpose(0, 1).flatten(1)
        expected = (teacher - per_channel.mean(1)[:, None, None]) / (per_channel.var(1, unbiased=False) + 1e-5).sqrt()[
            :, None, None
        ]
    reference, count = 0.0, 0
    for sample, target in zip(student, expected, strict=True):
        averaged = cells(sample, 3, 4)
        for y in range(3):
            for x in range(4):
                reference = reference + ((weight @ averaged[:, y, x] + bias - target[:, y, x]) ** 2).sum()
                count += 7
    assert_same(ours, reference / count, (student, fitnet.regressor.weight))


def test_fitnet_on_embeddings():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(5, size, dtype=torch.float64, generator=generator) for size in (3, 4))
    fitnet = FitNet.build(FitNet.Options(features="embedding"), setting((), (), dims=(3, 4))).double()
    assert fitnet.needs == {"embedding"}
    reference = F.mse_loss(student @ fitnet.regressor.weight.T + fitnet.regressor.bias, teacher)
    torch.testing.assert_close(
        fitnet(Representation(embedding=student), Representation(embedding=teacher), {}), reference
    )


def test_fitnet_compares_the_middle_maps_by_default():
    maps = ((4, 8, 8), (8, 8, 8), (16, 4, 4), (32, 2, 2))
    built = FitNet.build(FitNet.Options(), setting(maps, maps))
    assert built.pair == (2, 2) and built.regressor.weight.shape[:2] == (16, 16) and built.needs == {"maps"}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: Attention.build(Attention.Options(), setting((), ((4, 8, 8),))),
            "the student has none: name some with maps=.* have the image's aspect ratio",
        ),
        (lambda: FitNet.build(FitNet.Options(), setting(((4, 8, 8),), ())), "the teacher has none"),
        (
            lambda: FitNet.build(FitNet.Options(pair=(0, 3)), setting(((4, 8, 8),), ((4, 8, 8),))),
            "names map 3 of the teacher, which has 1",
        ),
        (
            lambda: Attention.build(Attention.Options(pairs=((-2, 0),)), setting(((4, 8, 8),), ((4, 8, 8),))),
            "names map -2 of the student",
        ),
    ],
)
def test_errors_name_the_side_and_the_remedy(build, message):
    with pytest.raises(UsageError, match=message.replace("[", r"\[")):
        build()
