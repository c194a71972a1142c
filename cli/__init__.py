"""The command line: a command a file, heavy imports inside the commands."""
