import pytest

from convatlas.console import print_table


def test_brackets_in_a_table_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("image",), [("photo [1].jpg",), ("[/red].jpg",)])
    assert capsys.readouterr().out.split("\n")[1:3] == ["photo [1].jpg", "[/red].jpg   "]
