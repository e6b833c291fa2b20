"""What is wrong with a template, found at load."""

from __future__ import annotations


class TemplateError(ValueError):
    """A template that cannot be compiled: `file` ("" for text in a route), `line` or 0, `hint`."""

    def __init__(self, message: str, file: str = "", line: int = 0, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.file = file
        self.line = line
        self.hint = hint
