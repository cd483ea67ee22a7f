"""Text from strangers made safe to print: names in a corpus or a checkpoint can hold control sequences."""

import unicodedata

# Controls, format characters (bidirectional marks), surrogates, private and unassigned codes, line separators.
UNPRINTABLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
JOINERS = "\u200c\u200d"  # format characters without which Persian and Indian words are misspelt


def printable(text: str) -> str:
    """The text with everything that is no visible character or space escaped as Python would.

    >>> printable("zoë βήτα \\x1b[31m")
    'zoë βήτα \\\\x1b[31m'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(repr(c)[1:-1] if unicodedata.category(c) in UNPRINTABLE and c not in JOINERS else c for c in text)


def shortened(value: object, limit: int = 80) -> str:
    """The value's repr, cut in its middle where it is longer than `limit` characters."""
    # A string is cut before its repr is taken, as it may be a file's worth of text.
    text = repr(value if not isinstance(value, str) or len(value) <= limit else value[:limit] + value[-limit:])
    return text if len(text) <= limit else f"{text[: limit // 2]} ... {text[-limit // 2 :]}"
