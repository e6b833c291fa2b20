"""The one small language of routes: Jinja2 expressions over a message, compiled at load.

`when`, `set` and the like take an expression (`body.amount > 10000`), endpoint options plain text
with `{{ }}` in it (`https://crm.example/orders/{{ path.id }}`). What they may name:

    body        the parsed body; it is parsed only if an expression that mentions it runs
    text        the body as text
    headers     by name, in any case: headers['x-request-id']
    message     .id .source .type .time .subject .correlation_id .content_type .attempt .principal
    path, query, http, soap, amqp, ...    what the source knows beside headers and body
    reply       what the last call told beside headers and body: reply.status
    env.NAME    an environment variable, as it was when the routes were loaded
    route.name  the name of the route
    xpath('//amount')       of an XML body: the first match as text (`| decimal`, `| int`)
    xpath_all(...)          every match as text, in a list
    elements(...)           every match as an element, for `split`
    soap_header('r:to', r='urn:r')   of the Header of a SOAP envelope, like xpath; from the Body on
                            the message is not parsed
    jmespath('lines[0].sku')   of plain data
    now(), uuid()

It differs from plain Jinja2 where that would surprise: an attribute is always a key of the data
(`body.items` is the field), numbers are exact (`0.1` is a Decimal, `/` too), and what is missing
raises instead of vanishing, however deep, unless it meets `is defined` or `default(...)`.
"""

from esb.expressions.compiler import (
    ExpressionError,
    Known,
    compile_expression,
    compile_text,
    syntax,
)
from esb.expressions.language import PARAMS, Missing

__all__ = [
    "PARAMS",
    "ExpressionError",
    "Known",
    "Missing",
    "compile_expression",
    "compile_text",
    "syntax",
]
