"""SOAP messages by size: orders of shares under a header that says where they go."""

from __future__ import annotations

_HEAD = (
    '<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/">'
    '<soapenv:Header><r:routing xmlns:r="urn:example:routing">orders;europe</r:routing>'
    "</soapenv:Header><soapenv:Body>"
)
_FOOT = "</soapenv:Body></soapenv:Envelope>"
_ORDER = (
    "<order><symbol>{symbol}</symbol><buyer>acme</buyer>"
    "<price>{price}</price><volume>{volume}</volume></order>"
)
_BOUGHT = (
    '<purchase symbol="{symbol}" customer="acme"><limit>{price}</limit>'
    "<shares>{volume}</shares></purchase>"
)
_OPEN, _SHUT = '<o:buy xmlns:o="urn:example:shares">', "</o:buy>"


def soap_request(size: int) -> bytes:
    """A SOAP 1.1 envelope of exactly `size` bytes: `routing` in its header says "orders;europe",
    its body is `buy` with orders; the symbol of the first is "IBM"."""
    orders = _orders(size)
    body = _OPEN + "".join(_ORDER.format(**order) for order in orders)
    left = size - len(_HEAD) - len(body) - len(_SHUT) - len(_FOOT)
    note = "<note>" + "x" * (left - len("<note></note>")) + "</note>"
    made = (_HEAD + body + note + _SHUT + _FOOT).encode()
    assert len(made) == size, (len(made), size)
    return made


def transformed(size: int) -> bytes:
    """What the stylesheet of the XSLT scenario (routes/xslt.xsl) makes of it: `purchases` with a
    `purchase` for each order; the header stays, the note goes."""
    body = "".join(_BOUGHT.format(**order) for order in _orders(size))
    opened = '<p:purchases xmlns:p="urn:example:purchases">'
    return (_HEAD + opened + body + "</p:purchases>" + _FOOT).encode()


def secured(envelope: bytes, user: str, password: str) -> bytes:
    """A SOAP envelope without a Header with one that says who sends it (WS-Security 1.1,
    UsernameToken Profile). Without a nonce: the bench sends the same bytes again and again."""
    space = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd"
    token = (
        f'<w:Security xmlns:w="{space}" soap:mustUnderstand="1"><w:UsernameToken>'
        f"<w:Username>{user}</w:Username><w:Password>{password}</w:Password>"
        "</w:UsernameToken></w:Security>"
    )
    header = f"<soap:Header>{token}</soap:Header><soap:Body>".encode()
    made = envelope.replace(b"<soap:Body>", header, 1)
    assert made != envelope
    return made


def _orders(size: int) -> list[dict[str, object]]:
    room = size - len(_HEAD) - len(_OPEN) - len(_SHUT) - len(_FOOT) - len("<note></note>")
    found: list[dict[str, object]] = []
    while True:
        number = len(found)
        order: dict[str, object] = {
            "symbol": ("IBM", "SAP", "MSFT", "SUN")[number % 4],
            "price": f"{number % 300 + 80}.25",
            "volume": number % 90 * 10 + 10,
        }
        room -= len(_ORDER.format(**order))
        if room < 0:
            return found
        found.append(order)
