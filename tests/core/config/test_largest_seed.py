"""Seeds that NumPy's generator does not take are refused by name."""

import pytest

import contrastill
from contrastill.cli.main import main
from contrastill.core.config.loading import load_config
from contrastill.core.errors import UsageError


def test_a_seed_too_large_is_refused(capsys):
    largest = 2**32 - 1
    assert load_config("teachers/rooms", [f"seed={largest}"]).seed == largest
    assert main(["train", "teachers/rooms", f"seed={largest + 2}", "--dry-run"]) == 2
    assert "seed" in capsys.readouterr().err
    with pytest.raises(UsageError, match=f"seeds=3 from seed={largest - 1} on go beyond {largest}: take a smaller"):
        load_config("teachers/rooms", [f"seed={largest - 1}", "seeds=3"])
    with pytest.raises(UsageError, match=f"seed is {largest + 1}: give a whole number from 0 to {largest}"):
        contrastill.probe_networks("resnet8", "rooms:.", contrastill.ProbeSpec(seed=largest + 1))
