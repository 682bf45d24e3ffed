"""The one exception that speaks to the user."""


class UserError(Exception):
    """Something the user can mend: one sentence that names the thing and the remedy.

    The command line prints it without a traceback and exits with code 2.
    """
