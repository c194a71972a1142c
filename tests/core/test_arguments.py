"""Arguments of public functions: what fits, and what a function gets of it."""

import json

import numpy as np
import pytest
import torch

from contrastill import KD, Preprocess, ProbeSpec, load_student, measure_cost
from contrastill.core.arguments import Positive, checked, plain


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (np.int64(3), int | None, 3),
        (np.float32(0.5), float, 0.5),
        (torch.tensor(3), Positive, 3),
        (np.True_, bool, True),
        ((np.int64(1), 2), tuple[int, ...], (1, 2)),
        (np.array([1, 2]), tuple[int, ...], (1, 2)),
        (np.array([[1, 2], [3, 4]]), tuple[tuple[int, int], ...], ((1, 2), (3, 4))),
        ([[np.int64(1)]], list[list[int]], [[1]]),
        ({"a": np.int64(1)}, dict[str, int], {"a": 1}),
        ({"a": [np.float64(1.5)]}, dict[str, list[float]], {"a": [1.5]}),
        (np.int64(8), int | tuple[int, int], 8),
        ((np.int64(8), np.int64(4)), int | tuple[int, int], (8, 4)),
    ],
)
def test_numbers_of_numpy_arrive_as_pythons_own(value, hint, expected):
    @checked
    def function(argument):
        return argument

    function.__wrapped__.__annotations__["argument"] = hint
    got = function(value)
    assert got == expected and json.dumps(got) == json.dumps(expected) and type(got) is type(expected)


def test_what_is_no_list_of_numbers_is_the_same_object():
    tensor, items = torch.zeros(3), [object()]
    assert plain(tensor, torch.Tensor | list[float]) is tensor
    assert plain(items, list) is items and plain("8", int | str) == "8"


def test_results_of_numpy_numbers_are_printed_and_written():
    result = measure_cost("resnet8", size=np.int64(16), classes=np.int64(4), batch_size=np.int32(8), rounds=np.int64(1))
    assert "batches of 8 images" in str(result) and json.dumps(result.to_dict())
    assert "int64" not in repr(ProbeSpec(shots=(np.int64(1), 2), knn=np.int64(3)))
    assert Preprocess((0.5,), (0.2,), resolution=(np.int64(8), 8)).resolution == (8, 8)


@pytest.mark.parametrize(("function", "arguments"), [(load_student, ["run"]), (KD, []), (Preprocess, [(0.5,), (0.5,)])])
def test_a_device_as_an_argument_is_told_where_it_is_chosen(function, arguments):
    with pytest.raises(TypeError, match="unexpected keyword argument 'device': the device is no setting: .*USE_CPU"):
        function(*arguments, device="cuda")
