"""What goes wrong in a user's terms: one sentence, no traceback."""

__all__ = ["UserError", "one_line"]

LONGEST = 300


class UserError(Exception):
    """The command cannot do what was asked; the message is one sentence that says what to change."""


def one_line(error: BaseException) -> str:
    """The kind of an exception and the first line of what it says."""
    lines = str(error).strip().splitlines()
    text = lines[0].strip().rstrip(".:") if lines else ""
    if len(text) > LONGEST:
        text = text[:LONGEST].rstrip() + "..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
