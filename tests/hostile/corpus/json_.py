"""JSON (RFC 8259): what two readers would read differently, and what takes more than it sends."""

from __future__ import annotations

from hostile.case import Bytes, Case, Post

JSON = "application/json"
MB = 1024 * 1024


def _case(
    name: str, body: Bytes, *statuses: int, path: str = "/read", code: str = "", kind: str = JSON
) -> Case:
    return Case("json", name, Post(path, body, kind), statuses or (400,), code)


def cases() -> list[Case]:
    """All."""
    broken = {
        "nothing": "",
        "white space": " \r\n\t",
        "half an object": '{"a": [',
        "two documents": "{} {}",
        "a comma too much": "[1,]",
        "a comma at the end of an object": '{"a": 1,}',
        "a comment": "{/* a */}",
        "a comment of a line": "[1] // a",
        "single quotes": "{'a': 1}",
        "a bare key": "{a: 1}",
        "NaN": "[NaN]",
        "Infinity": "[Infinity]",
        "minus Infinity": "[-Infinity]",
        "undefined": "undefined",
        "True": "[True]",
        "a leading zero": "[01]",
        "a plus": "[+1]",
        "a hexadecimal number": "[0x1F]",
        "a dot without digits": "[1.]",
        "a dot first": "[.5]",
        "two minus": "[--1]",
        "an exponent without digits": "[1e]",
        "an exponent out of range": "[1e999999999]",
        "1e400000000": "[1e400000000]",
        "a small exponent out of range": "[1e-999999999]",
        "a control character in a text": '["a\x01b"]',
        "a line break in a text": '["a\nb"]',
        "a NUL in a text": '["a\0b"]',
        "an escape that is none": r'["\x41"]',
        "half an escape": r'["\u00"]',
        "half of a surrogate pair": r'["\ud800"]',
        "the other half": r'["\udc00"]',
        "halves in the wrong order": r'["\udc00\ud800"]',
        "half a pair before another": r'["\ud800\u0041"]',
        "half a pair as a key": r'{"\ud800": 1}',
        "a text that never ends": '["abc',
        "a bracket that closes something else": '{"a": [1}',
        "a bracket too much": "[1]]",
        "a key twice": '{"a": 1, "a": 2}',
        "a key twice further in": '[{"b": {"a": 1, "a": 2}}]',
        "a key twice, once escaped": r'{"a": 1, "\u0061": 2}',
        "a key twice beside an escaped colon": r'{"a": 1, "a": "\u003a"}',
        "an empty key twice": '{"": 1, "": 2}',
        "a key twice far apart": '{"x": 1, '
        + ", ".join(f'"k{i}": {i}' for i in range(1000))
        + ', "x": 2}',
        "__proto__ twice": '{"__proto__": {}, "__proto__": {"admin": true}}',
    }
    found = [_case(name, body) for name, body in broken.items()]
    found += [
        _case(f"in {name}", raw, code="bad-message")
        for name, raw in {
            "UTF-16": '{"a": 1}'.encode("utf-16"),
            "UTF-16 without a mark": '{"a": 1}'.encode("utf-16-le"),
            "UTF-32": '{"a": 1}'.encode("utf-32"),
            "Latin-1": '{"a": "ü"}'.encode("latin-1"),
            "overlong UTF-8": b'{"a": "\xc0\xaf"}',
            "CESU-8": b'{"a": "\xed\xa0\x80\xed\xb0\x80"}',
            "UTF-8 beyond Unicode": b'{"a": "\xf5\x80\x80\x80"}',
            "EBCDIC": '{"a": 1}'.encode("cp500"),
            "UTF-8 with two marks": b"\xef\xbb\xbf\xef\xbb\xbf{}",
        }.items()
    ]
    found += [
        _case(f"{depth:,} {what} deep", lambda a=a, b=b, n=depth: a * n + "1" + b * n, 413)
        for what, a, b in (("arrays", "[", "]"), ("objects", '{"a":', "}"))
        for depth in (201, 5_000, 100_000)
    ]
    found += [
        _case("10 MB of [", lambda: "[" * (10 * MB), 400, 413),
        _case('10 MB of {"a":', lambda: '{"a":' * (2 * MB), 400, 413),
        _case("10 MB of [ and ]", lambda: "[" * (5 * MB) + "]" * (5 * MB), 413),
        _case("10 MB of brackets in a text", lambda: '"' + "[" * (10 * MB) + '"', 200),
        _case(
            "10 MB of brackets that would close, in a text",
            lambda: '"' + "[" * (5 * MB) + "]" * (5 * MB) + '"',
            200,
        ),
        _case("10 MB of one text", lambda: '"' + "a" * (10 * MB) + '"', 200),
        _case("10 MB of escapes", lambda: '"' + r"\u003a" * (MB * 5 // 3) + '"', 200),
        _case("10 MB of escaped quotes", lambda: '"' + r"\"" * (5 * MB) + '"', 200),
        _case("a text of 10 MB that never ends", lambda: '"' + "a" * (10 * MB), 400),
        _case("10 MB of white space", lambda: " " * (10 * MB), 400),
        _case(
            "10 MB of white space around nothing much", lambda: "[" + "\n" * (10 * MB) + "]", 200
        ),
        _case("10 MB of numbers", lambda: "[" + "1," * (5 * MB) + "1]", 200, 413),
        _case("10 MB of decimals", lambda: "[" + "1.5," * (5 * MB // 2) + "1]", 200, 413),
        _case("10 MB of empty objects", lambda: "[" + "{}," * (10 * MB // 3) + "1]", 200, 413),
        _case("10 MB of empty arrays", lambda: "[" + "[]," * (10 * MB // 3) + "1]", 200, 413),
        _case(
            "10 MB of keys",
            lambda: "{" + ",".join(f'"k{i:07}":1' for i in range(850_000)) + "}",
            200,
            413,
        ),
        _case(
            "10 MB of keys, one twice",
            lambda: "{" + ",".join(f'"k{i:07}":1' for i in range(850_000)) + ',"k0000000":1}',
            400,
            413,
        ),
        _case(
            "10 MB of one key again and again",
            lambda: "{" + '"a":1,' * (MB * 5 // 3) + '"b":1}',
            400,
            413,
        ),
        _case(
            "10 MB of objects with a key twice",
            lambda: "[" + '{"a":1,"a":2},' * 700_000 + "1]",
            400,
            413,
        ),
        _case(
            "10 MB of escaped colons and members",
            lambda: "[" + r'{"a":"\u003a","b":1},' * 400_000 + "1]",
            200,
            413,
        ),
        _case(
            "10 MB of colons in texts",
            lambda: "[" + '"::::::::::::::::",' * 500_000 + "1]",
            200,
            413,
        ),
        _case("a key of 10 MB", lambda: '{"' + "k" * (10 * MB) + '": 1}', 200),
        _case("5,000 digits", "[" + "9" * 5_000 + "]"),
        _case("10 MB of digits", lambda: "[" + "9" * (10 * MB) + "]", 413),
        _case(
            "10 MB of numbers with 4,000 digits",
            lambda: "[" + ",".join(["9" * 4_000] * 2_500) + "]",
            200,
            400,
            413,
        ),
        _case(
            "10 MB of decimals with 4,000 digits",
            lambda: "[" + ",".join(["9" * 2_000 + "." + "9" * 2_000] * 2_500) + "]",
            200,
            413,
        ),
        _case(
            "10 MB of decimals that grow", lambda: "[" + "1e6000," * 1_400_000 + "1]", 200, 400, 413
        ),
    ]
    # What a schema says: patterns that take ever longer, and errors without end.
    found += [
        _case(
            "a text that a pattern backtracks on",
            '{"lines": [], "code": "' + "a" * 40 + '!"}',
            path="/json",
        ),
        _case(
            "a text of 1 MB that a pattern backtracks on",
            lambda: '{"lines": [], "code": "' + "a" * MB + '!"}',
            path="/json",
        ),
        _case(
            "a mail address of 10 MB",
            lambda: '{"lines": [], "mail": "' + "a@" * (5 * MB) + '"}',
            path="/json",
        ),
        _case(
            "an address of 10 MB",
            lambda: '{"lines": [], "address": "http://' + "a." * (5 * MB) + ' "}',
            path="/json",
        ),
        _case(
            "390,000 members that a schema does not know",
            lambda: '{"lines": [' + "1," * 390_000 + '1], "code": 1}',
            path="/json",
        ),
        _case("an array for an object", "[]", path="/json"),
        _case("null", "null", path="/json"),
        _case("a wrong type", '{"lines": {}}', path="/json"),
        _case("a missing member", "{}", path="/json"),
        _case("another media type", '{"lines": []}', 415, path="/json", kind="text/plain"),
        _case("no media type", '{"lines": []}', 415, path="/json", kind=""),
        _case("a media type that is none", '{"lines": []}', 415, path="/json", kind="json"),
    ]
    # Item by item.
    found += [
        _case("items of a stream that is no object", "[1, 2]", path="/split"),
        _case("items of a stream that breaks off", '{"lines": [1, 2', path="/split"),
        _case(
            "an item of a stream that is too deep",
            '{"lines": [' + "[" * 1_000 + "]" * 1_000 + "]}",
            400,
            413,
            path="/split",
        ),
        _case("a stream within 100,000 brackets", "[" * 100_000, 400, 413, path="/split"),
        _case("a stream with its key twice", '{"lines": [1], "lines": [2]}', path="/split"),
        _case(
            "an item of a stream with a key twice", '{"lines": [{"a": 1, "a": 2}]}', path="/split"
        ),
    ]
    event = '{"specversion": "1.0", "id": "1", "source": "s", "type": "t"%s}'
    found += [
        _case(
            f"an event with {name}",
            event % more,
            path="/event",
            kind="application/cloudevents+json",
        )
        for name, more in {
            "a key twice": ', "id": "2"',
            "two datas": ', "data": 1, "data_base64": "eA=="',
            "data that is no base64": ', "data_base64": "!!!"',
            "an attribute in capitals": ', "ID": "2"',
            "an object as attribute": ', "ext": {}',
            "a time that is none": ', "time": "yesterday"',
            "a line break in an attribute": r', "ext": "a\r\nb"',
            "an empty subject": ', "subject": ""',
        }.items()
    ]
    return found
