"""``python -m overlay`` is the command ``overlay``."""

from overlay.cli.main import entry

if __name__ == "__main__":
    entry()
