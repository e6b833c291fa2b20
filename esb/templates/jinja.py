"""Jinja2 templates in the sandbox of the expressions, with the same names, functions and filters.

The content type says how values are written: XML and HTML are escaped, and XML is parsed before it
leaves; in JSON a text is escaped to stand between quotes, everything else is written as JSON
(`| tojson` does both, quotes included), and the whole is parsed before it leaves; other types take
text as it is. So a value can never close its tag or its quotes.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final

import jinja2
from jinja2 import meta, nodes
from jinja2.runtime import Undefined
from markupsafe import Markup, escape

from esb.codecs.json import dumps, loads
from esb.envelope import Body, Envelope, parse_content_type
from esb.errors import BadMessage, EsbError, RouteFailure
from esb.expressions import language
from esb.expressions.compiler import (
    DASHED,
    FAILURES,
    NOTHING_KNOWN,
    QUERIES,
    Known,
    failure,
)
from esb.expressions.language import MESSAGE, PARAMS, nearest, to_text
from esb.expressions.queries import Query, compile_jmespath, compile_xpath, xpath_namespaces
from esb.expressions.sandbox import BUDGET, FILTERS, INSTEAD, TESTS, Sandbox
from esb.templates.errors import TemplateError
from esb.xml import parse_xml

_DECLARED = re.compile(r"\A<\?xml[^>]*?\bencoding\s*=\s*[\"']([A-Za-z][\w.-]*)[\"']")
_LINE_END: Final = re.compile("\r\n|\r|\n")  # as Jinja2 counts lines
_JINJA_NAMES: Final = frozenset(("self", "super", "loop", "caller", "varargs", "kwargs"))


class JinjaTemplate:
    """A compiled template; called with an envelope it gives the new body.

    Raises RouteFailure when something is missing, when it runs too long, and when what it made is
    not what its content type says. `files` are the files it is made of.
    """

    def __init__(
        self,
        template: jinja2.Template,
        names: Collection[str],
        content_type: str,
        files: Collection[Path],
        constants: Mapping[str, Mapping[str, str]],
    ) -> None:
        self.files = frozenset(files)
        self._template = template
        self._variables = [(name, _VARIABLES.get(name) or _group(name)) for name in sorted(names)]
        self._constants = constants
        self._content_type = content_type
        self._mode = _mode(content_type)

    def __call__(self, envelope: Envelope) -> Body:
        BUDGET.renew()
        try:
            values = {name: value(envelope) for name, value in self._variables}
            values.update(self._constants)
            text = self._write(values)
        except EsbError as e:
            self._annotate(e)
            raise
        except FAILURES as e:
            failed = failure(e)
            self._annotate(failed, e)
            raise failed from e
        return self._finish(text)

    def _write(self, values: dict[str, Any]) -> str:
        left = language.MAX_TEXT
        parts: list[str] = []
        for part in self._template.root_render_func(self._template.new_context(values)):
            left -= len(part)
            if left < 0:
                raise RouteFailure("a template writes too much")
            parts.append(part)
        return "".join(parts)

    def _finish(self, text: str) -> Body:
        charset = parse_content_type(self._content_type).params.get("charset")
        if self._mode == "text" or self._mode == "html":
            try:
                return Body(text.encode(charset or "utf-8"), self._content_type)
            except (UnicodeEncodeError, LookupError) as e:
                raise RouteFailure(f"what a template made has no form in {charset}") from e
        try:
            if self._mode == "json":
                raw = text.encode()
                return Body(raw, self._content_type, loads(raw))
            text = text.lstrip()
            declared = _DECLARED.match(text)
            raw = text.encode(
                charset or (declared[1] if declared else "utf-8"), "xmlcharrefreplace"
            )
            return Body(raw, self._content_type, parse_xml(raw, charset=charset))
        except BadMessage as e:
            said = e.detail.replace("the body", "it").replace("the JSON", "it")
            raise RouteFailure(f"what a template made is wrong: {said}") from e
        except (LookupError, UnicodeEncodeError) as e:
            raise RouteFailure("what a template made has no form in its charset") from e

    def _annotate(self, error: BaseException, cause: BaseException | None = None) -> None:
        # For the log, with the traceback: a caller must not learn about files.
        trace = (cause or error).__traceback__
        place = ""
        while trace is not None:
            if trace.tb_frame.f_globals.get("environment") is self._template.environment:
                code = trace.tb_frame.f_globals
                line = trace.tb_lineno
                for rendered, source in _debug_lines(code):
                    if rendered <= trace.tb_lineno:
                        line = source
                        break
                place = f"{code.get('__file__', 'a template')}, line {line}"
            trace = trace.tb_next
        if place:
            error.add_note(f"in {place}")


def _debug_lines(module: dict[str, Any]) -> list[tuple[int, int]]:
    pairs = (pair.split("=") for pair in str(module.get("debug_info", "")).split("&") if pair)
    return sorted(((int(code), int(source)) for source, code in pairs), reverse=True)


def compile_jinja(
    template: Path | str,
    content_type: str,
    *,
    folders: Sequence[Path],
    names: Collection[str] = PARAMS,
    known: Known = NOTHING_KNOWN,
) -> JinjaTemplate:
    """Compile a template file, or the text of one, that writes `content_type`.

    What it includes, imports or extends is looked up beside it, then in `folders`, and nowhere
    else, now and not when a message comes. Raises TemplateError with file and line.
    """
    inline = isinstance(template, str)
    searched = [] if isinstance(template, str) else [template.resolve().parent]
    searched += [folder.resolve() for folder in folders]
    environment = _Templates(content_type, _Folders(searched))
    source = _Load(environment, {"body", "text", "headers", "message", *names, *QUERIES}, known)
    if isinstance(template, str):
        try:
            source.check(template, "")
            compiled = environment.from_string(template)
        except jinja2.TemplateSyntaxError as e:
            raise _syntax_error(e, "") from e
        except RecursionError as e:
            raise TemplateError("the template is nested too deep", "") from e
    else:
        compiled = source.load(template.name, None, str(template))
    files = [] if inline else environment.files
    return JinjaTemplate(compiled, source.used, content_type, files, source.constants)


# --- what a template may name --------------------------------------------------------------------


def _message(envelope: Envelope) -> dict[str, Any]:
    return {name: value(envelope) for name, value in MESSAGE.items()}


@lru_cache(maxsize=1024)
def _query(name: str, source: str, namespaces: tuple[tuple[str, str], ...]) -> Query:
    if name == "jmespath":
        return compile_jmespath(source)
    return compile_xpath(source, name, dict(namespaces))


def _run_query(name: str, body: Body, source: str, **keywords: Any) -> Any:
    namespaces = {} if name == "jmespath" else xpath_namespaces(source, keywords)
    query = _query(name, source, tuple(sorted(namespaces.items())))
    return query(body, **{k: v for k, v in keywords.items() if k not in namespaces})


class _BoundQuery(partial[Any]):
    """A query function bound to the message that is being rendered."""


def _bind(name: str) -> Callable[[Envelope], Any]:
    return lambda e: _BoundQuery(_run_query, name, e.body)


def _group(name: str) -> Callable[[Envelope], Any]:
    return lambda e: e.params.get(name, {})


_VARIABLES: Final[dict[str, Callable[[Envelope], Any]]] = {
    "body": lambda e: e.body.data,
    "text": lambda e: e.body.text,
    "headers": lambda e: e.headers,
    "message": _message,
    **{name: _bind(name) for name in QUERIES},
}


# --- writing -------------------------------------------------------------------------------------


def _mode(content_type: str) -> str:
    essence = parse_content_type(content_type).essence
    for mode in ("json", "xml", "html"):
        if essence.rpartition("/")[2].rpartition("+")[2] == mode:
            return mode
    return "text"


class _Written(str):
    """JSON that stands as it is."""

    __slots__ = ()


def _finalize_text(value: Any) -> str:
    text = to_text(value)
    BUDGET.write(text)
    return text


def _finalize_markup(value: Any) -> str:
    if isinstance(value, Markup):
        BUDGET.write(value)
        return value
    return _finalize_text(value)


def _finalize_json(value: Any) -> str:
    if isinstance(value, Undefined):
        raise language.reason(value)
    if isinstance(value, _Written):
        text: str = value
    elif isinstance(value, str):
        text = dumps(value).decode()[1:-1]
    else:
        text = dumps(value).decode()
    BUDGET.write(text)
    return text


def _tojson(value: Any) -> str:
    return _Written(FILTERS["tojson"](value))


_FINALIZE: Final = {
    "text": _finalize_text,
    "xml": _finalize_markup,
    "html": _finalize_markup,
    "json": _finalize_json,
}


def _markup(value: Any) -> Markup:
    return Markup(to_text(value))  # noqa: S704 - the operator's template says it is safe


def _escape(value: Any) -> Markup:
    return value if isinstance(value, Markup) else escape(to_text(value))


def _concat_markup(parts: Iterable[Any]) -> str:
    """`a ~ b` where what is escaped already stays as it is, and the rest is escaped with it."""
    parts = list(parts)
    if not any(isinstance(part, Markup) for part in parts):
        return language.concat(parts)
    return Markup(language.concat([_escape(part) for part in parts]))  # noqa: S704 - all escaped


def _join_markup(values: Any, separator: Any = "", attribute: str | None = None) -> str:
    every = list(values)
    if not any(isinstance(each, Markup) for each in (separator, *every)):
        return language.join(every, separator, attribute)
    joined = language.join([_escape(each) for each in every], _escape(separator), attribute)
    return Markup(joined)  # noqa: S704 - all escaped


class _Templates(Sandbox):
    """The sandbox, for one content type and one set of folders."""

    def __init__(self, content_type: str, loader: _Folders) -> None:
        mode = _mode(content_type)
        super().__init__(
            loader=loader,
            autoescape=mode in ("xml", "html"),
            finalize=_FINALIZE[mode],
            auto_reload=False,
            cache_size=-1,
        )
        self.files = loader.files
        if mode == "json":
            self.filters["tojson"] = _tojson
        elif mode in ("xml", "html"):
            self.filters.update(safe=_markup, e=_escape, escape=_escape, join=_join_markup)
            self.concat_texts = _concat_markup
        functions = {"now": language.now, "uuid": lambda: str(uuid.uuid4())}
        self.globals.update(functions)
        self.allow(functions.values())

    def is_safe_callable(self, obj: Any) -> bool:
        """Besides what the sandbox allows: the queries of this message."""
        return isinstance(obj, _BoundQuery) or super().is_safe_callable(obj)


class _Folders(jinja2.BaseLoader):
    """Templates by name from a few folders; no name leads out of them."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = folders
        self.files: set[Path] = set()

    def get_source(
        self, environment: jinja2.Environment, template: str
    ) -> tuple[str, str, Callable[[], bool]]:
        """Called by Jinja2. Raises TemplateNotFound."""
        for folder in self.folders:
            file = (folder / template).resolve()
            if file.is_relative_to(folder) and file.is_file():
                self.files.add(file)
                try:
                    return file.read_text(encoding="utf-8"), str(file), lambda: True
                except UnicodeDecodeError as e:
                    raise TemplateError("a template is UTF-8 text", str(file)) from e
        raise jinja2.TemplateNotFound(template)


# --- loading, and what is found then -------------------------------------------------------------


class _Load:
    """Compiles a template and all it refers to, and collects which names they use."""

    def __init__(self, environment: _Templates, names: set[str], known: Known) -> None:
        self.environment = environment
        self.names = names
        self.known = known
        self.constants: dict[str, dict[str, str]] = {}
        self.used: set[str] = set()
        self._seen: set[str] = set()

    def load(self, name: str, parent: str | None, shown: str = "") -> jinja2.Template:
        """A template by its name. Raises TemplateError."""
        loader = self.environment.loader
        assert loader is not None
        source, file, _ = loader.get_source(self.environment, name)
        shown = shown or file or name
        try:
            if name not in self._seen:
                self._seen.add(name)
                self.check(source, shown, included=parent is not None)
            return self.environment.get_template(name)
        except jinja2.TemplateSyntaxError as e:
            raise _syntax_error(e, shown) from e
        except RecursionError as e:
            raise TemplateError("the template is nested too deep", shown) from e

    def check(self, source: str, file: str, *, included: bool = False) -> None:
        """What Jinja2 does not check. Raises TemplateError, or its syntax errors."""
        tree = self.environment.parse(source)
        undeclared = meta.find_undeclared_variables(tree) - _JINJA_NAMES
        self.used |= undeclared & self.names
        # What is included may also use the variables of those that include it.
        if not included:
            known = self.names | self.known.keys() | self.environment.globals.keys()
            known |= _declared(tree)
            for name in sorted(undeclared - known):
                raise self._unknown(tree, name, source, file)
        for node in tree.find_all((nodes.Call, nodes.Getattr, nodes.Include, nodes.Import)):
            self._check_node(node, file)
        for node in tree.find_all((nodes.FromImport, nodes.Extends)):
            self._check_node(node, file)
        for group in self.known.keys() & undeclared:
            self._take_constants(tree, group, file)

    def _take_constants(self, tree: nodes.Template, group: str, file: str) -> None:
        """Look up what is named of a group that is known by now: no template has the whole of it.
        Raises TemplateError."""
        found: Iterable[Any] = tree.find_all((nodes.Getattr, nodes.Getitem))
        uses = [n for n in found if isinstance(n.node, nodes.Name) and n.node.name == group]
        uses = [use for use in uses if isinstance(_key(use), str)]
        proper = {id(use.node) for use in uses}
        may_miss = {
            id(node.node)
            for node in tree.find_all((nodes.Filter, nodes.Test))
            if node.name in ("default", "d", "defined", "undefined")
        }
        for node in tree.find_all(nodes.Name):
            if node.name == group and id(node) not in proper:
                hint = f"write {group}.NAME" if group == "env" else f"write {group}.name"
                raise TemplateError(f"{group} is no value", file, node.lineno, hint)
        values = self.constants.setdefault(group, {})
        for use in uses:
            key = _key(use)
            try:
                values[key] = self.known[group][key]
            except KeyError:
                if id(use) in may_miss:
                    continue
                what = f"the environment variable {key} is not set"
                if group != "env":
                    what = f"{group} has no {key}"
                raise TemplateError(what, file, use.lineno) from None

    def _check_node(self, node: nodes.Node, file: str) -> None:
        if isinstance(node, nodes.Call):
            self._check_call(node, file)
        elif isinstance(node, nodes.Getattr):
            if (
                isinstance(node.node, nodes.Name)
                and node.node.name == "message"
                and node.attr not in MESSAGE
            ):
                meant = nearest(node.attr, MESSAGE)
                hint = f"did you mean message.{meant}?" if meant else ""
                raise TemplateError(f"message has no {node.attr}", file, node.lineno, hint)
        elif isinstance(node, nodes.Include | nodes.Import | nodes.FromImport | nodes.Extends):
            for name in self._referred(node, file):
                try:
                    self.load(name, file)
                except jinja2.TemplateNotFound as e:
                    if isinstance(node, nodes.Include) and node.ignore_missing:
                        continue
                    raise TemplateError(
                        f"there is no template {name}",
                        file,
                        node.lineno,
                        "it is looked for beside this one, then in transforms/",
                    ) from e

    def _referred(self, node: Any, file: str) -> Iterator[str]:
        target = node.template
        named = target.items if isinstance(target, nodes.List | nodes.Tuple) else [target]
        for each in named:
            if not isinstance(each, nodes.Const) or not isinstance(each.value, str):
                raise TemplateError("a template is named by a text in quotes", file, node.lineno)
            yield each.value

    def _check_call(self, node: nodes.Call, file: str) -> None:
        callee = node.node
        if isinstance(callee, nodes.Getattr) and callee.attr in INSTEAD:
            raise TemplateError(
                f"there is no method called {callee.attr}", file, node.lineno, INSTEAD[callee.attr]
            )
        if not isinstance(callee, nodes.Name) or callee.name not in QUERIES:
            return
        name = callee.name
        first = node.args[0] if len(node.args) == 1 else None
        if not isinstance(first, nodes.Const) or not isinstance(first.value, str):
            raise TemplateError(
                f"{name}() takes one text in quotes",
                file,
                node.lineno,
                "values go in as variables: xpath('//a[@id=$id]', id=body.id)",
            )
        keywords: dict[str, Any] = {
            each.key: each.value.value if isinstance(each.value, nodes.Const) else None
            for each in node.kwargs
        }
        try:
            if name == "jmespath":
                compile_jmespath(first.value)
            else:
                compile_xpath(first.value, name, xpath_namespaces(first.value, keywords))
        except ValueError as e:
            raise TemplateError(str(e), file, node.lineno) from e

    def _unknown(self, tree: nodes.Template, name: str, source: str, file: str) -> TemplateError:
        places = [each.lineno for each in tree.find_all(nodes.Name) if each.name == name]
        line = min(places, default=0)
        text = _LINE_END.split(source)[line - 1] if line else ""
        for found in DASHED.finditer(text):
            if name in found[2].split("-"):
                head, tail = found[1], found[2]
                return TemplateError(
                    f"{head}.{tail} is read as a subtraction",
                    file,
                    line,
                    f"write {head}['{tail}']",
                )
        meant = nearest(name, self.names | self.known.keys() | self.environment.globals.keys())
        hint = INSTEAD.get(name) or f"did you mean {meant or repr(name)}?"
        return TemplateError(f"there is nothing called {name}", file, line, hint)


def _key(use: Any) -> Any:
    """What an access is for, if it is written out."""
    return use.attr if isinstance(use, nodes.Getattr) else getattr(use.arg, "value", None)


def _declared(tree: nodes.Template) -> set[str]:
    """Every name that a template gives to something; blocks see those given outside of them."""
    names = {node.name for node in tree.find_all(nodes.Name) if node.ctx != "load"}
    names |= {node.name for node in tree.find_all(nodes.Macro)}
    names |= {node.target for node in tree.find_all(nodes.Import)}
    for node in tree.find_all(nodes.FromImport):
        names |= {each if isinstance(each, str) else each[1] for each in node.names}
    return names


def _syntax_error(error: jinja2.TemplateSyntaxError, file: str) -> TemplateError:
    message = (error.message or "not understood").rstrip(".")
    hint = ""
    found = re.match(r"No (filter|test) named '(.*)'", message)
    if found:
        message = f"there is no {found[1]} called {found[2]}"
        meant = nearest(found[2], FILTERS if found[1] == "filter" else TESTS)
        hint = INSTEAD.get(found[2]) or (f"did you mean {meant}?" if meant else "")
    known = error.filename and not error.filename.startswith("<")
    return TemplateError(message, error.filename or "" if known else file, error.lineno, hint)
