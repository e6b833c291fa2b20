"""XSLT 1.0 stylesheets (libxslt), without access to any file or network.

`document()` and `exsl:document` are denied when a stylesheet runs; what it imports or includes is
read while it is compiled, from its own folder only. Functions that take a text for an XPath
(`dyn:evaluate`) are refused, since the text may be a message's. `xsl:message terminate="yes"`
refuses the message with that text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from lxml import etree

from esb.adapter import Expression
from esb.envelope import Body, Envelope
from esb.errors import BadMessage, RouteFailure
from esb.expressions.language import MAX_TEXT, kind, to_text
from esb.templates.errors import TemplateError
from esb.xml import XmlFileError, parse_file

_DENY_ALL = etree.XSLTAccessControl.DENY_ALL  # type: ignore[attr-defined]
_XSL = "{http://www.w3.org/1999/XSL/Transform}"
_EVALUATING: Final = {
    "http://exslt.org/dynamic": r"[\w-]+",
    "http://icl.com/saxon": "eval(?:uate)?|expression",
}
"""Functions of libxslt that take a text for an XPath, by their namespaces."""
_BY_METHOD = {"xml": "application/xml", "html": "text/html", "text": "text/plain"}


class XsltTemplate:
    """A compiled stylesheet; called with an envelope it gives the new body.

    Raises BadMessage when the body is no XML or the stylesheet refuses it, RouteFailure when the
    stylesheet itself fails. `files` are the files it is made of.
    """

    def __init__(
        self,
        transform: etree.XSLT,
        content_type: str,
        params: Mapping[str, Expression],
        files: frozenset[Path],
    ) -> None:
        self.files = files
        self._transform = transform
        self._content_type = content_type
        self._params = params

    def __call__(self, envelope: Envelope) -> Body:
        root = envelope.body.data
        if not isinstance(root, etree._Element):
            raise BadMessage(f"the body is {kind(root)}, XML was expected")
        params = {
            name: etree.XSLT.strparam(to_text(value(envelope)))
            for name, value in self._params.items()
        }
        try:
            raw = bytes(self._transform(root, **params))  # type: ignore[arg-type]
        except etree.XSLTApplyError as e:
            raise _failed(e) from e
        except etree.LxmlError as e:
            raise RouteFailure("a stylesheet failed") from e
        if len(raw) > MAX_TEXT:
            raise RouteFailure("a stylesheet writes too much")
        if not raw and not self._content_type.startswith("text/"):
            raise RouteFailure("a stylesheet made nothing of the body")
        return Body(raw, self._content_type)


def compile_xslt(
    path: Path,
    content_type: str = "",
    *,
    folder: Path,
    params: Mapping[str, Expression] | None = None,
    read: Callable[[Path], bytes] = Path.read_bytes,
) -> XsltTemplate:
    """Compile a stylesheet; what it imports or includes lies in `folder`. read: gives the content
    of each file.

    Without a `content_type`, xsl:output says it (`media-type`, or its method). Its parameters get
    the text of `params`. Raises TemplateError with file and line.
    """
    try:
        root, resolver = parse_file(path, folder, read)
    except XmlFileError as e:
        raise TemplateError(e.message, str(path), e.line) from e
    if root.tag not in (f"{_XSL}stylesheet", f"{_XSL}transform"):
        raise TemplateError("this is no stylesheet", str(path), _line(root))
    declared = {
        child.get("name") for child in root.iterchildren(f"{_XSL}param") if child.get("name")
    }
    for name in params or {}:
        if name not in declared:
            raise TemplateError(f"the stylesheet has no parameter {name}", str(path), 1)
    try:
        transform = etree.XSLT(root, access_control=_DENY_ALL, regexp=False)
    except (etree.XSLTParseError, OSError) as e:
        if resolver.refused:
            why = resolver.refused[0]
            raise TemplateError(f"an import fails: {why}", str(path), _line_of(root, why)) from e
        raise _compile_error(e, path) from e
    for file in (path, *sorted(resolver.files)):
        _refuse_evaluation(root if file == path else parse_file(file, folder, read)[0], file)
    return XsltTemplate(
        transform,
        content_type or _declared_type(root),
        dict(params or {}),
        frozenset({path.resolve(), *resolver.files}),
    )


def _refuse_evaluation(root: etree._Element, file: Path) -> None:
    for node in root.iter("*"):
        for prefix, namespace in node.nsmap.items():
            if namespace not in _EVALUATING:
                continue
            call = re.compile(rf"(?<![\w.-]){prefix}:({_EVALUATING[namespace]})\s*\(")
            for value in node.attrib.values():
                if found := call.search(str(value)):
                    raise TemplateError(
                        f"{prefix}:{found[1]} makes an XPath of data, which is denied",
                        str(file),
                        _line(node),
                    )


def _declared_type(root: etree._Element) -> str:
    outputs = list(root.iterchildren(f"{_XSL}output"))

    def last(name: str, default: str) -> str:
        return next((o.get(name, "") for o in reversed(outputs) if o.get(name)), default)

    media = last("media-type", _BY_METHOD.get(last("method", "xml"), "application/xml"))
    charset = last("encoding", "utf-8")
    return media if charset.lower() == "utf-8" else f"{media}; charset={charset}"


def _line_of(root: etree._Element, why: str) -> int:
    for node in root.iterchildren(f"{_XSL}import", f"{_XSL}include"):
        if node.get("href", "\0").lstrip("./") in why:
            return _line(node)
    return 0


def _line(node: etree._Element) -> int:
    line: Any = node.sourceline  # the stubs know no type for it
    return line or 0


def _compile_error(error: Exception, path: Path) -> TemplateError:
    entries = list(getattr(error, "error_log", ()))
    line = next((entry.line for entry in entries if entry.line), 0)
    file = next((entry.filename for entry in entries if entry.line), "")
    said = [
        entry.message
        for entry in entries
        if not entry.message.startswith(("compilation error", "Invalid expression"))
    ]
    message = said[0] if said else str(error)
    own = not file or file.startswith("<") or Path(file) == path.resolve()
    return TemplateError(message[:300], str(path) if own else file, line)


def _failed(error: etree.XSLTApplyError) -> BadMessage | RouteFailure:
    # libxslt tells a terminating message and a failure apart only by what it logs beside it.
    said = [entry.message for entry in error.error_log]
    failed = [m for m in said if m.startswith(("runtime error", "xslt", "unknown error"))]
    if not failed and said:
        return BadMessage(said[-1].strip()[:500])
    if any("infinite template recursion" in m for m in said):
        return RouteFailure("a stylesheet calls itself without an end")
    if any("rights for" in m for m in said):
        return RouteFailure("a stylesheet wants to read or write a file, which is denied")
    result = RouteFailure("a stylesheet failed")
    result.add_note("; ".join(m for m in said if m != "unknown error")[:1000])
    return result
