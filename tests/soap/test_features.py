"""Each construct of XML Schema: data and XML side by side, as docs/soap-json.md maps them.

The XML is written by hand from XML Schema part 1 and 2, never taken from the codec.
"""

from __future__ import annotations

import functools
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.wsdl import FEATURES, Feature, canonical, element, exact, feature_of
from support.wsdl import feature as load_feature

from esb.errors import BadMessage

feature = functools.cache(load_feature)

D = Decimal
BIG = 12345678901234567890123456789

SAME: list[tuple[str, Any, str]] = [
    # --- attributes
    ("attributes", {"@id": 1, "@schema": 7}, '<it id="1" schema="7"/>'),
    (
        "attributes",
        {
            "@id": 1,
            "@unit": "kg",
            "@version": "2.0",
            "@schema": 7,
            "@lang": "de-AT",
            "@by": "\n<\"'&>\t",
            "@at": "2026-11-24T09:30:00Z",
            "name": "Åse",
        },
        '<it id="1" unit="kg" version="2.0" schema="7" t:lang="de-AT" '
        'by="&#10;&lt;&quot;\'&amp;&gt;&#9;" at="2026-11-24T09:30:00Z"><name>Åse</name></it>',
    ),
    # --- simple content
    (
        "simple-content",
        {
            "price": {"@cur": "EUR", "#text": D("10.50")},
            "weight": {"@unit": "kg", "#text": D("99.9")},
            "plain": 5,
        },
        '<it><price cur="EUR">10.50</price><weight unit="kg">99.9</weight><plain>5</plain></it>',
    ),
    ("simple-content", {"price": {"#text": D("1")}}, "<it><price>1</price></it>"),
    # --- arrays
    (
        "arrays",
        {"some": ["a"], "few": [True, False]},
        "<it><some>a</some><few>true</few><few>false</few></it>",
    ),
    (
        "arrays",
        {"any": [1, 2, 3], "some": ["a", ""], "few": [True, False, True], "one": 4},
        "<it><any>1</any><any>2</any><any>3</any><some>a</some><some></some>"
        "<few>true</few><few>false</few><few>true</few><one>4</one></it>",
    ),
    # --- nillable
    (
        "nillable",
        {"must": None, "many": [None, "2026-11-24", None]},
        '<it><must xsi:nil="true"/><many xsi:nil="true"/><many>2026-11-24</many>'
        '<many xsi:nil="true"/></it>',
    ),
    (
        "nillable",
        {"must": 1, "may": "", "object": {"@why": "no", "@xsi:nil": True}},
        '<it><must>1</must><may></may><object xsi:nil="true" why="no"/></it>',
    ),
    (
        "nillable",
        {"must": 1, "may": None, "object": None},
        '<it><must>1</must><may xsi:nil="true"/><object xsi:nil="true"/></it>',
    ),
    (
        "nillable",
        {"must": 1, "object": {"@why": "yes", "a": 2}},
        '<it><must>1</must><object why="yes"><a>2</a></object></it>',
    ),
    # --- defaults and fixed values
    ("defaults", {}, "<it/>"),
    (
        "defaults",
        {"count": 1, "unit": "g", "version": D("2.0")},
        "<it><count>1</count><unit>g</unit><version>2.0</version></it>",
    ),
    # --- numbers
    ("numbers", {"decimal": D("0.10")}, "<it><decimal>0.10</decimal></it>"),
    (
        "numbers",
        {"decimal": D("-12345678901234567890.123456789012345678901234567890")},
        "<it><decimal>-12345678901234567890.123456789012345678901234567890</decimal></it>",
    ),
    ("numbers", {"integer": -BIG}, f"<it><integer>-{BIG}</integer></it>"),
    ("numbers", {"long": 2**63 - 1}, "<it><long>9223372036854775807</long></it>"),
    ("numbers", {"long": -(2**63)}, "<it><long>-9223372036854775808</long></it>"),
    (
        "numbers",
        {"unsignedLong": 2**64 - 1},
        "<it><unsignedLong>18446744073709551615</unsignedLong></it>",
    ),
    (
        "numbers",
        {"int": -(2**31), "short": 32767, "byte": -128, "unsignedInt": 2**32 - 1},
        "<it><int>-2147483648</int><short>32767</short><byte>-128</byte>"
        "<unsignedInt>4294967295</unsignedInt></it>",
    ),
    (
        "numbers",
        {"positive": 1, "negative": -1, "nonPositive": 0, "nonNegative": 0},
        "<it><positive>1</positive><negative>-1</negative><nonPositive>0</nonPositive>"
        "<nonNegative>0</nonNegative></it>",
    ),
    ("numbers", {"float": "INF",
     "double": "-INF"}, "<it><float>INF</float><double>-INF</double></it>"),
    ("numbers", {"float": "NaN", "double": 0.5}, "<it><float>NaN</float><double>0.5</double></it>"),
    ("numbers", {"boolean": False}, "<it><boolean>false</boolean></it>"),
    # --- dates
    (
        "dates",
        {
            "dateTime": "2026-11-24T24:00:00",
            "date": "-0044-03-15",
            "time": "09:30:00.123456789+14:00",
            "duration": "-P1Y2M3DT4H5M6.7S",
            "gYearMonth": "2026-11Z",
            "gYear": "12026",
            "gMonthDay": "--02-29",
            "gDay": "---31",
            "gMonth": "--11-08:00",
        },
        "<it><dateTime>2026-11-24T24:00:00</dateTime><date>-0044-03-15</date>"
        "<time>09:30:00.123456789+14:00</time><duration>-P1Y2M3DT4H5M6.7S</duration>"
        "<gYearMonth>2026-11Z</gYearMonth><gYear>12026</gYear><gMonthDay>--02-29</gMonthDay>"
        "<gDay>---31</gDay><gMonth>--11-08:00</gMonth></it>",
    ),
    # --- texts
    (
        "texts",
        {"string": " a\n\tb  ", "normalized": " a  b ", "token": "a b", "language": "de"},
        "<it><string> a\n\tb  </string><normalized> a  b </normalized><token>a b</token>"
        "<language>de</language></it>",
    ),
    ("texts", {"string": "a\rb]]>"}, "<it><string>a&#13;b]]&gt;</string></it>"),
    (
        "texts",
        {"name": "a:b", "ncname": "_é.1", "nmtoken": "1-a", "uri": "http://e.x/ä?b=c d"},
        "<it><name>a:b</name><ncname>_é.1</ncname><nmtoken>1-a</nmtoken>"
        "<uri>http://e.x/ä?b=c d</uri></it>",
    ),
    (
        "texts",
        {"uri": "", "base64": "AAEC/w==", "hex": "CAFE"},
        "<it><uri></uri><base64>AAEC/w==</base64><hex>CAFE</hex></it>",
    ),
    ("texts", {"qname": "{urn:q}a"}, '<it><qname xmlns:q="urn:q">q:a</qname></it>'),
    ("texts", {"qname": "{urn:t}a"}, "<it><qname>t:a</qname></it>"),
    # --- lists and unions
    (
        "lists-unions",
        {"@days": ["---01", "---31"], "sizes": [1, -2], "words": ["a", "b"], "size": 5},
        '<it days="---01 ---31"><sizes>1 -2</sizes><words>a b</words><size>5</size></it>',
    ),
    (
        "lists-unions",
        {"sizes": [], "size": "small", "marks": [1, "large"]},
        "<it><sizes></sizes><size>small</size><marks>1 large</marks></it>",
    ),
    # --- facets
    (
        "facets",
        {"color": "red", "level": 3, "code": "ABCD", "zip": "A1", "percent": 100,
         "open": D("0.5"), "price": D("123.45"), "key": "CAFE", "since": "2000-01-01",
         "line": "a b"},
        "<it><color>red</color><level>3</level><code>ABCD</code><zip>A1</zip>"
        "<percent>100</percent><open>0.5</open><price>123.45</price><key>CAFE</key>"
        "<since>2000-01-01</since><line>a b</line></it>",
    ),
    # --- choice
    ("choice", {"email": "a@b"}, "<it><email>a@b</email></it>"),
    (
        "choice",
        {"street": "x", "city": "y", "mark": 1},
        "<it><street>x</street><city>y</city><mark>1</mark></it>",
    ),
    ("choice", {"phone": ["1", "2"], "note": "n"},
     "<it><phone>1</phone><phone>2</phone><note>n</note></it>"),
    (
        "repeating-choice",
        {
            "title": "t",
            "$choice": [{"line": "a"}, {"break": {}}, {"line": "b"}, {"key": "k", "value": 1}],
            "$choice2": [{"sealed": "s"}, {"signed": "s"}],
        },
        "<it><title>t</title><line>a</line><break/><line>b</line><key>k</key><value>1</value>"
        "<sealed>s</sealed><signed>s</signed></it>",
    ),
    (
        "repeating-choice",
        {"title": "t", "$choice2": [{"signed": "s"}]},
        "<it><title>t</title><signed>s</signed></it>",
    ),
    # --- sequences that repeat
    (
        "repeating-sequence",
        {
            "$sequence": [
                {"key": "a", "value": 1},
                {"key": "b", "$sequence": [{"from": 1, "to": 2}, {"from": 3, "to": 4}]},
                {"key": "c"},
            ],
            "end": 9,
        },
        "<it><key>a</key><value>1</value><key>b</key><from>1</from><to>2</to><from>3</from>"
        "<to>4</to><key>c</key><end>9</end></it>",
    ),
    ("repeating-sequence", {}, "<it/>"),
    # --- groups
    ("groups", {"a": 1}, "<it><a>1</a></it>"),
    ("groups", {"a": 1, "b": 2, "c": 3}, "<it><a>1</a><b>2</b><c>3</c></it>"),
    (
        "groups",
        {"a": 1, "b": 2, "d": 3, "e": 4, "x": 5, "z": 6},
        "<it><a>1</a><b>2</b><d>3</d><e>4</e><x>5</x><z>6</z></it>",
    ),
    # --- all
    ("all", {"a": 1, "b": "x", "c": True}, "<it><a>1</a><b>x</b><c>true</c></it>"),
    # --- wildcards
    (
        "wildcards",
        {"a": 1, "$any": [{"{urn:v}x": "text"}, {"{urn:v}y": {"@b": "1", "#text": "t"}},
                          {"{urn:v}z": {"$any": [{"inner": ""}, {"{urn:t}known": 5}]}}]},
        '<it><a>1</a><v:x xmlns:v="urn:v">text</v:x><y xmlns="urn:v" b="1">t</y>'
        '<v:z xmlns:v="urn:v"><inner xmlns=""/><known>5</known></v:z></it>',
    ),
    (
        "wildcards",
        {"a": 1, "own": {"$any": [{"{urn:t}known": 5}, {"{urn:t}known": 6}]},
         "listed": {"$any": [{"local": "x"}]}},
        '<it><a>1</a><own><known>5</known><known>6</known></own>'
        '<listed><local xmlns="">x</local></listed></it>',
    ),
    (
        "wildcards",
        {"a": 1, "listed": {"$any": [{"{urn:u}e": {"$any": [{"{urn:t}known": "no number"}]}}]}},
        "<it><a>1</a><listed><u:e><known>no number</known></u:e></listed></it>",
    ),
    ("wild-attributes", {"@id": 1, "@{urn:u}x": "y"}, '<it id="1" u:x="y"/>'),
    (
        "wild-attributes",
        {"@{http://www.w3.org/XML/1998/namespace}lang": "de"},
        '<it xml:lang="de"/>',
    ),
    # --- any type
    (
        "any-type",
        {
            "any": [
                "text",
                None,
                {"@type": "xs:int", "#text": 5},
                {"@type": "xs:decimal", "#text": D("1.50")},
                {"@type": "Point", "x": 1, "y": 2},
                {"@a": "b", "$any": [{"{urn:u}e": "x"}]},
                {"#mixed": ["say ", {"{urn:u}b": "it"}, " loud"]},
            ],
            "simple": {"@type": "xs:date", "#text": "2026-11-24"},
        },
        '<it><any>text</any><any xsi:nil="true"/><any xsi:type="xs:int">5</any>'
        '<any xsi:type="xs:decimal">1.50</any><any xsi:type="t:Point"><x>1</x><y>2</y></any>'
        '<any a="b"><u:e>x</u:e></any><any>say <u:b>it</u:b> loud</any>'
        '<simple xsi:type="xs:date">2026-11-24</simple></it>',
    ),
    ("any-type", {"some": {"@type": "{http://www.w3.org/2001/XMLSchema}anyType", "@a": "b"}},
     '<it><some xsi:type="xs:anyType" a="b"/></it>'),
    ("any-type", {"some": {"@xsi:type": None, "@type": "x", "#text": "y"}},
     '<it><some type="x">y</some></it>'),
    ("any-type", {"simple": "text"}, "<it><simple>text</simple></it>"),
    # --- extension, restriction, abstract types
    ("extension", {"who": [{"name": "a"}]}, "<it><who><name>a</name></who></it>"),
    (
        "extension",
        {
            "who": [
                {"@id": 1, "name": "a"},
                {"@type": "Employee", "name": "b", "salary": D("1.5")},
                {"@type": "Manager", "@id": 2, "@level": 3, "name": "c", "team": ["x", "y"]},
            ],
            "chief": {"@type": "Manager", "@level": 9, "name": "d", "team": ["z"]},
        },
        '<it><who id="1"><name>a</name></who>'
        '<who xsi:type="t:Employee"><name>b</name><salary>1.5</salary></who>'
        '<who xsi:type="t:Manager" id="2" level="3"><name>c</name><team>x</team><team>y</team>'
        '</who><chief xsi:type="t:Manager" level="9"><name>d</name><team>z</team></chief></it>',
    ),
    (
        "restriction",
        {
            "free": {"@checked": True, "street": ["a", "b"], "country": "AT"},
            "local": {"@kind": "home", "street": "c"},
        },
        '<it><free checked="true"><street>a</street><street>b</street><country>AT</country></free>'
        '<local kind="home"><street>c</street></local></it>',
    ),
    (
        "restriction",
        {"free": {"@type": "LocalAddress", "@kind": "home", "street": "c"}},
        '<it><free xsi:type="t:LocalAddress" kind="home"><street>c</street></free></it>',
    ),
    (
        "abstract-type",
        {"shape": [{"@type": "Square", "side": 2.0}, {"@type": "Circle", "label": "o", "r": 1.5}]},
        '<it><shape xsi:type="t:Square"><side>2.0</side></shape>'
        '<shape xsi:type="t:Circle"><label>o</label><r>1.5</r></shape></it>',
    ),
    (
        "type-attribute",
        {"pay": [{"@type": "cash", "sum": 1},
                 {"@xsi:type": "Card", "@type": "credit", "sum": 2, "number": "3"}]},
        '<it><pay type="cash"><sum>1</sum></pay>'
        '<pay xsi:type="t:Card" type="credit"><sum>2</sum><number>3</number></pay></it>',
    ),
    # --- substitution
    ("substitution", {"comment": {"comment": "c"}}, "<it><comment>c</comment></it>"),
    (
        "substitution",
        {
            "comment": {"remark": "r"},
            "vehicle": [{"bike": {"wheels": 2}}, {"car": {"wheels": 4, "doors": 5}},
                        {"ebike": {"wheels": 2}}],
        },
        "<it><remark>r</remark><bike><wheels>2</wheels></bike>"
        "<car><wheels>4</wheels><doors>5</doors></car><ebike><wheels>2</wheels></ebike></it>",
    ),
    # --- mixed content
    ("mixed", {}, "<it/>"),
    (
        "mixed",
        {"@lang": "de", "#mixed": ["a ", {"b": "bold"}, {"link": {"@to": "/",
     "#text": "l"}}, "\n"]},
        '<it lang="de">a <b>bold</b><link to="/">l</link>\n</it>',
    ),
    # --- recursion
    (
        "recursion",
        {"name": "/", "folder": [{"name": "a", "folder": [{"name": "b"}]}, {"name": "c"}],
         "link": {"to": {"name": "d"}}},
        "<it><name>/</name><folder><name>a</name><folder><name>b</name></folder></folder>"
        "<folder><name>c</name></folder><link><to><name>d</name></to></link></it>",
    ),
    # --- namespaces
    (
        "namespaces",
        {
            "@id": 1, "@id_u": "x", "id": 2, "id_u": "y", "plain": 3,
            "mine": {"a": 4}, "theirs": {"b": 5, "c": 6},
        },
        '<it id="1" u:id="x"><id>2</id><u:id>y</u:id><plain xmlns="">3</plain>'
        '<mine><a>4</a></mine><theirs><b xmlns="">5</b><u:c>6</u:c></theirs></it>',
    ),
    (
        "no-namespace",
        {"thing": {"@n": 1, "a": 2}},
        '<it><thing xmlns="" n="1"><a>2</a></thing></it>',
    ),
    (
        "same-name",
        {"@value": "v", "value": 1, "unit": "kg", "value_2": 2},
        '<it value="v"><value>1</value><unit>kg</unit><value>2</value></it>',
    ),
    ("same-name", {"value": 1, "unit": "kg"}, "<it><value>1</value><unit>kg</unit></it>"),
    # --- what is left
    (
        "identity",
        {"row": [{"@id": 1}, {"@id": 2, "@parent": 1}]},
        '<it><row id="1"/><row id="2" parent="1"/></it>',
    ),
    ("empty", {"flag": {}, "hollow": {"@n": 1}}, '<it><flag/><hollow n="1"/></it>'),
    ("empty", {}, "<it/>"),
]  # fmt: skip
"""Data and XML that are one the other, both ways."""


READ: list[tuple[str, str, Any]] = [
    # Other spellings of the same values, and what an empty element means.
    ("attributes", '<it schema=" 7 " id="+01"/>', {"@id": 1, "@schema": 7}),
    ("defaults", "<it><count/><unit></unit><version/></it>",
     {"count": 1, "unit": "kg", "version": D("2.0")}),
    ("defaults", "<it><version>2.00</version></it>", {"version": D("2.00")}),
    ("numbers", "<it><decimal> +.5 </decimal></it>", {"decimal": D("0.5")}),
    ("numbers", "<it><decimal>-7.</decimal></it>", {"decimal": D("-7")}),
    ("numbers", "<it><integer>-0</integer></it>", {"integer": 0}),
    ("numbers", "<it><int>\n 007 \t</int></it>", {"int": 7}),
    ("numbers", "<it><double>1e3</double></it>", {"double": 1000.0}),
    ("numbers", "<it><double>1E400</double></it>", {"double": "INF"}),
    ("numbers", "<it><boolean> 1 </boolean></it>", {"boolean": True}),
    ("numbers", "<it><boolean>0</boolean></it>", {"boolean": False}),
    ("texts", "<it><normalized>a\n\tb</normalized><token>  a \n b </token></it>",
     {"normalized": "a  b", "token": "a b"}),
    ("texts", "<it><base64> AAEC\n /w== </base64><hex>cafe</hex></it>",
     {"base64": "AAEC/w==", "hex": "CAFE"}),
    ("texts", "<it><string>a<!-- not seen -->b<![CDATA[<c>]]></string></it>", {"string": "ab<c>"}),
    ("texts", '<it><qname xmlns:q="urn:q">q:a</qname></it>', {"qname": "{urn:q}a"}),
    ("texts", "<it><qname>a</qname></it>", {"qname": "{urn:t}a"}),
    ("texts", '<it><t:qname xmlns="">a</t:qname></it>', {"qname": "a"}),
    ("lists-unions", "<it><sizes> 1\n  2 </sizes><size> small </size></it>",
     {"sizes": [1, 2], "size": "small"}),
    ("facets", "<it><line>  a \n b </line><level> 03 </level></it>", {"line": "a b", "level": 3}),
    ("all", "<it><c>true</c><a>1</a></it>", {"a": 1, "c": True}),
    ("extension", '<it><who xsi:type="t:Person"><name>a</name></who></it>',
     {"who": [{"name": "a"}]}),
    ("nillable", '<it><must xsi:nil="false">1</must></it>', {"must": 1}),
    ("mixed", "<it>a<?x y?><!-- c -->b</it>", {"#mixed": ["ab"]}),
    ("arrays",
     "<it>\n  <some>a</some>\n  <!-- x -->\n  <few>1</few><few>0</few>\n</it>",
     {"some": ["a"], "few": [True, False]}),
    ("empty", '<it xsi:schemaLocation="urn:t t.xsd"><flag/></it>', {"flag": {}}),
]  # fmt: skip
"""XML that is no more than another spelling of the data."""

WRITTEN: list[tuple[str, Any, str]] = [
    # Numbers as text, for callers whose JSON has but doubles; whole numbers written with a point.
    ("numbers", {"decimal": "1.10", "long": "9223372036854775807"},
     "<it><decimal>1.10</decimal><long>9223372036854775807</long></it>"),
    ("numbers", {"decimal": 5, "int": D("7.00"), "double": 3},
     "<it><decimal>5</decimal><int>7</int><double>3</double></it>"),
    ("numbers", {"decimal": D("1E+3"), "double": D("1E-7")},
     "<it><decimal>1000</decimal><double>1E-7</double></it>"),
    ("numbers", {"decimal": 0.1}, "<it><decimal>0.1</decimal></it>"),
    # Fixed attributes that must be there are written whether or not they are given.
    ("attributes", {"@id": 1}, '<it id="1" schema="7"/>'),
    # Keys in any order: the schema has its own.
    ("namespaces",
     {"theirs": {"c": 6, "b": 5}, "mine": {"a": 4}, "plain": 3, "id_u": "y", "id": 2},
     '<it><id>2</id><u:id>y</u:id><plain xmlns="">3</plain><mine><a>4</a></mine>'
     '<theirs><b xmlns="">5</b><u:c>6</u:c></theirs></it>'),
    # No item is no element.
    ("arrays", {"any": [], "some": ["a"], "few": [True, True]},
     "<it><some>a</some><few>true</few><few>true</few></it>"),
    ("repeating-choice", {"title": "t", "$choice": [], "$choice2": [{"signed": ""}]},
     "<it><title>t</title><signed/></it>"),
    # What has no type says one.
    ("any-type", {"any": [5, True, D("1.5"), 2**40, 0.5]},
     '<it><any xsi:type="xs:int">5</any><any xsi:type="xs:boolean">true</any>'
     '<any xsi:type="xs:decimal">1.5</any><any xsi:type="xs:long">1099511627776</any>'
     '<any xsi:type="xs:double">0.5</any></it>'),
    ("extension", {"who": [{"@type": "Person",
     "name": "a"}]}, "<it><who><name>a</name></who></it>"),
    ("nillable", {"must": None, "object": {"@xsi:nil": True}},
     '<it><must xsi:nil="true"/><object xsi:nil="true"/></it>'),
    ("texts", {"base64": "AA EC\n/w==", "hex": "cafe"},
     "<it><base64>AAEC/w==</base64><hex>CAFE</hex></it>"),
]  # fmt: skip
"""Data that is another spelling of what the XML means."""

NOT_DATA: list[tuple[str, Any, str, str]] = [
    ("attributes", {}, "/@id", "is missing"),
    ("attributes", {"@id": "x"}, "/@id", "must be a whole number, not the string 'x'"),
    ("attributes", {"@id": 1, "@version": "3"}, "/@version", "must be '2.0'"),
    ("attributes", {"@id": 1, "@nit": "g"}, "/@nit", "is not known: did you mean '@unit'?"),
    ("attributes", {"@id": None}, "/@id", "must be a whole number, not null"),
    ("attributes", [], "", "must be an object, not an array"),
    ("attributes", None, "", "must not be null; leave it out if there is no value"),
    ("simple-content", {"price": {}}, "/price/#text", "is missing"),
    ("simple-content", {"price": D(1)}, "/price", "must be an object, not the number 1"),
    ("simple-content", {"price": {"#text": D(1)}, "weight": {"@unit": "", "#text": D(101)}},
     "/weight/#text", "must not be greater than 100"),
    ("arrays", {"some": [], "few": [True, False]}, "/some", "must have at least 1 item, not 0"),
    ("arrays", {"some": "a", "few": [True, False]}, "/some",
     "must be an array, not the string 'a'"),
    ("arrays", {"some": ["a"], "few": [True]}, "/few", "must have at least 2 items, not 1"),
    ("arrays", {"some": ["a"], "few": [True] * 4}, "/few", "must have at most 3 items, not 4"),
    ("arrays", {"some": ["a"], "few": [True, 0]}, "/few/1",
     "must be true or false, not the number 0"),
    ("arrays", {"some": ["a"], "few": [True] * 2, "one": [1]}, "/one",
     "must be a whole number, not an array"),
    ("arrays", {"some": ["a"], "few": [True] * 2, "never": 1}, "/never", "is not known"),
    ("nillable", {}, "/must", "is missing"),
    ("nillable", {"must": 1, "full": None}, "/full",
     "must not be null; leave it out if there is no value"),
    ("nillable", {"must": 1, "object": {"@xsi:nil": True, "a": 1}}, "/object/a", "is not known"),
    ("defaults", {"version": D("2.1")}, "/version", "must be '2.0'"),
    ("numbers", {"int": 2**31}, "/int", "must not be greater than 2147483647"),
    ("numbers", {"long": 2**63}, "/long", "must not be greater than 9223372036854775807"),
    ("numbers", {"byte": -129}, "/byte", "must not be less than -128"),
    ("numbers", {"negative": 0}, "/negative", "must not be greater than -1"),
    ("numbers", {"int": D("1.5")}, "/int", "must be a whole number, not the number 1.5"),
    ("numbers", {"int": True}, "/int", "must be a whole number, not true"),
    ("numbers", {"decimal": "1e3"}, "/decimal", "must be a decimal number, not the string '1e3'"),
    ("numbers", {"double": "inf"}, "/double",
     "must be a number, 'INF', '-INF' or 'NaN', not the string 'inf'"),
    ("numbers", {"boolean": "true"}, "/boolean",
     "must be true or false, not the string 'true'"),
    ("dates", {"date": "24.11.2026"}, "/date",
     "must be a date such as 2026-11-24, not '24.11.2026'"),
    ("texts", {"hex": "F"}, "/hex", "must be hexadecimal, two digits for each byte"),
    ("texts", {"string": 5}, "/string", "must be a string, not the number 5"),
    ("lists-unions", {"sizes": "1 2"}, "/sizes", "must be an array, not the string '1 2'"),
    ("lists-unions", {"sizes": [1, "x"]}, "/sizes/1", "must be a whole number, not the string 'x'"),
    ("lists-unions", {"@days": []}, "/@days", "must have a length of at least 1, not 0"),
    ("lists-unions", {"size": "huge"}, "/size", "is none of int, token"),
    ("facets", {"color": "blue"}, "/color", "must be one of red, green; not 'blue'"),
    ("facets", {"level": 2}, "/level", "must be one of 1, 3; not '2'"),
    ("facets", {"code": "A"}, "/code", "must have a length of at least 2, not 1"),
    ("facets", {"code": "Ab"}, "/code", "does not have the form it must have: 'Ab'"),
    ("facets", {"zip": "O1"}, "/zip", "does not have the form it must have: 'O1'"),
    ("facets", {"percent": 101}, "/percent", "must not be greater than 100"),
    ("facets", {"open": 0}, "/open", "must be greater than 0"),
    ("facets", {"key": "CA"}, "/key", "must have a length of 2, not 1"),
    ("choice", {}, "", "needs one of 'email', 'street', 'city', 'floor', 'phone'"),
    ("choice", {"email": "", "phone": [""]}, "/phone", "cannot be given beside the others"),
    ("choice", {"street": "x"}, "/city", "is missing"),
    ("choice", {"email": "", "note": "", "mark": 1}, "/mark", "cannot be given beside the others"),
    ("repeating-choice", {"title": "", "$choice2": []}, "/$choice2",
     "must have at least 1 item, not 0"),
    ("repeating-choice", {"title": "", "$choice2": [{}]}, "/$choice2/0",
     "needs one of 'signed', 'sealed'"),
    ("repeating-choice", {"title": "", "$choice": [{"lime": ""}], "$choice2": [{"signed": ""}]},
     "/$choice/0", "needs one of 'line', 'break', 'key', 'value'"),
    ("repeating-choice", {"title": "", "$choice": {"line": ""}, "$choice2": [{"signed": ""}]},
     "/$choice", "must be an array, not an object"),
    ("repeating-sequence", {"$sequence": [{"value": 1}]}, "/$sequence/0/key", "is missing"),
    ("groups", {"a": 1, "b": 2}, "", "needs one of 'c', 'd', 'e'"),
    ("groups", {"a": 1, "c": 2}, "/b", "is missing"),
    ("groups", {"a": 1, "x": 2}, "", "needs one of 'y', 'z'"),
    ("all", {"a": 1}, "/c", "is missing"),
    ("wildcards", {"a": 1, "$any": [{"{urn:t}x": ""}]}, "/$any/0",
     "'{urn:t}x' must not stand here"),
    ("wildcards", {"a": 1, "$any": [{"{urn:v}x": "", "{urn:v}y": ""}]}, "/$any/0",
     "must be an object with one key, the element's name"),
    ("wild-attributes", {"@x": "y"}, "/@x", "is not known"),
    ("wild-attributes", {"@{urn:u}x": 5}, "/@{urn:u}x", "must be a string"),
    ("any-type", {"some": None}, "/some", "must not be null; leave it out if there is no value"),
    ("any-type", {"some": [1]}, "/some", "must not be an array where any type may stand"),
    ("any-type", {"simple": {"@a": "b"}}, "/simple",
     "must be text or a number, or an object of @type and #text"),
    ("extension", {"who": [{"@type": "Employe", "name": ""}]}, "/who/0/@type",
     "must be one of 'Person', 'Employee', 'Manager': did you mean 'Employee'?"),
    ("extension", {"who": [{"name": "", "salary": 1}]}, "/who/0/salary", "is not known"),
    ("extension", {"who": [{"@type": "Manager", "name": "", "team": ["x"]}]}, "/who/0/@level",
     "is missing"),
    ("extension", {"who": [{"name": ""}], "chief": {"@type": "Person", "name": ""}},
     "/chief/@type", "must be one of 'Employee', 'Manager'"),
    ("restriction", {"free": {"street": ["a"]}, "local": {"@kind": "", "street": ["a"]}},
     "/local/street", "must be a string, not an array"),
    ("restriction", {"free": {"street": ["a"]},
                     "local": {"@kind": "", "@checked": True, "street": "a"}},
     "/local/@checked", "is not known"),
    ("abstract-type", {"shape": [{"label": ""}]}, "/shape/0/@type",
     "is missing; it is one of 'Circle', 'Square'"),
    ("abstract-type", {"shape": [{"@type": "Shape"}]}, "/shape/0/@type",
     "must be one of 'Circle', 'Square'"),
    ("type-attribute", {"pay": [{"@xsi:type": "Cart", "sum": 1, "number": ""}]},
     "/pay/0/@xsi:type", "must be one of 'Payment', 'Card': did you mean 'Card'?"),
    ("substitution", {"comment": "c"}, "/comment",
     "must be an object with one of 'comment', 'remark'"),
    ("substitution", {"comment": {"comment": ""}, "vehicle": [{"vehicle": {"wheels": 1}}]},
     "/vehicle/0", "must be an object with one of 'car', 'bike', 'ebike'"),
    ("substitution", {"comment": {"comment": ""}, "vehicle": [{"car": {"wheels": 1}}]},
     "/vehicle/0/car/doors", "is missing"),
    ("mixed", {"#mixed": "text"}, "/#mixed",
     "must be an array of strings and objects with one key"),
    ("mixed", {"#mixed": [5]}, "/#mixed/0", "must be a string or an object with one key"),
    ("mixed", {"#mixed": [{"c": ""}]}, "/#mixed/0/c", "is not known"),
    ("recursion", {"name": "", "folder": [{"name": "", "folder": [{}]}]},
     "/folder/0/folder/0/name", "is missing"),
    ("namespaces", {"id": 1, "plain": 1, "mine": {"a": 1}, "theirs": {"b": 1, "c": 1}}, "/id_u",
     "is missing"),
    ("same-name", {"value": 1, "unit": "", "value_2": "x"}, "/value_2",
     "must be a whole number, not the string 'x'"),
    ("no-namespace", {"thing": {"a": "x"}}, "/thing/a",
     "must be a whole number, not the string 'x'"),
    ("empty", {"flag": ""}, "/flag", "must be an object, not the string ''"),
    ("empty", {"flag": {"a": 1}}, "/flag/a", "is not known"),
]  # fmt: skip
"""Data that do not fit: where, and what is said. The JSON Schema refuses them as well."""

BEYOND_JSON_SCHEMA: list[tuple[str, Any, str, str]] = [
    ("wildcards", {"a": 1, "own": {"$any": [{"{urn:t}known": "x"}]}},
     "/own/$any/0/{urn:t}known", "must be a whole number, not the string 'x'"),
    ("attributes", {"@id": 1, "@unit": "\ud800"}, "/@unit",
     "has a character that XML does not allow"),
    ("attributes", {"@id": 1, "name": "\x07"}, "/name", "has a character that XML does not allow"),
    ("attributes", {"@id": 1, "@at": "2026-13-01T00:00:00Z"}, "/@at",
     "is no day of the calendar: '2026-13-01T00:00:00Z'"),
    ("numbers", {"decimal": D("NaN")}, "/decimal", "must be a decimal number, not the number NaN"),
    ("dates", {"date": "2026-02-29"}, "/date", "is no day of the calendar: '2026-02-29'"),
    ("dates", {"gMonthDay": "--02-30"}, "/gMonthDay",
     "must be a gMonthDay such as --11-24, not '--02-30'"),
    ("dates", {"dateTime": "2026-11-24T25:00:00"}, "/dateTime",
     "must be a dateTime such as 2026-11-24T09:30:00Z, not '2026-11-24T25:00:00'"),
    ("dates", {"duration": "P"}, "/duration", "must be a duration such as P1DT12H, not 'P'"),
    ("dates", {"time": "09:30:00+15:00"}, "/time",
     "must be a time such as 09:30:00, not '09:30:00+15:00'"),
    ("texts", {"base64": "AAEC/w="}, "/base64", "must be base64"),
    ("texts", {"ncname": "a:b"}, "/ncname", "must be a NCName, not 'a:b'"),
    ("texts", {"qname": "{urn:q}a b"}, "/qname",
     "must be a qualified name ('{namespace}name'), not '{urn:q}a b'"),
    ("lists-unions", {"words": ["a b"]}, "/words/0", "must be a NMTOKEN, not 'a b'"),
    ("facets", {"price": D("123.456")}, "/price", "must have at most 2 decimal places"),
    ("facets", {"price": D("1234.56")}, "/price", "must have at most 5 digits"),
    ("facets", {"since": "1999-12-31"}, "/since", "must not be less than 2000-01-01"),
    ("wildcards", {"a": 1, "$any": [{"{urn:v}x y": ""}]}, "/$any/0", "'x y' is no name of XML"),
    ("any-type", {"any": [{"@type": "Poimt", "x": 1}]}, "/any/0",
     "@type names the type 'Poimt', which is not known: did you mean 'Point'?"),
]  # fmt: skip
"""Data that do not fit in ways that JSON Schema has no words for."""

NOT_XML: list[tuple[str, str, str, str]] = [
    ("attributes", '<it schema="7"/>', "/@id", "is missing"),
    ("attributes", '<it id="x" schema="7"/>', "", "must be a whole number, not 'x'"),
    ("attributes", '<it id="1" schema="8"/>', "", "must be '7'"),
    ("attributes", '<it id="1" schema="7" nit="g"/>', "",
     "has the attribute 'nit', which is not known"),
    ("attributes", "<other/>", "", "is '{urn:t}other' and not '{urn:t}it'"),
    ("arrays", "<it><some>a</some><few>1</few></it>", "/few", "must have at least 2 items"),
    ("arrays", "<it><few>1</few><few>1</few></it>", "/some",
     "is missing; 'few' stands in its place"),
    ("arrays", "<it><u:some>a</u:some><few>1</few><few>1</few></it>", "/some",
     "is missing; 'some' of the namespace 'urn:u' stands in its place"),
    ("arrays", "<it><some xmlns=''>a</some><few>1</few><few>1</few></it>", "/some",
     "is missing; 'some' of no namespace stands in its place"),
    ("arrays", "<it><some>a</some><few>1</few><few>1</few><some>a</some></it>", "/some/1",
     "is out of place, or there are too many of it"),
    ("arrays", "<it><some>a</some><few>1</few><few>x</few></it>", "/few/1",
     "must be true or false, not 'x'"),
    ("nillable", '<it><must>1</must><full xsi:nil="true"/></it>', "/full", "must not be nil"),
    ("defaults", "<it><version>2.1</version></it>", "/version", "must be '2.0'"),
    ("numbers", "<it><int>2147483648</int></it>", "/int",
     "must not be greater than 2147483647"),
    ("numbers", "<it><int></int></it>", "/int", "must be a whole number, not ''"),
    ("numbers", "<it><int>1_000</int></it>", "/int", "must be a whole number, not '1_000'"),
    ("numbers", "<it><int>\u0661</int></it>", "/int", "must be a whole number, not '\u0661'"),
    ("numbers", "<it><int><x/></int></it>", "/int", "must be text, not an element 'x'"),
    ("numbers", "<it><double>inf</double></it>", "/double",
     "must be a number, INF, -INF or NaN, not 'inf'"),
    ("numbers", "<it><imt>1</imt></it>", "/imt", "is not known: did you mean 'int'?"),
    ("numbers", "<it><int>1</int><int>2</int></it>", "/int", "must be there only once"),
    ("numbers", "<it><u:int>1</u:int></it>", "/int",
     "is in the namespace 'urn:u', it must be 'urn:t'"),
    ("texts", "<it><qname>q:a</qname></it>", "/qname", "has the prefix 'q', which is not declared"),
    ("choice", "<it/>", "", "one of 'email', 'street', 'city', 'floor', 'phone' is missing"),
    ("choice", "<it><street>x</street></it>", "/city", "is missing"),
    ("choice", "<it><email>a</email><phone>1</phone></it>", "/phone/0",
     "is out of place, or there are too many of it"),
    ("repeating-choice",
     "<it><title>t</title><line>a</line><key>k</key><value>x</value><signed/></it>",
     "/$choice/1/value", "must be a whole number, not 'x'"),
    ("groups", "<it><a>1</a><b>2</b></it>", "", "one of 'c', 'd', 'e' is missing"),
    ("all", "<it><a>1</a></it>", "/c", "is missing"),
    ("wildcards", "<it><a>1</a><v:x xmlns:v='urn:v'><known>x</known></v:x></it>",
     "/$any/0/{urn:v}x/known", "must be a whole number, not 'x'"),
    ("wildcards", "<it><a>1</a><unknown/></it>", "/unknown", "is not known: did you mean 'own'?"),
    ("wild-attributes", '<it x="y"/>', "", "has the attribute 'x', which is not known"),
    ("any-type", '<it><simple><a/></simple></it>', "/simple", "must be text, not an element 'a'"),
    ("any-type", '<it><some xsi:nil="true"/></it>', "/some", "must not be nil"),
    ("any-type", '<it><simple xsi:type="t:Point"/></it>', "/simple",
     "has the type 't:Point', which cannot stand here"),
    ("extension", '<it><who xsi:type="t:Nobody"><name/></who></it>', "/who/0",
     "has the type 't:Nobody', which cannot stand here"),
    ("extension", '<it><who xsi:type="x:Y"><name/></who></it>', "/who/0",
     "has the type 'x:Y', whose prefix is not declared"),
    ("abstract-type", "<it><shape/></it>", "/shape/0", "must say by xsi:type which type it is"),
    ("substitution", "<it><comment/><vehicle><wheels>1</wheels></vehicle></it>", "/vehicle",
     "is not known"),
    ("mixed", "<it><c/></it>", "/c", "is not expected here"),
    ("recursion", "<it><name/><folder><name/><folder><name/><x/></folder></folder></it>",
     "/folder/0/folder/0/x", "is not known"),
    ("namespaces", "<it><id>1</id><id>2</id></it>", "/id_u",
     "is missing; 'id' stands in its place"),
    ("empty", "<it><flag>text</flag></it>", "/flag",
     "character content is not allowed, because the content type is empty"),
]  # fmt: skip
"""XML that does not fit: where it would be in the data, and what is said."""


def rows(table: list[Any]) -> list[Any]:
    """A table's rows, each named after its feature."""
    return [pytest.param(*row, id=f"{row[0]}-{n}") for n, row in enumerate(table, 1)]


@pytest.mark.parametrize(("name", "data", "xml"), rows(SAME))
def test_data_and_xml_are_one_the_other(name: str, data: Any, xml: str) -> None:
    it = feature(name)
    written = it.write(data)
    assert canonical(written) == canonical(element(xml))
    assert it.invalid(written) == []
    assert exact(it.read(xml)) == exact(data)
    assert it.refused_by_schema(data) == ""


@pytest.mark.parametrize(("name", "xml", "data"), rows(READ))
def test_other_spellings_are_read(name: str, xml: str, data: Any) -> None:
    assert exact(feature(name).read(xml)) == exact(data)


@pytest.mark.parametrize(("name", "data", "xml"), rows(WRITTEN))
def test_other_spellings_are_written(name: str, data: Any, xml: str) -> None:
    it = feature(name)
    written = it.write(data)
    assert canonical(written) == canonical(element(xml))
    assert it.invalid(written) == []
    assert it.refused_by_schema(data) == ""


def errors_of(refused: BadMessage) -> list[tuple[str, str]]:
    return [(error["pointer"], error["detail"]) for error in refused.errors]


@pytest.mark.parametrize(("name", "data", "pointer", "words"), rows(NOT_DATA))
def test_data_that_do_not_fit_are_refused(name: str, data: Any, pointer: str, words: str) -> None:
    it = feature(name)
    with pytest.raises(BadMessage) as refused:
        it.write(data)
    assert errors_of(refused.value)[0] == (pointer, words)
    assert it.refused_by_schema(data) != ""


@pytest.mark.parametrize(("name", "data", "pointer", "words"), rows(BEYOND_JSON_SCHEMA))
def test_data_are_refused_that_json_schema_takes(
    name: str, data: Any, pointer: str, words: str
) -> None:
    with pytest.raises(BadMessage) as refused:
        feature(name).write(data)
    assert errors_of(refused.value) == [(pointer, words)]


@pytest.mark.parametrize(("name", "xml", "pointer", "words"), rows(NOT_XML))
def test_xml_that_does_not_fit_is_refused(name: str, xml: str, pointer: str, words: str) -> None:
    it = feature(name)
    with pytest.raises(BadMessage) as refused:
        it.read(xml)
    assert errors_of(refused.value) == [(pointer, words)]


def test_every_error_is_told_at_once() -> None:
    with pytest.raises(BadMessage) as refused:
        feature("namespaces").write({"@id": "x", "id": 1.5, "extra": 1, "mine": {}})
    assert errors_of(refused.value) == [
        ("/@id", "must be a whole number, not the string 'x'"),
        ("/id", "must be a whole number, not the number 1.5"),
        ("/id_u", "is missing"),
        ("/plain", "is missing"),
        ("/mine/a", "is missing"),
        ("/theirs", "is missing"),
        ("/extra", "is not known"),
    ]
    assert str(refused.value) == (
        "the input of 'echo' does not fit at /@id: must be a whole number, not the string 'x' "
        "(and 6 more)"
    )


def test_types_may_be_named_in_full() -> None:
    who = [{"@type": "{urn:t}Person", "name": "a"}, {"@type": "{urn:t}Employee", "name": "b"}]
    assert canonical(feature("extension").write({"who": who})) == canonical(
        element('<it><who><name>a</name></who><who xsi:type="t:Employee"><name>b</name></who></it>')
    )


def test_keys_are_told_by_libxml2_where_json_schema_is_silent() -> None:
    with pytest.raises(BadMessage) as refused:
        feature("identity").read('<it><row id="1"/><row id="1"/></it>')
    [(pointer, words)] = errors_of(refused.value)
    assert pointer == "/row/1"
    assert "key" in words


def it_of(content: str, folder: Path, more: str = "") -> Feature:
    schema = f'<xs:element name="it"><xs:complexType>{content}</xs:complexType></xs:element>{more}'
    return feature_of(schema, folder)


def test_a_numbered_key_leaves_alone_an_element_of_that_name(tmp_path: Path) -> None:
    it = it_of(
        """
        <xs:sequence>
          <xs:element name="a" type="xs:int"/><xs:element name="b" type="xs:int"/>
          <xs:element name="a" type="xs:int"/><xs:element name="a_2" type="xs:int"/>
        </xs:sequence>
        """,
        tmp_path,
    )
    data = {"a": 1, "b": 2, "a_2": 3, "a_2_2": 4}
    xml = "<it><a>1</a><b>2</b><a>3</a><a_2>4</a_2></it>"
    assert it.read(xml) == data
    assert canonical(it.write(data)) == canonical(element(xml))


def test_an_optional_all_is_all_or_nothing(tmp_path: Path) -> None:
    it = it_of(
        """
        <xs:all minOccurs="0">
          <xs:element name="a" type="xs:int"/><xs:element name="b" type="xs:int" minOccurs="0"/>
        </xs:all>
        """,
        tmp_path,
    )
    assert it.read("<it/>") == {}
    assert it.read("<it><b>1</b><a>2</a></it>") == {"a": 2, "b": 1}
    for refused in ({"b": 1}, {"a": "x"}):
        assert it.refused_by_schema(refused) != ""
    with pytest.raises(BadMessage, match="is missing"):
        it.message.codec.read(it.element, element("<it><b>1</b></it>"), "it")
    with pytest.raises(BadMessage, match="is missing"):
        it.write({"b": 1})


def test_a_wild_attribute_type_is_not_taken_for_xsi_type(tmp_path: Path) -> None:
    it = it_of(
        """
        <xs:sequence><xs:element name="b" type="t:Base" maxOccurs="2"/></xs:sequence>
        """,
        tmp_path,
        """
        <xs:complexType name="Base"><xs:anyAttribute processContents="lax"/></xs:complexType>
        <xs:complexType name="More">
          <xs:complexContent>
            <xs:extension base="t:Base"><xs:attribute name="n" type="xs:int"/></xs:extension>
          </xs:complexContent>
        </xs:complexType>
        """,
    )
    data = {"b": [{"@type": "x"}, {"@xsi:type": "More", "@n": 1, "@type": "y"}]}
    xml = '<it><b type="x"/><b xsi:type="t:More" n="1" type="y"/></it>'
    assert it.read(xml) == data
    assert canonical(it.write(data)) == canonical(element(xml))
    assert it.refused_by_schema(data) == ""


def test_a_sequence_of_what_may_be_absent_repeats_as_a_choice(tmp_path: Path) -> None:
    it = it_of(
        """
        <xs:sequence minOccurs="0" maxOccurs="unbounded">
          <xs:element name="a" type="xs:int" minOccurs="0"/>
          <xs:element name="b" type="xs:int" minOccurs="0" maxOccurs="unbounded"/>
        </xs:sequence>
        """,
        tmp_path,
    )
    data = {"$choice": [{"b": 1}, {"b": 2}, {"a": 3}]}
    xml = "<it><b>1</b><b>2</b><a>3</a></it>"
    assert it.read(xml) == data
    assert canonical(it.write(data)) == canonical(element(xml))
    assert it.refused_by_schema(data) == ""


def test_what_repeats_in_a_choice_that_repeats_is_one_item_each(tmp_path: Path) -> None:
    it = it_of(
        """
        <xs:choice maxOccurs="3">
          <xs:element name="a" type="xs:int" minOccurs="2" maxOccurs="2"/>
          <xs:element name="b" type="xs:int"/>
        </xs:choice>
        """,
        tmp_path,
    )
    data = {"$choice": [{"a": 1}, {"a": 2}, {"a": 3}, {"a": 4}, {"b": 5}]}
    xml = "<it><a>1</a><a>2</a><a>3</a><a>4</a><b>5</b></it>"
    assert it.read(xml) == data
    assert canonical(it.write(data)) == canonical(element(xml))


def test_more_than_an_array_takes_is_for_what_comes_next(tmp_path: Path) -> None:
    it = it_of(
        """
        <xs:sequence>
          <xs:element name="a" type="xs:int" minOccurs="2" maxOccurs="2"/>
          <xs:element name="a" type="xs:int"/>
        </xs:sequence>
        """,
        tmp_path,
    )
    xml = "<it><a>1</a><a>2</a><a>3</a></it>"
    assert it.read(xml) == {"a": [1, 2], "a_2": 3}


def test_each_feature_is_in_a_table() -> None:
    tables = (SAME, READ, WRITTEN, NOT_DATA, NOT_XML)
    shown = {row[0] for table in tables for row in table}
    assert {path.stem for path in FEATURES.glob("*.wsdl")} - MESSAGES == shown


MESSAGES: set[str] = set()
"""Features of whole messages: test_messages.py shows them."""
