"""Weights on disk: the layouts that are read, the pickles that are not, and what does not fit."""

import argparse
import os
import pickle

import pytest
import torch
from torch import nn

from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.weights import load_state_dict, load_weights, read_metadata, save_state_dict


def module(seed=0, width=4):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width, 2))


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


class Payload:
    """A pickle that makes a file when it is read, as a hostile one would run a command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


RELEASED = {
    "plain": lambda state: state,
    "released": lambda state: {
        "epoch": 240,
        "model": state,
        "best_acc": torch.tensor(79.42),
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.05}]},
        "opt": argparse.Namespace(model="resnet8", learning_rate=0.05, lr_decay_epochs=[150, 180, 210], trial="0"),
    },
    "state_dict": lambda state: {"state_dict": state, "epoch": 1},
    "parallel": lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
}


PREFIXED = {
    "compiled": lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
    "compiled and parallel": lambda state: {f"module._orig_mod.{name}": value for name, value in state.items()},
    "lightning": lambda state: {
        "state_dict": {**{f"model.{name}": value for name, value in state.items()}, "loss.weight": torch.ones(2)},
        "pytorch-lightning_version": "2.5.0",
    },
    "average beside it": lambda state: {
        **{f"ema.{name}": value + 1 for name, value in state.items()},
        **{f"model.{name}": value for name, value in state.items()},
    },
    "average": lambda state: {"ema": {f"module.{name}": value for name, value in state.items()}},
    "student and teacher": lambda state: {
        **{f"teacher.{name}": value + 1 for name, value in state.items()},
        **{f"student.net.{name}": value for name, value in state.items()},
    },
}


@pytest.mark.parametrize("layout", PREFIXED)
def test_a_prefix_before_each_name_is_taken_off(tmp_path, layout, caplog):
    net = module()
    torch.save(PREFIXED[layout](net.state_dict()), tmp_path / "net.pth")
    other = module(1)
    with caplog.at_level("INFO", "contrastill.core.weights"):
        load_weights(other, tmp_path / "net.pth")
    assert same(other.state_dict(), net.state_dict())
    assert layout == "average" or "is taken off the names" in caplog.text


@pytest.mark.parametrize(
    "names", [("first.", "second."), ("model.inner.", "model.other.")], ids=["two networks", "two of one"]
)
def test_a_prefix_that_is_not_clear_is_refused(tmp_path, names):
    state = module().state_dict()
    torch.save({f"{name}{key}": value for name in names for key, value in state.items()}, tmp_path / "net.pth")
    with pytest.raises(UsageError, match="do not fit Sequential: missing"):
        load_weights(module(1), tmp_path / "net.pth")


def test_a_prefix_that_does_not_help_is_named(tmp_path):
    torch.save({f"model.{key}": value for key, value in list(module().state_dict().items())[1:]}, tmp_path / "net.pth")
    with pytest.raises(UsageError, match=r"nor do they fit without model\. before each name"):
        load_weights(module(1), tmp_path / "net.pth")


@pytest.mark.parametrize("layout", RELEASED)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_torch_checkpoints_of_every_layout(tmp_path, layout, zipped):
    state = module().state_dict()
    torch.save(RELEASED[layout](state), tmp_path / "net.pth", _use_new_zipfile_serialization=zipped)
    assert same(load_state_dict(tmp_path / "net.pth"), dict(state))
    other = module(1)
    load_weights(other, tmp_path / "net.pth")
    assert same(other.state_dict(), state)


def test_safetensors_round_trip_with_metadata_and_shared_memory(tmp_path):
    net = module()
    state = {**net.state_dict(), "again": net[0].weight, "turned": net[0].weight.transpose(0, 1)}
    save_state_dict(state, tmp_path / "net.safetensors", metadata={"what": "a test"})
    assert same(load_state_dict(tmp_path / "net.safetensors"), {name: value.detach() for name, value in state.items()})
    assert read_metadata(tmp_path / "net.safetensors") == {"what": "a test"}
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


def test_a_run_folder_stands_for_its_student(tmp_path):
    save_state_dict(module().state_dict(), tmp_path / "student.safetensors")
    assert same(load_state_dict(tmp_path), module().state_dict())
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty is a folder without student.safetensors"):
        load_state_dict(tmp_path / "empty")


def test_a_failed_save_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "net.safetensors"
    save_state_dict(module().state_dict(), path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space left"):
        save_state_dict(module(1).state_dict(), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", ["plain pickle", "torch.save", "legacy torch.save", "inside a Namespace"])
def test_a_pickle_with_a_payload_is_refused_and_does_not_run(tmp_path, how):
    payload = Payload(f"touch {tmp_path}/ran")
    path = tmp_path / "net.pth"
    if how == "plain pickle":
        path.write_bytes(pickle.dumps({"model": payload}))
    elif how == "inside a Namespace":
        torch.save({"model": module().state_dict(), "opt": argparse.Namespace(x=payload)}, path)
    else:
        torch.save(
            {"model": module().state_dict(), "x": payload}, path, _use_new_zipfile_serialization=how == "torch.save"
        )
    with pytest.raises(ContrastillError, match=r"net\.pth are refused: .*\.safetensors"):
        load_state_dict(path)
    assert not (tmp_path / "ran").exists()


def test_a_namespace_is_safe_in_this_reader_only(tmp_path):
    torch.save({"model": module().state_dict(), "opt": argparse.Namespace(x=1)}, tmp_path / "net.pth")
    load_state_dict(tmp_path / "net.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "net.pth", weights_only=True)


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
@pytest.mark.parametrize("kept", [0, 10, 600])
def test_a_cut_file_is_damaged(tmp_path, name, kept):
    path = tmp_path / name
    if path.suffix == ".pth":
        torch.save(module().state_dict(), path)
    else:
        save_state_dict(module().state_dict(), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ContrastillError, match="damaged") as caught:
        load_state_dict(path)
    assert caught.value.exit_code == 1


def test_a_whole_module_and_other_contents_are_refused(tmp_path):
    torch.save(module(), tmp_path / "module.pth")
    with pytest.raises(ContrastillError, match="refused"):
        load_state_dict(tmp_path / "module.pth")
    torch.save({"epoch": 3, "weights": [1, 2]}, tmp_path / "other.pth")
    with pytest.raises(UsageError, match="hold no state dict.*; it has epoch, weights: save that of the network alone"):
        load_state_dict(tmp_path / "other.pth")


def test_a_missing_file_is_wrong_usage(tmp_path):
    with pytest.raises(UsageError, match=r"nothing\.pth do not exist"):
        load_state_dict(tmp_path / "nothing.pth")


def test_what_does_not_fit_is_named_and_nothing_is_loaded(tmp_path):
    path = tmp_path / "net.safetensors"
    state = module(0, width=8).state_dict()
    state["extra.weight"] = torch.zeros(1)
    del state["3.bias"]
    save_state_dict(state, path)
    target = module(1)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(UsageError) as caught:
        load_weights(target, path, name="tiny")
    message = str(caught.value)
    for part in (
        str(path),
        "tiny",
        "missing 3.bias",
        "unexpected extra.weight",
        "0.weight (8, 3, 3, 3) instead of (4, 3, 3, 3)",
        "and 4 more",
    ):
        assert part in message, part
    assert same(target.state_dict(), before)


def test_checkpoints_from_before_batchnorm_counted(tmp_path):
    state = {name: value for name, value in module().state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    target = module(1)
    load_weights(target, tmp_path / "old.pth")
    assert torch.equal(target[0].weight, module()[0].weight)
