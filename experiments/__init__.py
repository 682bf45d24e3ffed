"""Experiments: every file says its command, its source, the result to expect and its cost."""
