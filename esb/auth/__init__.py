"""Ways in which callers prove who they are, each a file: the section `auth`.

    keys.py          api_keys: a key in a header
    passwords.py     basic: a name and a password (RFC 7617)
    tokens.py        jwt: signed tokens (RFC 7519, RFC 9068, OpenID Connect)
    webhooks.py      hmac: bodies signed with a shared secret
    certificates.py  mtls: the certificate of the connection
    ways.py          several of them together, and what happens to those who guess

A library that one of them needs is imported when a project names it.
"""

from esb.auth.options import EVERYBODY, AuthOptions, Way, made
from esb.auth.ways import AnyOf, Method, Refused

__all__ = ["EVERYBODY", "AnyOf", "AuthOptions", "Method", "Refused", "Way", "made"]
