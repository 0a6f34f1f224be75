import pytest

from convatlas.utils.console import print_fields, print_table, warn


def test_brackets_in_a_table_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("image",), [("photo [1].jpg",), ("[/red].jpg",)])
    assert capsys.readouterr().out.split("\n")[1:3] == ["photo [1].jpg", "[/red].jpg   "]


def test_control_characters_in_names_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = "鳥 é\x1b]0;title\x07\r\n\u202e\ud800"
    shown = r"鳥 é\x1b]0;title\x07\r\n\u202e\ud800"
    print_table((name,), [(name,)])
    print_fields({name: name})
    warn(name)
    captured = capsys.readouterr()
    assert captured.out.split("\n") == [shown, shown, f"{shown}  {shown}", ""]
    assert captured.err == f"convatlas: warning: {shown}\n"
