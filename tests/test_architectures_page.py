"""docs/architectures.md says what the code says."""

from scripts.write_architectures import OUTPUT, architectures


def test_the_page_is_current() -> None:
    assert OUTPUT.read_text(encoding="utf-8") == architectures(), "run python scripts/write_architectures.py"
