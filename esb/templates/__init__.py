"""Templates make a new body from a message: Jinja2 (`jinja.py`) and XSLT (`xslt.py`).

They belong to the operator, never to a message, and are compiled once, at load. What a message
holds can neither run in them nor break out of the format that they write.
"""

from esb.templates.errors import TemplateError
from esb.templates.jinja import compile_jinja
from esb.templates.xslt import compile_xslt

__all__ = ["TemplateError", "compile_jinja", "compile_xslt"]
