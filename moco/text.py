"""Values and names in messages and pages: one line, without control characters, cut where long."""

import codecs
import re
import reprlib
from typing import Any

LONGEST = 60
"""Characters of a value that a message shows."""


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    r"""Write a byte of a name that is no UTF-8 as \xe9, and other things as Python does."""
    if isinstance(error, UnicodeEncodeError):
        code = ord(error.object[error.start])
        if 0xDC80 <= code <= 0xDCFF:  # how Python holds that byte
            return f"\\x{code - 0xDC00:02x}", error.start + 1
    return codecs.backslashreplace_errors(error)


ESCAPE = "moco.escape"
"""The handler of errors for streams and files that take UTF-8 alone."""
codecs.register_error(ESCAPE, _escape)
_BYTE_IN_REPR = re.compile(r"\\udc([89a-f][0-9a-f])")


def utf8(name: str) -> str:
    r"""Write what is no UTF-8 in a name as its escape, the same everywhere: `gr\xfcn.jpg`."""
    return name.encode(errors=ESCAPE).decode()


def one_line(text: str, most: int = 200) -> str:
    """Make one line of a text: spaces for what ends lines or controls, cut where it is long."""
    text = " ".join("".join(character if character.isprintable() else " " for character in utf8(text)).split())
    return text if len(text) <= most else f"{text[:most]}…"


def printable(text: str) -> str:
    """Write what cannot be printed in a text, as a line feed in a file's name, as its escape."""
    text = _BYTE_IN_REPR.sub(r"\\x\1", utf8(text))
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def without_password(text: str) -> str:
    """Leave user and password out of every address in a text: `https://me:secret@host` has one."""
    return re.sub(r"(://)[^/@\s]*@", r"\1", text)


class _Short(reprlib.Repr):
    def repr_str(self, text: str, level: int) -> str:
        return repr(text) if len(text) <= LONGEST else f"{text[:LONGEST]!r}… ({len(text):,} characters)"


_SHORT = _Short()
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist, _SHORT.maxtuple, _SHORT.maxset = 2, 4, 4, 4, 4
_SHORT.maxlong = _SHORT.maxother = LONGEST


def shown(value: Any, quoted: bool = True) -> str:
    """Write a value for a message: one line, cut where it is long.

    Args:
        value: any.
        quoted: text as Python writes it; else as it is, without control characters.
    """
    if isinstance(value, str) and not quoted:
        return one_line(value, LONGEST)
    return _SHORT.repr(value)
