"""Repairs: each defect is an error that names the repair; with it, the WSDL is what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.bus import load_text, running, url

from esb_soap.documents import check_repairs
from esb_soap.repairs import REPAIRS
from esb_soap.wsdl import Wsdl, WsdlError, load_wsdl
from esb_web.client import ClientOptions, WebClient
from esb_web.transport import Pool

GOOD = """\
<?xml version="1.0"?>
<definitions name="Echo" targetNamespace="urn:t" xmlns="http://schemas.xmlsoap.org/wsdl/"
             xmlns:soap="http://schemas.xmlsoap.org/wsdl/soap/"
             xmlns:xs="http://www.w3.org/2001/XMLSchema" xmlns:t="urn:t" xmlns:u="urn:u">
  <types>
    <xs:schema targetNamespace="urn:t" elementFormDefault="qualified">
      <xs:element name="it" type="t:It"/>
      <xs:complexType name="It">
        <xs:sequence><xs:element name="when" type="xs:dateTime"/></xs:sequence>
      </xs:complexType>
    </xs:schema>
  </types>
  <message name="it"><part name="it" element="t:it"/></message>
  <portType name="Echo">
    <operation name="echo"><input message="t:it"/><output message="t:it"/></operation>
  </portType>
  <binding name="Echo" type="t:Echo">
    <soap:binding transport="http://schemas.xmlsoap.org/soap/http"/>
    <operation name="echo">
      <input><soap:body use="literal"/></input><output><soap:body use="literal"/></output>
    </operation>
  </binding>
  <service name="Echo">
    <port name="Echo" binding="t:Echo"><soap:address location="http://echo.invalid/"/></port>
  </service>
</definitions>
"""
WHEN = {"when": "2026-01-01T00:00:00"}
WRITTEN = (
    b'<n1:it xmlns:n1="urn:t"><n1:when>2026-01-01T00:00:00</n1:when></n1:it>'
)  # fmt: skip


def changed(*replacements: tuple[str, str]) -> str:
    text = GOOD
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    return text


def unqualified_in_wsdl() -> str:
    return changed(
        ('xmlns="http://schemas.xmlsoap.org/wsdl/"', ""), ('"t:', '"'),
        *((f"<{n}", f"<w:{n}") for n in ("definitions", "types", "message", "part ", "portType",
                                          "operation", "input", "output", "binding", "service",
                                          "port ")),
        *((f"</{n}", f"</w:{n}") for n in ("definitions", "types", "message", "portType",
                                           "operation", "input", "output", "binding", "service",
                                           "port>")),
        ("xmlns:t=", 'xmlns:w="http://schemas.xmlsoap.org/wsdl/" xmlns:t='),
    )  # fmt: skip


DEFECTS = {
    "white space": ("before-xml", "\n \n" + GOOD),
    "a message of a server": ("before-xml", "Notice: deprecated in line 3\n" + GOOD),
    "headers of the answer": ("before-xml", "HTTP/1.1 200 OK\r\nServer: x\r\n\r\n" + GOOD),
    "a doctype": (
        "drop-doctype",
        changed(
            (
                '<?xml version="1.0"?>',
                '<?xml version="1.0"?>\n<!DOCTYPE definitions [ <!ENTITY t "urn:t"> ]>',
            ),
            ('targetNamespace="urn:t" xmlns=', 'targetNamespace="&t;" xmlns='),
        ),
    ),
    "schema of 1999": (
        "old-schema",
        changed(("2001/XMLSchema", "1999/XMLSchema"), ("xs:dateTime", "xs:timeInstant")),
    ),
    "schema of 2000": ("old-schema", changed(("2001/XMLSchema", "2000/10/XMLSchema"))),
    "names without a prefix": ("qualify-names", unqualified_in_wsdl()),
    "names in the namespace of WSDL": (
        "qualify-names",
        changed(('message="t:it"', 'message="it"'), ('binding="t:Echo"', 'binding="Echo"')),
    ),
    "a type in the namespace of WSDL": ("qualify-names", changed(("t:It", "It"))),
    "a built-in type without a prefix": ("qualify-names", changed(("xs:dateTime", "dateTime"))),
}


def loaded(text: str, folder: Path, *repairs: str) -> Wsdl:
    path = folder / "echo.wsdl"
    path.write_bytes(text.encode())
    return load_wsdl(path, repairs=repairs)


def written(wsdl: Wsdl) -> bytes:
    [(_, _, operation)] = wsdl.operations()
    return operation.input.write(WHEN).body


def test_nothing_is_repaired_where_nothing_is_wrong(tmp_path: Path) -> None:
    plain = loaded(GOOD, tmp_path)
    assert written(plain) == WRITTEN
    assert written(loaded(GOOD, tmp_path, *REPAIRS)) == WRITTEN
    raw = GOOD.encode()
    root = plain.documents.loaded[0].root
    assert not [r.name for r in REPAIRS.values() if r.changes(raw, root, tmp_path / "echo.wsdl")]


@pytest.mark.parametrize(("name", "text"), DEFECTS.values(), ids=DEFECTS)
def test_a_defect_is_an_error_that_names_its_repair(name: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(WsdlError) as told:
        loaded(text, tmp_path)
    assert f"the repair '{name}'" in told.value.hint
    assert written(loaded(text, tmp_path, name)) == WRITTEN
    assert (tmp_path / "echo.wsdl").read_bytes() == text.encode()


def test_a_repaired_schema_validates(tmp_path: Path) -> None:
    wsdl = loaded(DEFECTS["a type in the namespace of WSDL"][1], tmp_path, "qualify-names")
    assert wsdl.validator is not None


def test_what_is_ambiguous_is_left_alone(tmp_path: Path) -> None:
    """A name that two schemas define is not guessed."""
    other = '<xs:schema targetNamespace="urn:u"><xs:element name="it"/></xs:schema></types>'
    text = changed(("</types>", other), ('element="t:it"', 'element="it"'))
    with pytest.raises(WsdlError, match="there is no element 'it'"):
        loaded(text, tmp_path, "qualify-names")


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    text = changed(('message="t:it"', 'message="it"'), ('element="t:it"', 'element="t:that"'))
    with pytest.raises(WsdlError, match=r"echo\.wsdl:13: there is no element 'that'"):
        loaded(text, tmp_path, "qualify-names")


class TestTypedParts:
    TEXT = changed(('element="t:it"', 'type="t:It"'))

    def test_named(self, tmp_path: Path) -> None:
        with pytest.raises(WsdlError, match="has a type instead of an element") as told:
            loaded(self.TEXT, tmp_path)
        assert f"{told.value} {told.value.hint}".count("the repair 'typed-parts'") == 1

    def test_the_part_is_an_element_of_its_name(self, tmp_path: Path) -> None:
        """As zeep takes it."""
        wsdl = loaded(self.TEXT, tmp_path, "typed-parts")
        assert written(wsdl) == (
            b'<it xmlns:n1="urn:t"><n1:when>2026-01-01T00:00:00</n1:when></it>'
        )

    def test_rpc_has_typed_parts_by_right(self, tmp_path: Path) -> None:
        text = self.TEXT.replace("<soap:binding ", '<soap:binding style="rpc" ')
        wsdl = loaded(text, tmp_path)
        assert not REPAIRS["typed-parts"].changes(
            text.encode(), wsdl.documents.loaded[0].root, tmp_path
        )


class TestSeveralFiles:
    OTHER = """\
<xs:schema targetNamespace="urn:u" xmlns:xs="http://www.w3.org/2001/XMLSchema">
  <xs:simpleType name="When"><xs:restriction base="xs:dateTime"/></xs:simpleType>
</xs:schema>
"""

    def test_include_of_another_namespace(self, tmp_path: Path) -> None:
        (tmp_path / "when.xsd").write_text(self.OTHER)
        text = changed(
            ('<xs:element name="it"', '<xs:include schemaLocation="when.xsd"/>'
             '<xs:element name="it"'), ("xs:dateTime", "u:When"),
        )  # fmt: skip
        with pytest.raises(WsdlError, match="its own is 'urn:u'") as told:
            loaded(text, tmp_path)
        assert "when.xsd" in str(told.value)
        wsdl = loaded(text, tmp_path, "include-as-import")
        assert written(wsdl) == WRITTEN
        assert wsdl.validator is not None

    @pytest.mark.parametrize(
        ("location", "name"),
        [
            ("http://schemas.invalid/2026/when.xsd", "when.xsd"),
            ("http://schemas.invalid/Service.svc?xsd=xsd0", "xsd0.xsd"),
            ("http://schemas.invalid/x?xsd=a/../../when.xsd", "when.xsd"),
        ],
    )
    def test_copies_of_what_is_imported_by_url(
        self, location: str, name: str, tmp_path: Path
    ) -> None:
        (tmp_path / name).write_text(self.OTHER)
        text = changed(
            ('<xs:element name="it"', f'<xs:import namespace="urn:u" schemaLocation="{location}"/>'
             '<xs:element name="it"'), ("xs:dateTime", "u:When"),
        )  # fmt: skip
        without = loaded(text, tmp_path)
        assert len(without.files) == 1
        assert "the repair 'local-copies'" in without.skipped[0]
        wsdl = loaded(text, tmp_path, "local-copies")
        assert [path.name for path in wsdl.files] == ["echo.wsdl", name]
        assert not wsdl.skipped
        assert written(wsdl) == WRITTEN


def test_names() -> None:
    assert check_repairs(["typed-parts", "before-xml", "typed-parts"]) == (
        "before-xml",
        "typed-parts",
    )
    with pytest.raises(ValueError, match=r"no repair 'typed-part': did you mean 'typed-parts'\?"):
        check_repairs(["typed-part"])


ROUTES = """\
expose:
  echo: {{wsdl: echo.wsdl, at: /echo, repair: {repair}}}
routes:
  hosted:
    from: {{soap: {{wsdl: echo.wsdl, path: /hosted, repair: {repair}}}}}
    steps:
      - set: {{body: body}}
  called:
    from: {{http: {{path: /called}}}}
    steps:
      - call: {{soap: {{wsdl: echo.wsdl, operation: echo, repair: {repair}}}}}
"""


class TestRoutes:
    TEXT = "\n" + DEFECTS["names in the namespace of WSDL"][1]

    def test_the_hint_is_told_at_the_line(self, tmp_path: Path) -> None:
        (tmp_path / "echo.wsdl").write_text(self.TEXT)
        found = load_text(ROUTES.format(repair="[qualify-names]"), tmp_path).diagnostics
        assert [d.line for d in found] == [2, 5, 11]
        assert all("the repair 'before-xml'" in d.hint for d in found)

    def test_an_unknown_name(self, tmp_path: Path) -> None:
        (tmp_path / "echo.wsdl").write_text(self.TEXT)
        found = load_text(ROUTES.format(repair="[before_xml]"), tmp_path).diagnostics
        assert len(found) == 3
        assert all("did you mean 'before-xml'" in d.message + d.hint for d in found)

    async def test_a_hosted_wsdl_is_published_repaired(self, tmp_path: Path) -> None:
        (tmp_path / "echo.wsdl").write_text(self.TEXT)
        text = ROUTES.format(repair="[before-xml, qualify-names]")
        pool = Pool(None, None, 1)
        client = WebClient(pool, ClientOptions())
        async with running(text, tmp_path) as bus:
            reply = await client.request("GET", f"{url(bus)}/hosted?wsdl")
            api = await client.request("GET", f"{url(bus)}/echo/openapi.json")
        await pool.close()
        assert api.status == 200
        published = tmp_path / "published" / "echo.wsdl"
        published.parent.mkdir()
        published.write_bytes(reply.body)
        assert written(load_wsdl(published)) == WRITTEN
