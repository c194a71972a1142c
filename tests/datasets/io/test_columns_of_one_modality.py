"""Two columns of a Hugging Face dataset that are called as one modality."""

import pytest

from contrastill.core.errors import UsageError
from contrastill.datasets.io.table_columns import modality_columns

datasets = pytest.importorskip("datasets")


@pytest.mark.parametrize("names", [("depth", "depth_map"), ("depth_map", "depth"), ("Depth", "depth")])
def test_neither_is_dropped_in_silence(names):
    features = datasets.Features({"image": datasets.Image(), **{name: datasets.Image() for name in names}})
    way = rf"data.modalities=\{{rgb: image, depth: {names[0]}\}}"
    with pytest.raises(UsageError, match=f"{names[0]} and {names[1]}, and either could be depth: .*{way}"):
        modality_columns(features, None, None, "frames")
    asked = {"rgb": "image", "depth": names[1]}
    assert modality_columns(features, None, asked, "frames") == asked
    assert modality_columns(features, "image", None, "frames") == {"rgb": "image"}
