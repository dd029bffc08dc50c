"""Names that strangers chose, as a terminal may show them."""

__all__ = ["one_line"]


def one_line(text: str) -> str:
    r"""The text in one line that a terminal shows and doesn't obey: control characters become \n, \x1b and so on."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )
