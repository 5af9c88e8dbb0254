"""Text from outside on one line of a terminal, a log or a prompt, and amounts with their unit."""

from __future__ import annotations

from collections.abc import Sequence


def one_line(text: str, length: int = 200) -> str:
    """Return the first `length` printable characters of an untrusted text, on one line."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * length]).split())
    return flat if len(flat) <= length else flat[: length - 1] + "…"


def amount_text(amount: float, unit: str = "") -> str:
    """Format an amount with four digits, or as a whole number if it has more, and its unit."""
    number = f"{amount:,.0f}" if abs(amount) >= 1000 else f"{amount:.4g}"
    return f"{number} {one_line(unit, 60)}".rstrip()


def listed(texts: Sequence[str], most: int) -> str:
    """List the first of some texts, and the number of the others."""
    shown = ", ".join(texts[:most])
    return f"{shown} and {len(texts) - most} more" if len(texts) > most else shown


def shortened(text: str, most: int) -> str:
    """Shorten a text in the middle to a number of characters; 0 for no limit."""
    if not most or len(text) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end]}…{text[len(text) - end :]}"
