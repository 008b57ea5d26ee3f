"""Parts of command lines: parsers that know their command's name, and `--cfg-options KEY=VALUE …`."""

from __future__ import annotations

import argparse
import ast
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_WORDS = {"true": True, "false": False, "none": None}


def parser_of(name: str, told: str | None) -> argparse.ArgumentParser:
    """A parser of `visionssm NAME`, whose help is the text of the module.

    Args:
        name: of the command.
        told: the module's docstring.
    """
    return Parser(command(name), description=told, formatter_class=argparse.RawDescriptionHelpFormatter)


class Parser(argparse.ArgumentParser):
    """A parser that refuses empty words: a folder of the name "" would be the one that one is in."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's."""
        given = list(sys.argv[1:] if args is None else args)
        for number, word in enumerate(given):
            if not str(word).strip():
                behind = f", behind {given[number - 1]}," if number else ""
                self.error(f"argument {number + 1}{behind} is empty: is a variable not set?")
        return super().parse_known_args(given, namespace)


def command(name: str) -> str:
    """How the user would start another command, as this one was started: by `visionssm`, or as a file of `tools`."""
    started = Path(sys.argv[0])
    if started.suffix == ".py" and started.with_name(f"{name}.py").is_file() and started.name != "__main__.py":
        return f"python {shlex.quote(str(started.with_name(f'{name}.py')))}"
    return f"visionssm {name}"


class ConfigOptions(argparse.Action):
    """Collects KEY=VALUE words into a dict; several uses add up."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        found = dict(getattr(namespace, self.dest, None) or {})
        for word in [values] if isinstance(values, str) else values or ():
            key, separator, value = word.partition("=")
            if not separator or not key.strip():
                parser.error(f"{option_string} takes KEY=VALUE, got {word!r}")
            found[key.strip()] = option_value(value)
        setattr(namespace, self.dest, found)


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add `--cfg-options` to a command line."""
    told = "replace config values; lists in brackets, text as it is"
    parser.add_argument("--cfg-options", nargs="+", action=ConfigOptions, default={}, metavar="KEY=VALUE", help=told)


def option_value(text: str) -> Any:
    """What a value of the command line means.

    Numbers, true, false and none are what they say; brackets and braces hold Python literals, words in them need no
    quotes; numbers with commas between them are a list. Everything else is text as typed, spaces and commas included.

    >>> option_value("1e-3"), option_value("my data"), option_value("[a, 2]"), option_value("0.9,0.99")
    (0.001, 'my data', ['a', 2], [0.9, 0.99])
    """
    stripped = text.strip()
    if len(stripped) > 1 and stripped[0] == stripped[-1] and stripped[0] in "'\"":
        return stripped[1:-1]
    if stripped.lower() in _WORDS:
        return _WORDS[stripped.lower()]
    number = _number(stripped)
    if number is not None:
        return number
    if stripped[:1] + stripped[-1:] in ("[]", "()", "{}"):
        return _literal(stripped)
    numbers = [_number(part.strip()) for part in stripped.split(",")]
    return text if len(numbers) < 2 or None in numbers else numbers


def _number(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None


def _literal(text: str) -> Any:
    """A bracketed list, tuple or dict; of unquoted words if it is no Python literal."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        pass
    if text.startswith("{"):
        return text
    items = [option_value(part.strip()) for part in _split(text[1:-1])]
    return tuple(items) if text.startswith("(") else items


def _split(text: str) -> list[str]:
    """Parts between commas that are not in brackets or quotes; a trailing comma ends no part."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append("")
            continue
        parts[-1] += letter
    return parts if parts[-1].strip() else parts[:-1]
