"""A module that was given as a teacher has weights of its own: the report does not call them random."""

from torch import nn

import contrastill
from helpers.pages import Page


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))

    def forward(self, images):
        return self.layers(images)


def test_the_weights_of_a_module_are_not_called_random(four_classes, tmp_path):
    contrastill.distill(
        Small(), "resnet8", str(four_classes), out=tmp_path / "run", objectives=["kd"], epochs=1, quiet=True
    )
    contrastill.write_report(tmp_path / "run", progress=False)
    rows = Page(tmp_path / "run" / "report.html").table("Networks")
    assert [row["weights it starts from"] for row in rows] == ["those of the module that was given", "random"]
