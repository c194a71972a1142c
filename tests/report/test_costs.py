"""The report's table of costs lists networks that cost the same once, and each of another cost."""

from contrastill.cli.main import main
from helpers.pages import Page


def test_networks_of_other_costs_are_listed_each(four_classes, tmp_path):
    common = [f"data.path={four_classes}", "train.epochs=1", "train.batch_size=16", "-q"]

    def train(name, *arguments):
        assert main(["train", *arguments, *common, f"out={tmp_path}/{name}"]) == 0

    train("a", "teachers/cifar100", "student.model=resnet8")
    train("b", "teachers/cifar100", "student.model=resnet8", "student.num_classes=100")
    train("c", "teachers/cifar100", "student.model=resnet8", "seed=5")
    kd = ["compression/cifar100_crd", "student.model=resnet8", "objectives.crd=null", "objectives.kd.weight=1"]
    for name, teacher in (("d", "a"), ("e", "c")):
        train(name, *kd, "teachers.0.model=resnet8", f"teachers.0.weights={tmp_path}/{teacher}")
    assert main(["report", str(tmp_path), "-q"]) == 0
    rows = Page(tmp_path / "report.html").table("What the networks cost")
    assert [(row["run"], row["role"]) for row in rows] == [
        ("a", "student"),
        ("b", "student"),
        ("d", "student"),
        ("d", "teacher"),
    ]
    assert rows[0]["parameters"] != rows[1]["parameters"]
