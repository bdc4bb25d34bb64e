"""``python -m overlay`` is the command ``overlay``."""

from overlay.cli.entry import entry

if __name__ == "__main__":
    entry()
