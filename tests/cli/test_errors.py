"""What stops a command is said in words that the terminal only shows."""

from __future__ import annotations

import pytest

from visionssm.cli.errors import tell


def test_errors_are_told_with_their_lines_but_without_what_terminals_obey(capsys: pytest.CaptureFixture[str]) -> None:
    tell(ValueError("a set has 2 mistakes:\n  'a\x1b[2J.png'\n\x07Mend them."))
    assert capsys.readouterr().err == "error: a set has 2 mistakes:\n  'a\\x1b[2J.png'\n\\x07Mend them.\n"
