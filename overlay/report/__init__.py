"""Report: values to text for people.  Everything that came from a file is escaped before it reaches a terminal."""
