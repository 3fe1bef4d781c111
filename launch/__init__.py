"""Thin command lines that a person or a cluster starts: `python -m launch.<command> --help`."""
