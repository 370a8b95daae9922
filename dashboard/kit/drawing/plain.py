"""Text that a stranger or a model wrote, for the page's HTML: no markup, nothing that hides or turns a line around."""

from __future__ import annotations

import html
import unicodedata

KEPT = "\n\r\t\u200c\u200d"
"""White space that texts have, and the joiners that scripts and emoji are written with."""
HIDDEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
"""Categories of characters that draw nothing: controls, bidirectional overrides, invisible tags, line separators."""
DRAWN = frozenset(map(chr, (*range(0x600, 0x606), 0x6DD, 0x70F, 0x8E2, 0x110BD)))
"""Signs of those categories that are drawn."""


def is_hidden(character: str) -> bool:
    """Tell whether a character draws nothing and changes how others are drawn or read."""
    return unicodedata.category(character) in HIDDEN and character not in KEPT and character not in DRAWN


def visible(text: str) -> str:
    """Return a text with every hidden character written out, for example ``<U+202E>``.

    What the model reads is never changed by this; it is for what the page says: names, labels, errors.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(f"<U+{ord(one):04X}>" if is_hidden(one) else one for one in text)


def escape(text: str, quote: bool = True) -> str:
    """Return a text as HTML that shows it and does nothing else; every piece of HTML of the page goes through here.

    Args:
        quote: Quotes are escaped as well, as they must be in attributes.
    """
    return html.escape(visible(text), quote=quote)
