"""The exceptions that speak to the user."""


class UserError(Exception):
    """Something the user can mend: one sentence that names the thing and the remedy.

    The command line prints it without a traceback and exits with code 2.
    """


class NotFiniteError(UserError):
    """A loss or gradient that is not finite, which ended the run: its learning rate is too high."""
