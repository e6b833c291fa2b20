"""What steps are called elsewhere, for hints alone: each thing has one name here.

The words of other buses (Camel's Java and YAML, Mule, Spring Integration, BPEL) and those names of
patterns (EIP) that are no verbs. Written small, without `_` and `-`. What is spelt nearly as the
step need not be listed.
"""

from __future__ import annotations

_WORDS = {
    "aggregate": "collect gather aggregator",
    "call": "ask request invoke inout requestreply",
    "check_in": "claimcheck",
    "choose": "choice contentbasedrouter if router switch when",
    "convert": "marshal unmarshal parse serialize format",
    "copy_to": "tap tee wiretap",
    "delay": "pause sleep wait",
    "enrich": "contentenricher enricher pollenrich",
    "fail": "error raise reject throw throwexception",
    "keep": "pick select project",
    "load_balance": "failover roundrobin",
    "log": "logger print",
    "loop": "repeat while dowhile",
    "map": "dataweave mapper assign",
    "multicast": "fork parallel",
    "python": "bean class code component exec function groovy java process processor script",
    "remove": "delete drop removeheader removeheaders removeproperty",
    "run": "direct flowref include subflow subroute",
    "send": "emit out output produce publish to tod",
    "send_each": "recipientlist recipients",
    "set": "header setbody setheader setheaders setpayload setproperty setvariable",
    "skip_seen": "dedupe deduplicate distinct idempotent idempotentconsumer idempotentreceiver",
    "split": "each foreach for iterate splitter",
    "throttle": "limit ratelimit ratelimiter throttler",
    "transform": "jinja template translate xslt",
    "try": "catch docatch dotry onexception errorhandler scope",
    "validate": "jsonschema schema validator xsd",
}

ELSEWHERE = {word: step for step, words in _WORDS.items() for word in words.split()}
