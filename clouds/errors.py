"""The one exception that is meant for the person at the keyboard."""


class UserError(ValueError):
    """Bad input, told in one sentence: what is wrong, where, and what to do. Command lines print it and exit with 2."""
