"""What a comparison of two checkpoints shows."""

from overlay.core.view import SHOWN, View

__all__ = ["SHOWN", "View"]
