"""Core: values to values.  Pure: composes, checks and plans; opens no file and prints nothing."""
