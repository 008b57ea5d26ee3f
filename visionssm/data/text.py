"""Text from outside (names of files, classes, errors of decoders) as it can be shown."""

from __future__ import annotations


def printable(text: object, keep: str = "") -> str:
    r"""Text without anything that a terminal obeys: escape sequences, line breaks, changes of the writing direction.

    Such characters, and bytes of file names that are not UTF-8, are shown as in Python: "\x1b", "\u202e", "\xff".

    Args:
        text: is converted by `str`.
        keep: characters to leave as they are, for example a line break.

    Example:
        >>> print(printable("photo\x1b[31m.jpg"))
        photo\x1b[31m.jpg
    """
    return "".join(x if x.isprintable() or x in keep else _escaped(x) for x in str(text))


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte of a file name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
