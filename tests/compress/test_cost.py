"""What a network costs, against numbers worked out by hand, and `contrastill cost` as a user runs it."""

import html
import json
import shutil

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

import contrastill
from contrastill.cli.main import main
from contrastill.compress.cost import network_cost, network_costs
from contrastill.compress.operations import count_flops
from contrastill.core.config.loading import load_config, to_yaml
from contrastill.core.errors import UsageError
from contrastill.core.representation import Network, Preprocess, Taps
from contrastill.core.run import Run
from contrastill.core.weights import save_state_dict
from contrastill.models.build import build_network, save_student

CONFIG = """
out: {out}
data: {{name: rooms, size: 16, train_samples: 24, test_samples: 12}}
teachers: [{{model: resnet14, weights: {teacher}}}]
student: {{model: resnet8}}
objectives: {{kd: {{weight: 1}}}}
"""


def as_network(module, channels=3, resolution=None):
    return Network(module, taps=Taps(), preprocess=Preprocess((0.5,) * channels, (0.25,) * channels, resolution))


def small():
    """8 filters of 3×3 over 3 channels, stride 2, then 4 grouped, then 10 classes."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 5, groups=4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    )


def test_parameters_and_operations_by_hand():
    cost = network_cost(as_network(small()), (16, 24), batch_size=5, rounds=2)
    assert cost.parameters == (3 * 8 * 9 + 8) + (8 + 8) + (2 * 8 * 25 + 8) + (8 * 10 + 10)
    first = 8 * 12 * 8 * (3 * 9)  # 8×12 positions of 8 filters
    second = 4 * 8 * 8 * (2 * 25)
    assert cost.flops == 2 * (first + second + 8 * 10)  # of one image, whatever the batch
    assert cost.input_shape == (3, 16, 24) and cost.batch_size == 5


class Deformable(nn.Module):
    def __init__(self):
        super().__init__()
        self.offsets, self.weight = nn.Conv2d(16, 18, 3, padding=1), nn.Parameter(torch.randn(8, 16, 3, 3))

    def forward(self, images):
        return deform_conv2d(images, self.offsets(images), self.weight, padding=1)


class OfRows(nn.Module):
    """Each row of an image is a sequence of its pixels, of 16 channels."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, images):
        rows = images.permute(0, 2, 3, 1).flatten(0, 1)
        answer = self.layer(rows, rows) if isinstance(self.layer, nn.Bilinear) else self.layer(rows)[0]
        return answer.mean(1)


@pytest.mark.parametrize(
    ("module", "by_hand"),
    [
        (OfRows(nn.LSTM(16, 6, batch_first=True)), 4 * 6 * (16 + 6)),
        (OfRows(nn.LSTM(16, 6, 2, batch_first=True, bidirectional=True)), 2 * 4 * 6 * (16 + 6 + 12 + 6)),
        (OfRows(nn.GRU(16, 6, batch_first=True)), 3 * 6 * (16 + 6)),
        (OfRows(nn.Bilinear(16, 16, 5)), 16 * 16 * 5),
        (Deformable(), 9 * 16 * (18 + 8)),
    ],
    ids=["lstm", "two of both directions", "gru", "bilinear", "deformable"],
)
@pytest.mark.filterwarnings("error")
def test_operations_that_the_counter_of_torch_leaves_out(module, by_hand):
    assert network_cost(as_network(module, 16), (4, 7), rounds=1).flops == 2 * 4 * 7 * by_hand


class Of(nn.Module):
    """A function of a matrix of 20×32, or of what it is beside one, with no layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, images):
        return self.function(images[0, 0])


V, W = torch.ones(32), torch.ones(32, 5)
PRODUCTS = {
    "mv": (lambda x: x @ V, lambda x: torch.einsum("nd,d->n", x, V), 20 * 32),
    "addmv": (lambda x: torch.addmv(x[:, 0], x, V), lambda x: x[:, 0] + torch.einsum("nd,d->n", x, V), 20 * 32),
    "batches by a vector": (lambda x: x.view(4, 5, 32) @ V, lambda x: torch.einsum("bnd,d->bn", x[None], V), 20 * 32),
    "dot": (lambda x: x[0] @ V, lambda x: torch.einsum("d,d->", x[0], V), 32),
    "inner": (lambda x: torch.inner(x[0], V), lambda x: torch.einsum("d,d->", x[0], V), 32),
    "vecdot": (lambda x: torch.linalg.vecdot(x[0], V), lambda x: torch.einsum("d,d->", x[0], V), 32),
    "addbmm": (
        lambda x: torch.addbmm(torch.zeros(10, 10), x.view(2, 10, 32), x.view(2, 10, 32).mT),
        lambda x: torch.einsum("bnd,bmd->nm", x.view(2, 10, 32), x.view(2, 10, 32)),
        2 * 10 * 10 * 32,
    ),
    "conv_tbc": (
        lambda x: torch.conv_tbc(x[:, None], torch.ones(3, 32, 5), torch.zeros(5), 1),
        lambda x: nn.functional.conv1d(x.T[None], torch.ones(5, 32, 3), padding=1),
        20 * 5 * 3 * 32,
    ),
    "cdist": (
        lambda x: torch.cdist(x, 2 * W.T, compute_mode="use_mm_for_euclid_dist"),
        lambda x: torch.einsum("nd,dm->nm", x, W),
        20 * 32 * 5,
    ),
    "bytes": (
        lambda x: torch._int_mm(x.char(), torch.ones(32, 8, dtype=torch.int8)),
        lambda x: torch.einsum("nd,dm->nm", x, torch.ones(32, 8)),
        20 * 32 * 8,
    ),
    "activation": (
        lambda x: torch._addmm_activation(torch.zeros(5), x, W),
        lambda x: torch.einsum("nd,dm->nm", x, W).relu(),
        20 * 32 * 5,
    ),
}


@pytest.mark.parametrize(("function", "same", "by_hand"), PRODUCTS.values(), ids=PRODUCTS)
def test_products_with_vectors_and_of_other_forms_count_as_the_same_by_einsum_does(function, same, by_hand):
    images = torch.ones(1, 1, 20, 32)
    assert count_flops(Of(function), images) == count_flops(Of(same), images) == 2 * by_hand


@pytest.mark.filterwarnings("ignore")  # torch.ao is deprecated, and still in use
def test_layers_of_8_bits_count_as_those_that_they_were_made_from_and_have_no_parameters_to_count():
    stubs = torch.ao.quantization.QuantStub(), torch.ao.quantization.DeQuantStub()
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3, groups=4)
    module = nn.Sequential(stubs[0], *layers, stubs[1], nn.Flatten(), nn.Linear(4 * 4 * 4, 5)).eval()
    images = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    by_hand = 2 * (8 * 36 * 27 + 4 * 16 * 2 * 9 + 4 * 16 * 5)
    assert count_flops(module, images) == by_hand
    module = torch.ao.quantization.fuse_modules(module, [["1", "2"]])
    module.qconfig, module[-1].qconfig = torch.ao.quantization.get_default_qconfig("x86"), None
    prepared = torch.ao.quantization.prepare(module)
    prepared(images)
    fixed = torch.ao.quantization.convert(prepared)
    dynamic = torch.ao.quantization.quantize_dynamic(fixed, {nn.Linear}, dtype=torch.qint8)
    assert count_flops(fixed, images) == count_flops(dynamic, images) == by_hand
    with pytest.raises(UsageError, match=r"1\.weight of Sequential is of a quantised layer"):
        network_cost(as_network(fixed), 8, rounds=1)
    linear = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(2, 2)), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(UsageError, match="of Sequential is of a quantised layer, whose weights are no parameters"):
        network_cost(as_network(linear), 2, rounds=1)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script", "ignore:The .grad attribute")
def test_a_part_of_torch_jit_counts_as_what_it_was_made_from():
    convolution = nn.Conv2d(1, 8, 3)
    firsts = (torch.jit.script(convolution), convolution)
    networks = [as_network(nn.Sequential(first, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 1) for first in firsts]
    scripted, plain = network_costs(networks, [8, 8], rounds=1)
    assert scripted.flops == plain.flops == 2 * 8 * 9 * 36 and scripted.parameters == plain.parameters == 80


def test_operations_of_a_segmenter_by_hand_and_for_a_million_pixels():
    module = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 5, 1))
    network = Network(module, taps=Taps(prediction="output:"), preprocess=Preprocess((0.5,) * 3, (0.25,) * 3))
    costs = network_costs([network, network, as_network(small())], [(16, 24), 48, 16], rounds=1)
    by_hand = 2 * (8 * 12 * 8 * 3 * 9 + 8 * 12 * 5 * 8)
    assert costs[0].flops == by_hand and costs[1].flops == 6 * by_hand
    assert costs[0].flops_per_megapixel == costs[1].flops_per_megapixel == pytest.approx(by_hand / (16 * 24) * 1e6)
    assert costs[2].flops_per_megapixel is None


def test_the_command_says_what_a_megapixel_costs(capsys):
    networks = ["unet/resnet8", "resnet8"]
    arguments = ["--size", "16", "--classes", "4", "--rounds", "1", "--device", "cpu"]
    assert main(["cost", *networks, *arguments, "--json"]) == 0
    dense, plain = json.loads(capsys.readouterr().out)
    assert dense["flops_per_megapixel"] == pytest.approx(dense["flops"] / 256 * 1e6) and dense["latency_ms"] > 0
    own = contrastill.MODELS["unet/resnet8"](num_classes=4)
    assert dense["parameters"] == sum(parameter.numel() for parameter in own.parameters())
    assert "flops_per_megapixel" not in plain and dense["input_shape"] == plain["input_shape"] == [3, 16, 16]
    result = contrastill.measure_cost(networks, size=16, classes=4, rounds=1, device="cpu")
    (table,) = result.tables()
    place = table.columns.index("GFLOPs/megapixel")
    assert float(table.rows[0][place]) == pytest.approx(dense["flops_per_megapixel"] / 1e9, abs=0.06)
    assert table.rows[1][place] == "" and {len(row) for row in table.rows} == {len(table.columns)}
    (plain,) = contrastill.measure_cost("resnet8", size=16, rounds=1, device="cpu").tables()
    assert "GFLOPs/megapixel" not in plain.columns


class Attention(nn.Module):
    def __init__(self, fused):
        super().__init__()
        self.qkv, self.out, self.fused = nn.Linear(16, 48), nn.Linear(16, 2), fused

    def forward(self, images):
        tokens = images.flatten(2)  # (B, 4, 16)
        q, k, v = (part[:, None] for part in self.qkv(tokens).chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(q, k, v) if self.fused else (q @ k.mT / 4).softmax(-1) @ v
        return self.out(mixed[:, 0].mean(1))


def test_fused_attention_counts_as_its_products_do():
    plain, fused = (network_cost(as_network(Attention(kind), channels=4), 4, rounds=1).flops for kind in (False, True))
    assert plain == fused == 2 * (4 * 16 * 48 + 2 * 4 * 4 * 16 + 16 * 2)


def test_a_transformer_layer_counts_in_eval_mode_too():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(16, 2, dim_feedforward=32, batch_first=True)

        def forward(self, images):
            return self.layer(images.flatten(2)).mean(1)

    tokens, width, hidden = 4, 16, 32
    by_hand = (
        tokens * width * 3 * width + 2 * tokens * tokens * width + tokens * width * width + 2 * tokens * width * hidden
    )
    assert network_cost(as_network(Tokens(), channels=4), 4, rounds=1).flops == 2 * by_hand


def test_bytes_are_those_of_the_file_in_32_bits(tmp_path):
    module = small().double()
    save_state_dict(small().state_dict(), tmp_path / "weights.safetensors")
    assert network_cost(as_network(module), 16, rounds=1).bytes == (tmp_path / "weights.safetensors").stat().st_size


class Recording(nn.Module):
    def __init__(self, name, log):
        super().__init__()
        self.name, self.log, self.layer = name, log, nn.Linear(12, 2)

    def __deepcopy__(self, memo):
        return Recording(self.name, self.log)

    def forward(self, images):
        self.log.append((self.name, len(images), self.training, torch.is_grad_enabled()))
        return self.layer(images.flatten(1))


def test_networks_take_turns_in_eval_mode_and_stay_as_they_are():
    log = []
    networks = [as_network(Recording(name, log)) for name in "ab"]
    threads = torch.get_num_threads()
    costs = network_costs(networks, [2, 2], batch_size=6, rounds=4, threads=1)
    timed = [entry for entry in log if entry[1] == 6]
    assert [name for name, *_ in timed] == ["a", "b"] * (len(timed) // 2) and len(timed) > 2 * 4
    assert not any(training or grad for _, _, training, grad in timed)
    assert all(network.training and all(p.requires_grad for p in network.parameters()) for network in networks)
    assert [cost.threads for cost in costs] == [1, 1] and torch.get_num_threads() == threads
    for cost in costs:
        low, high = cost.latency_quartiles_ms
        assert 0 < low <= cost.latency_ms <= high and cost.images_per_second == pytest.approx(6000 / cost.latency_ms)


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (16, {"device": "toaster"}, "device toaster"),
        (16, {"device": "meta"}, "device meta"),
        (16, {"rounds": 0}, "rounds=0"),
        (16, {"batch_size": -1}, "batch_size=-1"),
        (4, {}, "cannot take images of"),
    ],
)
def test_what_cannot_be_measured(size, options, message):
    with pytest.raises(UsageError, match=message):
        network_cost(as_network(small()), size, **{"rounds": 1, **options})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run with a teacher, and one with a resolution of its own whose teacher's weights are gone; weights are random,
    a cost asks for none else.
    """
    folder = tmp_path_factory.mktemp("runs")
    for name in ("teacher", "kd", "alone"):
        (folder / name).mkdir()
    save_student(build_network("resnet14", num_classes=12), folder / "teacher" / "student.safetensors")
    (folder / "made.yaml").write_text(CONFIG.format(out=folder / "kd", teacher=folder / "teacher"))
    for name, changes in {"kd": [], "alone": [f"teachers.0.weights={folder / 'nowhere'}"]}.items():
        save_student(
            build_network("resnet8", num_classes=12, resolution=24 if name == "alone" else None),
            folder / name / "student.safetensors",
        )
        (folder / name / "config.yaml").write_text(to_yaml(load_config(str(folder / "made.yaml"), changes)))
    return folder


def test_a_run_is_beside_its_teacher(runs, capsys):
    arguments = [
        "cost",
        "resnet8",
        str(runs / "kd"),
        str(runs / "alone"),
        "--size",
        "16",
        "--rounds",
        "2",
        "--device",
        "cpu",
        "--batch-size",
        "3",
    ]
    assert main([*arguments, "--json"]) == 0
    output = capsys.readouterr()
    plain, student, teacher, alone = json.loads(output.out)
    assert [row["role"] for row in (plain, student, teacher, alone)] == ["network", "student", "teacher", "student"]
    assert teacher["network"] == f"{runs / 'kd'}:teacher" and teacher["model"] == "resnet14"
    assert plain["parameters"] == student["parameters"]  # as many classes as the run's
    assert "of_teacher" not in alone and f"the teacher of {runs / 'alone'} is left out" in output.err
    assert student["of_teacher"]["flops"] == student["flops"] / teacher["flops"] < 1
    assert student["of_teacher"]["latency"] == student["latency_ms"] / teacher["latency_ms"]
    assert student["input_shape"] == [3, 16, 16] and student["batch_size"] == 3
    assert main(arguments) == 0
    table = capsys.readouterr().out
    assert "share of the teacher's" in " ".join(table.split())
    assert f"{student['flops'] / 1e6:,.1f}  {100 * student['of_teacher']['flops']:.1f} %" in table


def test_the_size_is_the_network_s_own_or_the_data_s(runs, capsys):
    assert main(["cost", str(runs / "kd"), str(runs / "alone"), "--rounds", "1", "--json"]) == 0
    assert [row["input_shape"] for row in json.loads(capsys.readouterr().out)] == [
        [3, 16, 16],
        [3, 16, 16],
        [3, 24, 24],
    ]
    assert main(["cost", str(runs / "kd"), str(runs / "alone"), "--rounds", "1", "--size", "20", "--json"]) == 0
    assert [row["input_shape"] for row in json.loads(capsys.readouterr().out)] == [
        [3, 20, 20],
        [3, 20, 20],
        [3, 24, 24],
    ]
    assert main(["cost", "resnet8", "--rounds", "1"]) == 2
    assert "give contrastill cost a size (--size), such as 32" in capsys.readouterr().err


def test_the_size_of_data_that_are_not_at_hand_is_the_recorded_one(runs, tmp_path):
    for name, modality, scale in (("student", "rgb", {}), ("grey", "grey", {"mean": (0.5,), "std": (0.25,)})):
        run = Run(tmp_path / name)
        shutil.copytree(runs / "kd", run.path)
        changes = ["data={name: packed, path: gone.h5}", f"student.modality={modality}", "teachers=[]", "objectives="]
        config = load_config(str(run.config), [*changes, "objectives.cross_entropy={}"], trains=False)
        run.config.write_text(to_yaml(config))
        save_student(build_network("resnet8", num_classes=12, modality=modality, **scale), run.student)
    assert main(["report", str(tmp_path), "-q"]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "no data at hand says which: give contrastill cost a size (--size), such as 32" in html.unescape(page)
    for name in ("student", "grey"):
        facts = tmp_path / name / "checkpoints" / "data.json"
        facts.parent.mkdir()
        facts.write_text(json.dumps({"train": {"samples": 24, "modalities": "depth [1, 8, 8], rgb [3, 16, 20]"}}))
    shapes = [row.cost.input_shape for row in contrastill.measure_cost([tmp_path / "student", tmp_path / "grey"]).rows]
    assert shapes == [(3, 16, 20), (1, 16, 20)]
    assert main(["report", str(tmp_path), "-q"]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "not counted" not in page and "3×16×20" in page and "1×16×20" in page


def test_what_is_no_network(runs, capsys):
    assert main(["cost", str(runs)]) == 2
    assert "is no run" in capsys.readouterr().err
    assert main(["cost", "resnet7", "--size", "32"]) == 2
    assert "resnet7" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("networks", "options", "message"),
    [
        ("resnet8", {"size": 16, "threads": 10**6}, "threads=1000000 is more than 8 for each of the .* cores"),
        ("resnet8", {"size": 16, "threads": 0}, "threads is 0: pass a whole number from 1 on"),
        ("resnet8", {"size": 16, "batch_size": 10**30}, "a batch of 1000.* images of 3×16×16 does not go through"),
        ("resnet8", {"size": 10**30}, "a batch of 1 image of 3×1000.* give a smaller batch_size, or smaller images"),
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), {"size": 2}, "Sequential does not say how it reads images"),
        ("network", {"size": 2, "classes": 7}, "classes=7 is of networks that are named without weights, and Seq"),
        ("fixed", {"size": 2}, "size=2 is of networks without a resolution of their own, and Sequential has one"),
    ],
    ids=str,
)
def test_numbers_that_cannot_be_or_that_nothing_reads_are_refused(networks, options, message):
    if networks in ("network", "fixed"):
        preprocess = Preprocess((0.5,) * 3, (0.2,) * 3, 2 if networks == "fixed" else None)
        networks = Network(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), taps=Taps(), preprocess=preprocess)
    with pytest.raises(ValueError, match=message):
        contrastill.measure_cost(networks, rounds=1, **options)
