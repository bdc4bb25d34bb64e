"""Formats: bytes to values and back.  Pure: nothing here opens a file, reads a clock or imports a heavy library."""
