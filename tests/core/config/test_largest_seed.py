"""Seeds that NumPy's generator does not take, and sizes that no memory holds, are refused by name."""

import pytest

import contrastill
from contrastill.cli.main import main
from contrastill.core.config.loading import load_config
from contrastill.core.errors import UsageError
from contrastill.models.build import build_network


def test_a_seed_too_large_is_refused(capsys):
    largest = 2**32 - 1
    assert load_config("teachers/rooms", [f"seed={largest}"]).seed == largest
    assert main(["train", "teachers/rooms", f"seed={largest + 2}", "--dry-run"]) == 2
    assert "seed" in capsys.readouterr().err
    with pytest.raises(UsageError, match=f"seeds=3 from seed={largest - 1} on go beyond {largest}: take a smaller"):
        load_config("teachers/rooms", [f"seed={largest - 1}", "seeds=3"])
    with pytest.raises(UsageError, match=f"seed is {largest + 1}: give a whole number from 0 to {largest}"):
        contrastill.probe_networks("resnet8", "rooms:.", contrastill.ProbeSpec(seed=largest + 1))


@pytest.mark.parametrize(("override", "most"), [("student.num_classes", 2**24), ("student.resolution", 2**14)])
def test_sizes_beyond_all_memory_are_refused(override, most):
    for value in (most + 1, 10**12, 10**20):
        with pytest.raises(UsageError, match=f"{override}={value} is not allowed: .* less than or equal to {most}"):
            load_config("teachers/rooms", [f"{override}={value}"])
    with pytest.raises(UsageError, match="num_classes=1000000000000 of resnet8 is more than any classifier"):
        build_network("resnet8", num_classes=10**12)
