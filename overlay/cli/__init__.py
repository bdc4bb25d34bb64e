"""The command line: parse, call `overlay.api`, render.  Nothing that a user of the library would miss."""
