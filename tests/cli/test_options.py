"""Values of `--cfg-options` mean what was typed."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from visionssm.cli.options import add_config_options, option_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("my data", "my data"),
        ("a,b", "a,b"),
        ("my run/best.pth", "my run/best.pth"),
        ("~/data", "~/data"),
        (" padded ", " padded "),
        ("'1e-3'", "1e-3"),
        ("", ""),
        ("1e-3", 1e-3),
        ("8", 8),
        ("True", True),
        ("none", None),
        ("0.9,0.999", [0.9, 0.999]),
        ("[1, 2]", [1, 2]),
        ("(1, 2)", (1, 2)),
        ("[a, b c]", ["a", "b c"]),
        ("[(1, 2), [x, 'y,z']]", [(1, 2), ["x", "y,z"]]),
        ("[]", []),
        ("{'type': 'AdamW', 'lr': 0.1}", {"type": "AdamW", "lr": 0.1}),
        ("key=value", "key=value"),
    ],
)
def test_values_are_what_was_typed(text: str, value: Any) -> None:
    found = option_value(text)
    assert found == value
    assert type(found) is type(value)


def _parse(*words: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    add_config_options(parser)
    return parser.parse_args(["--cfg-options", *words]).cfg_options


def test_options_add_up_and_keep_equals_signs_and_spaces() -> None:
    found = _parse("a.b=my data", "c=x=y", "--cfg-options", "d=1")
    assert found == {"a.b": "my data", "c": "x=y", "d": 1}


def test_a_word_without_a_value_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        _parse("a.b")
    assert "KEY=VALUE, got 'a.b'" in capsys.readouterr().err
