#!/usr/bin/env bash
# torch 2.14.1: a compiled function that takes a Python int, masks it to 64 bits and asks for the top bit, as hashes and
# random number generators in Python do, is right for the first int and ends in InternalTorchDynamoError ("TypeError:
# Invalid NaN comparison") for the second that differs: ints that change become symbols, and the value of the shifted
# mask is then compared with an infinity. It is an error in tracing, whatever the backend.
# The same with a mask of 63 bits, and with dynamic=False, is right for every int.
# Seen: 64 bits, 3: right; 5: InternalTorchDynamoError. 63 bits and 64 bits with dynamic=False: right for 3, 5 and 7.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet torch==2.14.1 numpy
cat > "$folder/mask.py" <<'PY'
import torch


def signed(x, number):
    masked = number & (2**64 - 1)
    return x + (masked - 2**64 if masked >> 63 else masked)


def signed_63(x, number):
    masked = number & (2**63 - 1)
    return x + (masked - 2**63 if masked >> 62 else masked)


def outcomes(function, **options):
    torch._dynamo.reset()
    compiled, x, seen = torch.compile(function, backend="eager", **options), torch.arange(3), []
    for number in (3, 5, 7):
        try:
            seen.append("right" if compiled(x, number).equal(function(x, number)) else "wrong")
        except torch._dynamo.exc.InternalTorchDynamoError as error:
            seen.append(f"{type(error).__name__}: {str(error).splitlines()[0]}")
    return seen


failed = "InternalTorchDynamoError: TypeError: Invalid NaN comparison"
for name, function, options, expected in (
    ("64 bits", signed, {}, ["right", failed, failed]),
    ("64 bits, dynamic=False", signed, {"dynamic": False}, ["right"] * 3),
    ("63 bits", signed_63, {}, ["right"] * 3),
):
    seen = outcomes(function, **options)
    print(f"{name}: {seen}")
    assert seen == expected
PY
OMP_NUM_THREADS=1 "$folder/env/bin/python" "$folder/mask.py"
