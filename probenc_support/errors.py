"""The one exception that a person is meant to read."""


class InputError(Exception):
    """What was asked for cannot be done; the message is one sentence that says why and what to do.

    The command line prints the sentence and exits with code 2; a notebook shows the sentence alone.
    """

    def _render_traceback_(self) -> list[str]:
        """IPython calls this in place of drawing a traceback."""
        return [f"InputError: {self}"]
