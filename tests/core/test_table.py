"""The one table: what it prints, as plain text and as Markdown."""

from contrastill.core.table import Table

TABLE = Table("Accuracy", ("network", "top-1"), [("res|net", "9.5"), ("vgg", "61.25 ± 0.1"), ("none", None)], ["n = 3"])


def test_plain_text_aligns_numbers_on_the_right():
    assert str(TABLE).split("\n") == [
        "Accuracy",
        "network        top-1",
        "res|net          9.5",
        "vgg      61.25 ± 0.1",
        "none               –",
        "n = 3",
    ]


def test_markdown_escapes_what_would_end_a_cell():
    lines = TABLE.to_markdown().split("\n")
    assert lines[:5] == ["**Accuracy**", "", "| network | top-1 |", "| :- | -: |", "| res\\|net | 9.5 |"]
    assert lines[6] == "| none | – |" and "n = 3" in lines


def test_a_column_of_words_or_of_nothing_is_no_column_of_numbers():
    assert not Table("", ("a",), [("3x",), ("x",)]).is_numeric(0)
    assert not Table("", ("a",), [(None,), ("",)]).is_numeric(0)
