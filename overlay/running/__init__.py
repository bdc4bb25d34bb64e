"""Running: look at the world, carry a plan out, return what was done.  Decisions are made in core."""
