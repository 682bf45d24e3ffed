"""VTAB-1k in one command."""
