from rep3d.console.tables import markdown_table


def test_table():
    assert markdown_table(["label", "Dice"], [("left", "0.5"), ["right", 1]]).splitlines() == [
        "| label | Dice |",
        "| --- | --- |",
        "| left | 0.5 |",
        "| right | 1 |",
    ]


def test_a_name_that_would_part_its_cell():
    assert markdown_table(["left|right"], [["a|b"]]).splitlines() == ["| left/right |", "| --- |", "| a/b |"]


def test_no_rows():
    assert markdown_table(iter("ab"), []) == "| a | b |\n| --- | --- |"
