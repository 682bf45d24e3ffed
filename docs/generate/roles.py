"""Docstrings name things as Sphinx does (``:func:`a.b```); the site shows them as code."""

import re
from typing import Any

import griffe


class Roles(griffe.Extension):
    """Turns roles and double backticks into Markdown."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for every object after its members are read."""
        if obj.docstring is not None:
            text = re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", obj.docstring.value)
            obj.docstring.value = text.replace("``", "`")
