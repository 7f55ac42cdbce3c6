"""The command `lth`, also `python -m lth_study`: the command line of `cli.py`, with errors in one line."""

import sys


def entry() -> None:
    """Run the command. An error that a user can mend is one line, without a traceback."""
    try:
        from lth_study.cli import app
    except ModuleNotFoundError as missing:
        sys.exit(
            f"lth: the package {missing.name!r} is not installed; install the study: pip install 'lth-core[study]'"
        )
    try:
        app()
    except Exception as error:
        if not type(error).__module__.startswith(("lth_core.", "lth_study.")):
            raise
        print(f"lth: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    entry()
