"""Text from outside is shown, not obeyed."""

from __future__ import annotations

import os

from hypothesis import given, settings
from hypothesis import strategies as st

from visionssm.data.text import printable


@settings(deadline=None)
@given(st.binary())
def test_names_of_any_bytes_are_shown_as_printable_text(name: bytes) -> None:
    assert printable(os.fsdecode(name)).isprintable()


@settings(deadline=None)
@given(st.text())
def test_text_without_control_characters_is_shown_as_it_is(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert (shown == text) == text.isprintable()


def test_control_characters_are_escaped_but_for_those_to_keep() -> None:
    assert printable("a\nb\x1b[1m\u202e\udcff é") == r"a\nb\x1b[1m\u202e\xff é"
    assert printable("a\nb\r", keep="\n") == "a\nb\\r"
