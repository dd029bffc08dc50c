"""Who hears how far judging is; nothing else is here, so that a door can listen before the rest is imported."""

__all__ = ["Listener"]


class Listener:
    """Hears how far an evaluation is; this one says nothing."""

    def begin(self, steps: int) -> None:
        """So many enlargements are to come."""

    def step(self, picture: str, model: str) -> None:
        """One of them is done."""

    def warn(self, text: str) -> None:
        """What a person should know."""
