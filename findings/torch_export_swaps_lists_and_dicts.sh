#!/usr/bin/env bash
# torch 2.14.1: torch.export.export(module, …, strict=False) leaves the module that it was given with other containers:
# every plain list and dict that is an attribute of the module is a copy afterwards, equal and not the same object, also
# where nothing writes to it. Whoever kept the old object, as the closure of a forward hook that collects activations in
# a dict of the module, fills one that the module no longer reads: the module works before the export, the export itself
# works, and the next forward of the very same module fails (or, had it not checked, would read stale values).
# A subclass of dict is left alone, parameters and buffers too.
# Seen: "same list: False, same dict: False, same subclass: True", then KeyError 'conv' after the export.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet torch==2.14.1 numpy==2.4.6
"$folder/env/bin/python" - <<'PY'
import torch
from torch import nn


class Own(dict):
    pass


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.numbers, self.names, self.own = [1, 2], {"a": 1}, Own(a=1)

    def forward(self, x):
        return self.conv(x)


images = torch.rand(2, 3, 8, 8)
plain = Plain().eval()
numbers, names, own, weight = plain.numbers, plain.names, plain.own, plain.conv.weight
torch.export.export(plain, (images,), strict=False)
same = (plain.numbers is numbers, plain.names is names, plain.own is own)
print("same list: %s, same dict: %s, same subclass: %s" % same)
assert same == (False, False, True) and plain.conv.weight is weight
assert plain.numbers == numbers and plain.names == names


class Collecting(nn.Module):
    """Twice what its convolution gave, which a hook puts into a dict of the module."""

    def __init__(self, store):
        super().__init__()
        self.conv, self.store = nn.Conv2d(3, 4, 3), store
        self.conv.register_forward_hook(lambda module, args, output: store.__setitem__("conv", output))

    def forward(self, x):
        self.conv(x)
        return 2 * self.store.pop("conv")


for store, works in (({}, False), (Own(), True)):
    module = Collecting(store).eval()
    expected = module(images)
    program = torch.export.export(module, (images,), strict=False)
    assert torch.equal(program.module()(images), expected)
    try:
        after = torch.equal(module(images), expected)
    except KeyError as error:
        after = f"KeyError {error}"
    print(type(store).__name__, "the same module after its export:", after)
    assert after is True if works else after == "KeyError 'conv'"
PY
echo confirmed
