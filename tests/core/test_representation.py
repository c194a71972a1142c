"""Networks: what is read off a module, by name, in one forward, and how images are prepared for it."""

import copy
import math
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.representation import Network, Preprocess, Taps
from contrastill.core.representation_spec import RepresentationSpec, describe

HALF = Preprocess(mean=(0.5,) * 3, std=(0.25,) * 3)


class Small(nn.Module):
    """A convolution, BatchNorm and dropout before a classifier; counts its forward passes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(4, 5)
        self.unused = nn.Linear(4, 5)
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        x = self.relu(self.bn(self.conv(x)))
        return self.fc(self.drop(self.pool(x).flatten(1)))


def small(embedding="input:fc", maps=("relu",), **options):
    torch.manual_seed(0)
    return Network(Small(), taps=Taps(embedding=embedding, maps=maps), preprocess=HALF, **options)


def batch(size=2, side=8, name="rgb"):
    return {
        name: torch.randint(256, (size, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    }


def test_one_forward_gives_the_same_as_calling_the_parts():
    network = small().eval()
    outputs = network(batch())
    module = network.module
    x = module.relu(module.bn(module.conv(HALF(batch()["rgb"]))))
    torch.testing.assert_close(outputs.maps, (x,))
    torch.testing.assert_close(outputs.embedding, x.mean(dim=(2, 3)))
    torch.testing.assert_close(outputs.logits, module.fc(x.mean(dim=(2, 3))))
    assert module.passes == 1


def test_gradients_flow_through_every_part():
    network = small()
    outputs = network(batch())
    (outputs.logits.sum() + outputs.embedding.square().sum() + outputs.maps[0].square().sum()).backward()
    assert all(
        parameter.grad is not None for name, parameter in network.module.named_parameters() if "unused" not in name
    )


@pytest.mark.parametrize("need", ["logits", "embedding", "maps"])
def test_only_what_is_asked_for_is_kept(need):
    outputs = small()(batch(), frozenset({need}))
    parts = {
        "logits": outputs.logits is not None,
        "embedding": outputs.embedding is not None,
        "maps": bool(outputs.maps),
    }
    assert parts == {part: part == need for part in parts}


def test_no_hook_is_left_behind_even_after_an_error():
    network = small()
    network(batch())
    with pytest.raises(ContrastillError):
        small_twice().forward(batch())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def small_twice():
    class Twice(Small):
        def forward(self, x):
            return super().forward(self.relu(x))

    return Network(Twice(), taps=Taps(maps=("relu",)), preprocess=HALF)


def test_a_module_that_runs_twice_or_not_at_all_is_refused():
    with pytest.raises(ContrastillError, match="relu of Twice runs twice"):
        small_twice()(batch())
    with pytest.raises(ContrastillError, match="unused of Small did not run"):
        small(embedding="unused")(batch())


def test_what_is_overwritten_in_place_is_refused():
    with pytest.raises(ContrastillError, match="bn of Small gives is changed in place"):
        small(maps=("bn",))(batch())


@pytest.mark.parametrize(
    ("tap", "shape"), [("pool", (2, 4)), ("relu", (2, 4)), ("drop", (2, 4)), ("input:drop", (2, 4))]
)
def test_an_embedding_is_pooled_to_two_dimensions(tap, shape):
    assert small(embedding=tap)(batch()).embedding.shape == shape


def test_other_shapes_are_named():
    tokens = nn.Sequential(nn.Flatten(2), nn.Identity(), nn.Flatten(), nn.LazyLinear(5))
    with pytest.raises(UsageError, match=r"embedding of Sequential at 1 is \(2, 3, 64\)"):
        Network(tokens, taps=Taps(embedding="1"), preprocess=HALF)(batch())
    with pytest.raises(UsageError, match=r"map of Small at fc is \(2, 5\)"):
        small(maps=("fc",))(batch())


def test_an_unknown_module_is_named_with_its_neighbours():
    with pytest.raises(UsageError, match="module 'poool' does not exist: did you mean pool"):
        small(embedding="input:poool")
    with pytest.raises(UsageError, match="there are bn, conv, drop"):
        small(maps=("zzzzzz",))


def test_a_missing_modality_is_named():
    with pytest.raises(
        UsageError, match="no depth, which Small reads: it has rgb; where it reads rgb, .* modality=.rgb"
    ):
        small(modality="depth")(batch())


def test_what_has_no_tap_is_refused_when_it_is_asked_for():
    network = small(embedding=None, maps=())
    outputs = network(batch())
    assert outputs.embedding is None and outputs.maps == () and outputs.logits is not None
    with pytest.raises(UsageError, match="no tap for its embedding"):
        network(batch(), {"embedding"})
    with pytest.raises(UsageError, match="did you mean maps"):
        network(batch(), {"map"})


def test_logits_of_a_network_that_returns_something_else():
    class Named(Small):
        def forward(self, x):
            return {"out": super().forward(x)}

    network = Network(Named(), taps=Taps(embedding="input:fc"), preprocess=HALF)
    assert network(batch()).logits is None
    with pytest.raises(UsageError, match="returns a dict, not logits"):
        network(batch(), {"logits"})
    tapped = Network(Named(), taps=Taps(logits="fc"), preprocess=HALF)
    assert tapped(batch(), {"logits"}).logits.shape == (2, 5)


def test_an_argument_given_by_name_can_be_tapped():
    class ByName(Small):
        def forward(self, x):
            return self.fc(input=self.pool(self.conv(x)).flatten(1))

    assert Network(ByName(), taps=Taps(embedding="input:fc"), preprocess=HALF)(batch()).embedding.shape == (2, 4)


def test_a_frozen_network_stays_in_eval_without_gradients():
    network = small().freeze()
    assert network.train() is network
    before = copy.deepcopy(network.module.state_dict())
    outputs = network(batch())
    assert not any(module.training for module in network.modules())
    assert not outputs.logits.requires_grad and not outputs.maps[0].requires_grad
    assert all(torch.equal(value, before[name]) for name, value in network.module.state_dict().items())
    # A teacher's outputs may be saved for the student's backward pass, so they are no inference tensors.
    assert not outputs.embedding.is_inference()
    assert small().train().training


def test_copies_are_independent():
    network = small().eval()
    twin = copy.deepcopy(network)
    with torch.no_grad():
        twin.module.conv.weight.zero_()
        twin.module.conv.bias.zero_()
    assert twin(batch()).maps[0].std() < 1e-3 < network(batch()).maps[0].std()
    assert twin.module.passes == 1 == network.module.passes
    assert copy.deepcopy(network.freeze()).train().training is False


def test_autocast_and_inference_mode_work():
    network = small().eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(batch()).logits.dtype == torch.bfloat16
    with torch.inference_mode():
        network(batch())
    network(batch()).logits.sum().backward()


def test_distributed_wrapping(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        plain = small(maps=()).eval()
        plain.module.unused.requires_grad_(False)
        wrapped = nn.parallel.DistributedDataParallel(copy.deepcopy(plain))
        outputs = wrapped(batch())
        torch.testing.assert_close(outputs.embedding, plain(batch()).embedding)
        outputs.logits.sum().backward()
    finally:
        torch.distributed.destroy_process_group()


def test_describe_measures_and_changes_nothing():
    network = small().train()
    network.module.drop.eval()
    before, state = copy.deepcopy(network.module.state_dict()), torch.get_rng_state()
    spec = describe(network, batch())
    assert spec == RepresentationSpec(num_classes=5, embedding_dim=4, map_shapes=((4, 8, 8),))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.module.state_dict().items())
    assert network.training and network.module.bn.training and not network.module.drop.training
    assert describe(small(embedding=None, maps=()), batch()) == RepresentationSpec(5, None, ())


def test_preprocess_normalises_bytes_and_floats_alike():
    images = batch()["rgb"]
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    prepared = Preprocess(mean, std)(images)
    expected = (images.double() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert prepared.dtype == torch.float32
    torch.testing.assert_close(prepared.double(), expected, atol=1e-6, rtol=1e-5)
    for dtype in (torch.float32, torch.float64):
        torch.testing.assert_close(Preprocess(mean, std)(images.to(dtype) / 255), prepared, atol=1e-6, rtol=1e-5)


def test_preprocess_keeps_the_memory_format():
    images = batch()["rgb"].contiguous(memory_format=torch.channels_last)
    assert HALF(images).is_contiguous(memory_format=torch.channels_last)


def test_preprocess_resizes_only_where_the_resolution_differs():
    images = batch()["rgb"]
    expected = F.interpolate((images / 255 - 0.5) / 0.25, size=(4, 6), mode="bilinear", antialias=True)
    torch.testing.assert_close(Preprocess(HALF.mean, HALF.std, (4, 6))(images), expected, atol=1e-5, rtol=1e-5)
    assert Preprocess(HALF.mean, HALF.std, 16)(images).shape == (2, 3, 16, 16)
    assert torch.equal(Preprocess(HALF.mean, HALF.std, 8)(images), HALF(images))


def test_preprocess_refuses_what_it_cannot_scale():
    with pytest.raises(UsageError, match="mean has 1 channels and std has 3"):
        Preprocess((0.5,), (0.25,) * 3)
    with pytest.raises(UsageError, match="not positive"):
        Preprocess((0.5,), (0.0,))
    with pytest.raises(UsageError, match=r"\(2, 1, 8, 8\) do not fit a mean of 3 channels"):
        HALF(torch.zeros(2, 1, 8, 8))
    with pytest.raises(UsageError, match="torch.int16 have no known scale"):
        HALF(torch.zeros(2, 3, 8, 8, dtype=torch.int16))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (((math.nan, 0.5), (0.5, 0.5)), "mean (nan, 0.5) has a value that is NaN or infinite"),
        (((0.5, 0.5), (0.5, math.nan)), "std (0.5, nan) has a value that is NaN or infinite"),
        (((0.5, 0.5), (0.5, math.inf)), "std (0.5, inf) has a value that is NaN or infinite"),
        (((), ()), "mean is empty: give a value for each channel"),
        (((0.5,), (0.5,), 0), "resolution is 0: give a side in pixels, from 1 to 16384, or (height, width)"),
        (((0.5,), (0.5,), 10**6), "resolution is 1000000: give a side in pixels, from 1 to 16384"),
        (((0.5,), (0.5,), -3), "resolution is -3: give a side in pixels"),
        (((0.5,), (0.5,), (0, 12)), "resolution is (0, 12): give a side in pixels"),
        (((0.5,), (0.5,), True), "resolution is True: pass a whole number"),
        (((0.5,), (0.5,), (12,)), "resolution is (12,): pass a whole number"),
        ((0.5, 0.5), "mean is 0.5: pass a list"),
    ],
)
def test_preprocessing_that_cannot_be_is_refused_when_it_is_made(values, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        Preprocess(*values)


def test_preprocessing_of_arrays_is_that_of_their_numbers():
    of_arrays = Preprocess(torch.full((3,), 0.5), np.full(3, 0.25), [np.int64(8), 8])
    assert of_arrays == Preprocess((0.5,) * 3, (0.25,) * 3, (8, 8)) and hash(of_arrays) is not None
    assert all(isinstance(value, float) for value in (*of_arrays.mean, *of_arrays.std))
    for size, side in (
        (np.array([4, 6]), (4, 6)),
        (torch.tensor([4, 6]), (4, 6)),
        (np.int64(8), 8),
        (torch.tensor(8), 8),
    ):
        assert Preprocess((0.5,), (0.5,), size).resolution == side


def test_what_was_not_measured_is_the_mean_and_has_no_part_in_its_neighbours():
    preprocess = Preprocess(mean=(2.0,), std=(0.5,))
    metres = torch.tensor([[1.0, math.nan, 3.0, 3.0], [1.0, 1.0, math.inf, 3.0]])[None, None]
    out = preprocess(metres)
    assert torch.equal(out, torch.tensor([[-2.0, 0.0, 2.0, 2.0], [-2.0, -2.0, 0.0, 2.0]])[None, None])
    # Halves: each cell is the mean of what there is of it, weighted as an antialiased resize weighs.
    halved = Preprocess(mean=(2.0,), std=(0.5,), resolution=(1, 2))(metres)
    torch.testing.assert_close(halved[0, 0, 0, 0], torch.tensor(-2.0), rtol=0, atol=0.8)
    constant = torch.full((1, 1, 8, 8), 4.0)
    constant[..., 2:4, 3] = math.nan
    torch.testing.assert_close(Preprocess((2.0,), (0.5,), 5)(constant), torch.full((1, 1, 5, 5), 4.0))
    nothing = Preprocess((2.0,), (0.5,), 5)(torch.full((1, 1, 8, 8), math.nan))
    assert torch.equal(nothing, torch.zeros(1, 1, 5, 5))


def test_missing_values_do_not_change_what_is_far_from_them():
    values = torch.rand(1, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    holed = values.clone()
    holed[..., :4, :4] = math.nan
    preprocess = Preprocess((0.5, 0.5), (0.25, 0.25), 8)
    torch.testing.assert_close(preprocess(holed)[..., 4:, 4:], preprocess(values)[..., 4:, 4:])


@pytest.mark.parametrize(
    ("shape", "remedy"),
    [
        ((3, 8, 8), r"a batch has a first side, as images\[None\] has"),
        ((2, 8, 8, 3), "channels come first, as in images.permute"),
        ((2, 4, 8, 8), "store three channels"),
        ((2, 5, 8, 8), "rgb has three channels; give images of more a name"),
    ],
)
def test_images_of_another_shape_are_refused_with_what_to_do(shape, remedy):
    with pytest.raises(UsageError, match=rf"do not fit a mean of 3 channels: {remedy}"):
        Preprocess((0.5,) * 3, (0.25,) * 3)(torch.zeros(shape))


def test_frames_of_one_channel_without_its_side_are_told_to_have_one():
    with pytest.raises(UsageError, match=r"1 channels: channels have a side of their own, as images\[:, None\]"):
        Preprocess((0.5,), (0.25,), colours=False)(torch.zeros(2, 8, 8))


@pytest.mark.parametrize(
    ("size", "patch", "prefix"),
    [
        ((21, 21), 8, 1),
        ((45, 45), 20, 1),
        ((17, 17), 8, 0),
        ((63, 84), 16, 1),
        ((68, 102), 14, 1),
        ((65, 65), 32, 1),
    ],
)
def test_tokens_lie_on_the_grid_of_the_convolution_that_cuts_the_patches(size, patch, prefix):
    class OwnViT(nn.Module):
        """Says neither its patches' size nor its prefix, and drops what is left at the border."""

        def __init__(self):
            super().__init__()
            self.embed, self.block, self.fc = nn.Conv2d(3, 4, patch, patch), nn.Identity(), nn.Linear(4, 2)

        def forward(self, x):
            tokens = self.embed(x).flatten(2).transpose(1, 2)
            tokens = self.block(torch.cat([tokens.new_full((len(tokens), prefix, 4), 9.0), tokens], 1))
            return self.fc(tokens[:, 0])

    module = OwnViT()
    network = Network(module, taps=Taps(maps=("block",)), preprocess=Preprocess((0.0,) * 3, (1.0,) * 3))
    images = torch.rand(2, 3, *size)
    (tokens,) = network(images, {"maps"}).maps
    assert torch.allclose(tokens, module.embed(images), atol=1e-6)


def test_a_compiled_module_hides_what_is_tapped():
    module = torch.compile(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4)), backend="eager")
    with pytest.raises(UsageError, match="1 is not seen in a compiled module: pass it as it is, and compile the Net"):
        Network(module, taps=Taps(embedding="input:1"), preprocess=Preprocess((0.5,) * 3, (0.2,) * 3))
