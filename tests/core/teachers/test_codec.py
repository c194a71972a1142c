"""How what a teacher said is fields: the stated bounds of float16 and of the largest logits, against sums in loops."""

import math

import pytest
import torch

from contrastill.core.errors import UsageError
from contrastill.core.representation import Representation
from contrastill.core.teachers.codec import TeacherOutputCodec


def logits_of(count=64, classes=100, scale=4.0):
    return scale * torch.randn(count, classes, generator=torch.Generator().manual_seed(1))


def kl(one, other, temperature=1.0):
    """KL(softmax(one/T) ‖ softmax(other/T)) of each sample, in nats, in float64, summed in a loop."""
    p, q = ((values.double() / temperature).softmax(1) for values in (one, other))
    return torch.tensor(
        [
            sum(float(a) * math.log(float(a) / float(b)) for a, b in zip(*rows, strict=True) if a > 0)
            for rows in zip(p, q, strict=True)
        ]
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("top", [1, 8, 50])
def test_the_largest_logits_keep_their_probabilities_and_the_others_their_sum(precision, top):
    logits = logits_of()
    codec = TeacherOutputCodec("logits", precision, top)
    fields = codec.encode(Representation(logits))
    assert (
        fields["logits"].dtype == {"fp32": torch.float32, "fp16": torch.float16}[precision]
        and fields["logits.classes"].dtype == torch.int16
    )
    back = codec.decode(fields, 100).logits
    exact, decoded = logits.double().softmax(1), back.double().softmax(1)
    rest = torch.empty(64)
    for row in range(64):
        largest = sorted(range(100), key=lambda place, row=row: -float(logits[row, place]))[:top]
        others = [place for place in range(100) if place not in largest]
        for place in largest:
            # Float16 rounds log p to 2⁻¹¹ of it.
            bound = 1e-5 if precision == "fp32" else 2.0**-10 * (1 - math.log(float(exact[row, place])))
            assert abs(math.log(float(decoded[row, place] / exact[row, place]))) <= bound
        rest[row] = exact[row, others].sum()
        torch.testing.assert_close(back[row, others], back[row, others[:1]].expand(len(others)))
        assert abs(math.log(float(decoded[row, others].sum()) / float(rest[row]))) <= (
            1e-5 if precision == "fp32" else 0.01
        )
    # The stated loss: r · (log(C − k) − entropy among the others), no more than r · log(C − k); and nothing once all
    # mass is among the largest.
    assert (kl(logits, back) <= rest * math.log(100 - top) + (1e-6 if precision == "fp32" else 1e-3)).all()


def test_the_loss_of_the_largest_logits_at_the_temperature_of_distillation():
    """Of logits as a trained CIFAR-100 teacher has them, one class far above noise: KL in nats at T = 4, where the
    others count most.
    """
    logits = logits_of(scale=1.5)
    logits[torch.arange(64), torch.arange(64)] += 12
    losses = {
        top: float(
            kl(
                logits,
                (codec := TeacherOutputCodec("logits", "fp16", top))
                .decode(codec.encode(Representation(logits)), 100)
                .logits,
                4.0,
            ).mean()
        )
        for top in (1, 8, 50)
    }
    assert losses[1] < 0.07 and losses[8] < 0.045 and losses[50] < 0.01, losses
    assert losses[1] > losses[8] > losses[50] > 1e-4, losses


def test_float16_keeps_within_the_stated_bounds():
    logits, embedding, maps = logits_of(scale=10.0), torch.randn(8, 16) * 50, torch.randn(8, 4, 3, 3)
    codec = TeacherOutputCodec("logits", "fp16")
    back = codec.decode(codec.encode(Representation(logits)), 100).logits
    exact = logits.double().log_softmax(1)
    assert (
        (back.double() - logits.double().logsumexp(1, keepdim=True) - exact).abs() <= 2.0**-11 * exact.abs() + 2e-5
    ).all()
    assert kl(logits, back).max() < 1e-4 and kl(logits, back, 4.0).max() < 1e-4
    for part, name, values in (("embedding", "embedding", embedding), ("maps", "maps.0", maps)):
        codec = TeacherOutputCodec(part, "fp16")
        fields = codec.encode(Representation(embedding=embedding, maps=(maps,)))
        (value,) = codec.decode(fields, 0).tensors()
        assert [*fields] == [name] and fields[name].dtype == torch.float16 and value.dtype == torch.float32
        assert ((value - values).abs() <= 2.0**-11 * values.abs() + 1e-7).all()
    with pytest.raises(UsageError, match="which float16 cannot hold: set cache.precision=fp32"):
        TeacherOutputCodec("embedding", "fp16").encode(Representation(embedding=torch.tensor([[7e4]])))
    with pytest.raises(UsageError, match="a teacher has 100: set fewer"):
        TeacherOutputCodec("logits", "fp32", 100).encode(Representation(logits))


def test_many_classes_have_wider_numbers():
    codec = TeacherOutputCodec("logits", "fp16", 2)
    logits = torch.zeros(1, 40_000)
    logits[0, 39_999], logits[0, 7] = 30, 29
    fields = codec.encode(Representation(logits))
    assert fields["logits.classes"].dtype == torch.int32
    assert codec.decode(fields, 40_000).logits.topk(2, dim=1).indices.tolist() == [[39_999, 7]]


def test_samples_that_are_too_small_for_float16_are_refused_and_single_small_values_and_zeros_are_not():
    values = torch.tensor([[1.0, 1e-9, -1e-5], [0.0, 0.0, 0.0], [7e-5, 0.0, 3e-8]])
    codec = TeacherOutputCodec("embedding", "fp16")
    back = codec.decode(codec.encode(Representation(embedding=values)), 0).embedding
    assert ((back - values).abs() <= (2.0**-11 * values.abs()).clamp_min(2.0**-25)).all()
    small = torch.cat([values, torch.tensor([[1e-9, -2e-8, 0.0]])])
    for part, outputs in (
        ("embedding", Representation(embedding=small)),
        ("maps", Representation(maps=(small[:, :, None, None],))),
        ("prediction", Representation(prediction=small[:, None, None])),
    ):
        with pytest.raises(UsageError, match="no value beyond 2e-08, .*: set cache.precision=fp32"):
            TeacherOutputCodec(part, "fp16").encode(outputs)
        TeacherOutputCodec(part, "fp32").encode(outputs)
    # The logarithm of a probability of nearly 1.
    TeacherOutputCodec("logits", "fp16", 1).encode(Representation(torch.tensor([[18.0, 0.0]])))
