"""The one exception that means: the user's input was wrong, and this sentence says how."""


class UserError(Exception):
    """A wrong value from the user: a params key, a file, a label, a command-line word.

    Its text is one line that names the file or the key, what was wanted and what was given. `stage.run`
    and the command line print that line and exit with 2; nothing else in the project prints a traceback
    for it. Our own mistakes stay `AssertionError` and keep theirs.
    """
