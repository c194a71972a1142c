"""The images that 8 bits are calibrated on: as many as are documented, from all over the split."""

import pytest
import torch

from contrastill.core.config.loading import load_config
from contrastill.evaluation.export_int8 import ExportSamples


@pytest.mark.parametrize(("count", "expected"), [(20, 20), (128, 128), (150, 128), (248, 128), (300, 128)])
def test_so_many_images_as_are_documented(count, expected):
    config = load_config("teachers/rooms", [f"data.train_samples={count}", "data.size=8", "out=x"])
    samples = ExportSamples(config, None, int8=True)
    batches = [*samples.spread()]
    assert sum(map(len, batches)) == expected
    # The first is the split's first, the last is of its end; none comes twice.
    images = torch.cat([batch[samples.modality] for batch in samples._loader("train", 50).epoch(0)])
    places = [next(i for i, image in enumerate(images) if torch.equal(image, one)) for one in torch.cat(batches)]
    assert places == sorted(set(places)) and places[0] == 0 and places[-1] >= count * 7 // 8
