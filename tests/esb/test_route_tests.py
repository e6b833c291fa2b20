"""`esb test`: what tests of routes see, what they say when they fail, what is wrong with them."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import jsonschema_rs
import pytest
from lxml import etree
from support.processes import Process
from typer.testing import CliRunner

from esb.cli import app
from esb.envelope import Body
from esb.strict_yaml import References, read_yaml
from esb.testing.compare import differences
from esb.testing.models import CaseOptions, Expect, Reply
from esb.testing.report import Report, as_json, as_junit, covered, percentage, run_tests

EXAMPLES = Path(__file__).parents[2] / "examples"

ESB = Path(sys.executable).with_name("esb")

ROUTES = """\
routes:
  orders:
    from: {http: {path: /orders/:id, method: PUT}}
    steps:
      - choose:
          - when: body.total > 100
            steps:
              - log: "large order {{ path.id }}"
              - send: {queue: large}
          - otherwise:
            steps:
              - call: {http: {url: "http://crm.example/orders/{{ path.id }}", method: PUT}}
              - set: {fields: {seen: now()}}
  large:
    from: {queue: large}
    steps:
      - send: {http: {url: "http://desk.example/tasks"}}
    retry: {attempts: 3, backoff: 1m..1h}
"""


class Project:
    """A folder with `routes.yaml`, and tests that are written there and run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.routes(ROUTES)

    def routes(self, text: str) -> None:
        (self.folder / "routes.yaml").write_text(dedent(text))

    def run(self, tests: str, **options: str) -> Report:
        (self.folder / "routes.test.yaml").write_text(dedent(tests))
        return run_tests([self.folder], root=self.folder, **options)  # type: ignore[arg-type]

    def failure(self, tests: str) -> str:
        """What the only test that fails says, without the name of its file."""
        report = self.run(tests)
        assert not report.mistakes, report.mistakes
        [failed] = report.failed
        [failure] = failed.failures
        return f"{failure.line}:{failure.column}: {failure.message}"

    def mistakes(self, tests: str) -> list[str]:
        report = self.run(tests)
        assert not report.results
        [found] = report.mistakes.values()
        return [f"{d.line}:{d.column}: {d.message} {d.hint}".strip() for d in found]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def passes(report: Report, count: int) -> None:
    assert not report.mistakes, report.mistakes
    assert [(r.name, [str(f) for f in r.failures]) for r in report.failed] == []
    assert len(report.results) == count


# --- what is seen ---------------------------------------------------------------------------------


def test_calls_channels_logs_headers_and_the_time(project: Project) -> None:
    report = project.run("""\
        now: 2030-05-01T10:00:00Z
        tests:
          small:
            route: orders
            given: {path: {id: 7}, query: {dry: [1, 2]}, headers: {x-a: b}, body: {total: 99.5}}
            mocks: {http: {status: 201, headers: {x-crm: "1"}, body: {ok: true}}}
            expect:
              status: 201
              outcome: reply
              headers: {x-crm: "1", x-none: null}
              body: {ok: true, seen: "2030-05-01T10:00:00Z"}
              that: [body.ok, "headers['x-crm'] == '1'"]
              calls:
                - to: "steps[0].choose[1].steps[0].call"
                  sent: {method: PUT, url: http://crm.example/orders/7}
                  headers: {x-a: b}
                  body: {total: 99.5}
              channels: {large: []}
              took: 0s
          large:
            route: orders
            given: {path: {id: 8}, body: {total: 100.01}}
            expect:
              status: 202
              outcome: accepted
              calls: []
              channels: {queue large: [{body: {total: 100.01}}]}
              log: [large order 8]
        """)
    passes(report, 2)


def test_a_test_runs_the_same_each_time_and_needs_no_time(project: Project) -> None:
    tests = """\
        tests:
          far side away:
            route: large
            given: {body: {total: 1}}
            mocks: {http: [{error: unreachable}, {status: 503}, {}]}
            expect:
              calls: [{to: http, times: 3}]
              took: 1s..4h
        """
    first, second = project.run(tests), project.run(tests)
    passes(first, 1)
    assert first.results[0].took == second.results[0].took > 1
    assert first.results[0].seconds < 5


def test_dead_letters_have_their_reason(project: Project) -> None:
    report = project.run("""\
        tests:
          gives up:
            route: large
            given: {body: {total: 1}}
            mocks: {http: {status: 503}}
            expect:
              outcome: dead
              dead:
                code: overloaded
                step: "steps[0].send"
                attempts: 3
                body: {total: 1}
          refused:
            route: large
            given: {body: {total: 1}}
            mocks: {http: {status: 404}}
            expect: {dead: rejected, calls: [{to: http}]}
        """)
    passes(report, 2)


def test_an_answer_that_takes_longer_than_the_timeout_does_not_come(project: Project) -> None:
    project.routes("""\
        routes:
          orders:
            from: {http: {path: /orders}}
            steps:
              - call: {http: {url: "http://crm.example/", timeout: 3s}}
        """)
    report = project.run("""\
        tests:
          POST:
            given: {body: {total: 1}}
            mocks: {http: {delay: 10s}}
            expect: {status: 504, error: outcome-unknown, took: 3s}
        """)
    passes(report, 1)


def test_messages_in_a_row_with_time_between_them(project: Project) -> None:
    project.routes("""\
        routes:
          orders:
            from: {http: {path: /orders}}
            steps:
              - skip_seen: {by: body.id, window: 1h}
              - send: {queue: {name: "q-{{ body.id }}", delay: 1m}}
        """)
    report = project.run("""\
        tests:
          twice, and again the day after:
            given:
              - {body: {id: 1}, expect: {status: 202}}
              - {body: {id: 1}, expect: {status: 204, outcome: filtered}}
              - {body: {id: 2}}
              - {body: {id: 1}, after: 1d, expect: {status: 202}}
            expect:
              channels: {q-1: [{body: {id: 1}}, {body: {id: 1}}], q-2: {body: {id: 2}}}
              took: 1d
        """)
    passes(report, 1)


def test_routes_behind_a_queue_run_if_they_are_named(project: Project) -> None:
    report = project.run("""\
        tests:
          both:
            route: orders
            also: [large]
            given: {path: {id: 1}, body: {total: 500}}
            mocks: {"large/steps[0].send": {}}
            expect: {status: 202, calls: [{to: "large/steps[0].send", body: {total: 500}}]}
        """)
    passes(report, 1)


def test_what_is_delayed_or_expires_in_a_queue_does_so_in_the_time_of_the_test(
    project: Project,
) -> None:
    project.routes("""\
        routes:
          slow:
            from: {http: {path: /slow}}
            steps: [{send: {queue: {name: later, delay: 90s}}}]
          brief:
            from: {http: {path: /brief}}
            steps: [{send: {queue: {name: later, delay: 1h, expires: 2h}}}]
          later:
            from: {queue: {name: later, concurrency: 1}}
            steps: [{send: {http: {url: "http://far.example/", timeout: 2h}}}]
        """)
    report = project.run("""\
        tests:
          delayed:
            route: slow
            also: [later]
            mocks: {http: {}}
            expect: {calls: [{to: http}], took: 90s}
          expired:
            route: brief
            also: [later]
            given: [{body: 1}, {body: 2}]
            mocks: {http: {delay: 90m}}
            expect: {calls: [{to: http, body: 1}], dead: {code: expired, body: 2}, took: 150m}
        """)
    passes(report, 2)


def test_what_is_not_over_can_be_looked_at_in_between(project: Project) -> None:
    report = project.run("""\
        tests:
          one try so far:
            route: large
            given: {body: {total: 1}}
            mocks: {http: {status: 503, headers: {Retry-After: "60"}}}
            within: 30s
            expect: {calls: [{to: http}], took: 30s, dead: []}
        """)
    passes(report, 1)


def test_sub_routes_by_themselves_and_where_they_are_run(project: Project) -> None:
    project.routes("""\
        routes:
          orders:
            from: {http: {path: /orders}}
            steps: [{run: priced}, {send: {queue: priced}}]
          priced:
            steps:
              - call: {http: {url: "http://prices.example/{{ body.sku }}", method: GET}}
              - set: {body: {price: body.price}}
        """)
    report = project.run("""\
        mocks:
          http: {body: {price: 1.10, currency: EUR}}
        tests:
          alone:
            route: priced
            given: {body: {sku: a}}
            expect: {body: {price: 1.1}, calls: [{to: http, sent: {url: http://prices.example/a}}]}
          run:
            route: orders
            given: {body: {sku: a}}
            expect: {channels: {priced: {body: {price: 1.1}}}}
        """)
    passes(report, 2)
    assert percentage(covered(report.coverage)) == 100


def test_time_passes_for_groups_waits_circuits_and_schedules(project: Project) -> None:
    project.routes("""\
        routes:
          lines:
            from: {http: {path: /lines}}
            steps:
              - aggregate: {by: body.order, size: 2, timeout: 10m, steps: [{send: {queue: whole}}]}
          slow:
            from: {http: {path: /slow}}
            steps: [{delay: {for: 30s}}, {send: {http: "http://far.example/"}}]
          guarded:
            from: {http: {path: /guarded}}
            steps:
              - call: {http: {url: "http://far.example/", circuit_breaker: {failures: 2,
                              open_for: 1m}}}
          nightly:
            from: {schedule: {cron: "0 3 * * *"}}
            steps: [{send: {http: "http://far.example/"}}]
        """)
    report = project.run("""\
        tests:
          groups:
            route: lines
            given:
              - {body: {order: 1, n: 1}}
              - {body: {order: 2, n: 1}}
              - {body: {order: 1, n: 2}, after: 1m}
            expect:
              channels:
                whole:
                  - body: [{order: 1, n: 1}, {order: 1, n: 2}]
                  - body: [{order: 2, n: 1}]
              took: 10m
          waits:
            route: slow
            mocks: {http: {}}
            expect: {took: 30s, calls: [{to: http}]}
          circuits:
            route: guarded
            given:
              - {expect: {status: 503}}
              - {expect: {status: 503}}
              - {after: 1s, expect: {error: circuit-open}}
              - {after: 1m, expect: {status: 200}}
            mocks: {http: [{status: 503}, {status: 503}, {status: 200}]}
            expect: {calls: [{to: http, times: 3}]}
          schedules:
            route: nightly
            now: 2025-01-01T00:00:00Z
            given: []
            within: 2d
            mocks: {http: {}}
            expect: {calls: [{to: http, times: 2}], outcome: accepted}
          one firing:
            route: nightly
            mocks: {http: {}}
            expect: {calls: [{to: http}]}
        """)
    passes(report, 5)


def test_what_amqp_would_publish_and_be_answered(project: Project) -> None:
    project.routes("""\
        connections: {rabbit: {amqp: {url: "amqp://broker"}}}
        routes:
          ask:
            from: {amqp: {connection: rabbit, queue: in}}
            steps:
              - call: {amqp: {connection: rabbit, exchange: rpc, routing_key: "a.{{ body.k }}",
                              headers: {x-k: "{{ body.k }}"}, timeout: 2s}}
              - send: {amqp: {connection: rabbit, queue: out, priority: 3}}
        """)
    report = project.run("""\
        tests:
          answered:
            given: {id: m-1, body: {k: v}, headers: {x-a: 1}}
            mocks: {rpc: {body: {answer: 42}, headers: {x-b: 2}}, out: {}}
            expect:
              outcome: accepted
              calls:
                - to: rpc
                  sent: {exchange: rpc, routing_key: a.v, message_id: m-1}
                  headers: {x-a: 1, x-k: v}
                  body: {k: v}
                - {to: out, sent: {queue: out, priority: 3}, body: {answer: 42}}
          not answered:
            given: {body: {k: v}}
            mocks: {rpc: {delay: 3s}}
            expect: {dead: outcome-unknown, took: 2s}
          answered with a problem:
            given: {body: {k: v}}
            mocks: {rpc: {content_type: application/problem+json, body: {detail: no such k}}}
            expect: {dead: {code: fault, detail: no such k}}
          nobody takes it:
            given: {body: {k: v}}
            mocks: {rpc: {error: rejected}}
            expect: {dead: rejected}
        """)
    passes(report, 4)


def test_a_soap_service_is_played_by_its_wsdl(project: Project) -> None:
    project.routes("""\
        routes:
          partner:
            from: {http: {path: "/partners/:id", method: GET}}
            steps:
              - call: {soap: {wsdl: partner.wsdl, operation: getPartner, bind: [id]}}
        """)
    wsdl = (EXAMPLES / "legacy" / "partner.wsdl").read_text()
    (project.folder / "partner.wsdl").write_text(wsdl)
    tests = """\
        tests:
          one:
            given: {{path: {{id: 1}}}}
            mocks: {{soap: {mock}}}
            expect: {expect}
        """
    for mock, expect in (
        ("{fault: PartnerNotFound, data: {id: 1}}", "{status: 422, error: fault}"),
        ("{status: 503}", "{error: overloaded}"),
        ("{delay: 31s}", "{error: outcome-unknown}"),
        ("{content_type: text/html, body: '<html/>'}", "{error: bad-reply}"),
    ):
        passes(project.run(tests.format(mock=mock, expect=expect)), 1)
    told = project.failure(tests.format(mock="{body: {id: 1}}", expect="{status: 200}"))
    assert "the mock's answer does not fit the WSDL's 'getPartner': " in told
    assert "/name" in told
    told = project.failure(tests.format(mock="{fault: NotFound}", expect="{status: 404}"))
    assert "declares no fault 'NotFound' (did you mean 'PartnerNotFound'?)" in told


def test_a_hosted_soap_service_is_asked_without_a_socket(project: Project) -> None:
    project.routes("""\
        routes:
          partners:
            from: {soap: {wsdl: partner.wsdl, path: /partners}}
            steps:
              - call: {http: {url: "http://crm.example/{{ body.id }}", method: GET}}
        """)
    wsdl = (EXAMPLES / "legacy" / "partner.wsdl").read_text()
    (project.folder / "partner.wsdl").write_text(wsdl)
    report = project.run("""\
        tests:
          one:
            given:
              content_type: text/xml
              body: |
                <e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Body>
                  <getPartner xmlns="urn:example:partners:v1"><id>7</id></getPartner>
                </e:Body></e:Envelope>
            mocks:
              http: {body: {id: 7, name: Bell, status: active, creditLimit: 10,
                            address: {city: Cork, country: IE}}}
            expect:
              status: 200
              body_includes: |
                <e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Body>
                  <p:getPartnerResponse xmlns:p="urn:example:partners:v1">
                    <p:name>Bell</p:name><p:creditLimit>10.00</p:creditLimit>
                  </p:getPartnerResponse>
                </e:Body></e:Envelope>
              calls: [{to: http, sent: {url: "http://crm.example/7"}}]
          as data:
            given: {params: {soap: {operation: getPartner}}, body: {id: 7}}
            mocks:
              http: {body: {id: 7, name: Bell, status: active, creditLimit: 10,
                            address: {city: Cork, country: IE}}}
            expect: {status: 200, body_includes: {name: Bell, creditLimit: 10}}
          a fault:
            given: {params: {soap: {operation: getPartner}}, body: {id: 7}}
            mocks: {http: {status: 404}}
            expect: {status: 500, error: rejected}
        """)
    passes(report, 3)
    failure = project.failure("""\
        tests:
          no such operation:
            given: {params: {soap: {operation: getPartners}}}
            expect: {status: 200}
        """)
    assert "the service has no operation 'getPartners'; did you mean" in failure


def test_nothing_reaches_a_far_side_that_is_not_mocked(project: Project) -> None:
    failure = project.failure("""\
        tests:
          small:
            route: orders
            given: {path: {id: 7}, body: {total: 1}}
            expect: {status: 500}
        """)
    assert failure == (
        "2:3: steps[0].choose[1].steps[0].call (http) of route 'orders' is not mocked, "
        "and was sent a message"
    )


def test_a_mock_answers_as_often_as_it_says(project: Project) -> None:
    failure = project.failure("""\
        tests:
          asked too often:
            route: large
            given: {body: {}}
            mocks: {http: [{status: 503, times: 2}]}
            expect: {dead: overloaded}
        """)
    assert failure == (
        "2:3: steps[0].send (http) of route 'large' was asked for the third time, "
        "and 'http' has 2 answers"
    )


def test_a_mock_may_look_at_what_it_is_asked(project: Project) -> None:
    project.routes("""\
        routes:
          orders:
            from: {http: {path: /orders}}
            steps:
              - split:
                  each: body
                  gather: true
                  steps: [{call: {http: "http://crm.example/"}}]
        """)
    report = project.run("""\
        tests:
          by what is sent:
            given: {body: [1, 2, 3, 2]}
            mocks:
              http:
                - {body: first}
                - {when: body == 2, body: two}
                - {body: last}
            expect: {body: [first, two, last, two]}
        """)
    passes(report, 1)
    failure = project.failure("""\
        tests:
          none fits:
            given: {body: [1]}
            mocks: {http: {when: body == 2, body: two}}
            expect: {status: 200}
        """)
    assert "no answer of 'http' fits what steps[0].split.steps[0].call (http)" in failure


def test_profiles_templates_and_sub_routes_that_nobody_runs(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESB_PROFILE", "nonsense")
    project.routes("""\
        connections: {crm: {http: {url: "http://crm.example"}}}
        profiles: {prod: {connections: {crm: {http: {url: "https://crm.prod.example"}}}}}
        templates:
          feed:
            parameters: {queue: {}}
            route:
              from: {queue: "${queue}"}
              steps: [{send: {http: {connection: crm, path: /feed}}}]
        routes:
          orders: {use: feed, with: {queue: orders}}
          priced: {steps: [{set: {body: {price: 1}}}]}
        """)
    for profile, host in (("", "http://crm.example"), ("prod", "https://crm.prod.example")):
        report = project.run(f"""\
            profile: "{profile}"
            tests:
              fed:
                route: orders
                mocks: {{crm: {{}}}}
                expect: {{calls: [{{to: crm, sent: {{url: "{host}/feed"}}}}]}}
              alone:
                route: priced
                expect: {{body: {{price: 1}}}}
            """)
        passes(report, 2)
        assert percentage(covered(report.coverage)) == 100


def test_a_message_of_a_trace_comes_in_again(project: Project) -> None:
    trace = {
        "id": "m-1",
        "route": "orders",
        "headers": [["x-a", "1"], ["x-a", "2"]],
        "params": {"path": {"id": "7"}, "query": {}},
        "given": {"content_type": "application/json", "text": '{"total": 99.5}'},
        "visits": [],
    }
    (project.folder / "small.json").write_text(json.dumps(trace))
    report = project.run("""\
        tests:
          again:
            route: orders
            given: {trace: small.json}
            mocks: {http: {body: {ok: true}}}
            expect:
              status: 200
              calls:
                - {to: http, sent: {url: http://crm.example/orders/7}, headers: {x-a: ["1", "2"]},
                   body: {total: 99.5}}
          with another body:
            route: orders
            given: {trace: small.json, body: {total: 1000}}
            expect: {channels: {large: {body: {total: 1000}}}}
        """)
    passes(report, 2)
    tests = "tests: {a: {route: orders, given: {trace: small.json}, expect: {}}}"
    trace["given"] = {"text": "{", "cut": True}
    (project.folder / "small.json").write_text(json.dumps(trace))
    assert "only the beginning of the body" in project.mistakes(tests)[0]
    (project.folder / "small.json").write_text("[1]")
    assert project.mistakes(tests)[0].startswith("1:43: this is no trace")


def test_nothing_is_left_behind(project: Project) -> None:
    project.routes("trace: {sample: 1, errors: true}\n" + ROUTES)
    report = project.run("""\
        tests:
          large:
            route: orders
            also: [large]
            given: {path: {id: 1}, body: {total: 500}}
            mocks: {http: {status: 404}}
            within: 1h
            expect: {status: 202, dead: rejected}
        """)
    passes(report, 1)
    files = {path.name for path in project.folder.rglob("*")}
    assert files == {"routes.yaml", "routes.test.yaml"}


def test_what_runs_in_circles_is_given_up(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esb.testing.virtual.PATIENCE", 0.3)
    project.routes("""\
        routes:
          there: {from: {queue: a}, steps: [{send: {queue: b}}]}
          back: {from: {queue: b}, steps: [{send: {queue: a}}]}
        """)
    failure = project.failure("tests: {round: {route: there, also: [back], expect: {}}}")
    assert "did not come to rest within" in failure


def test_what_waits_for_ever_is_given_up(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esb.testing.play.LONGEST", 5 * 86_400.0)
    project.routes("""\
        routes:
          a:
            from: {queue: a}
            steps: [{send: {http: "http://far.example/"}}]
            retry: {attempts: 1000000, backoff: 1d}
        """)
    failure = project.failure("tests: {one: {mocks: {http: {error: unreachable}}, expect: {}}}")
    assert failure == "1:9: it is not through after 5 days of its own time"


def test_secrets_and_addresses_need_not_be_there(project: Project) -> None:
    project.routes("""\
        routes:
          orders:
            from: {http: {path: /orders}}
            steps:
              - call:
                  http: {url: "${CRM}/orders", auth: {bearer: "${file:crm.token}"}}
        """)
    report = project.run("""\
        environ: {CRM: https://crm.example}
        tests:
          one:
            mocks: {http: {status: 204}}
            expect:
              status: 204
              calls: [{to: http, sent: {url: https://crm.example/orders}}]
        """)
    passes(report, 1)


# --- what failures say ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expect", "message"),
    [
        ("{status: 200}", '6:22: status: expected 200, got 201: {"ok":true,"n":[1,2,3]}'),
        ("{outcome: accepted}", "6:23: outcome: expected accepted, got reply"),
        ("{body: {ok: true, n: [1, 2, 4]}}", "6:41: body.n[2]: expected 4, got 3"),
        ("{body: {ok: true}}", "6:20: body.n: expected nothing, got [1,2,3]"),
        ("{body_includes: {ok: 1}}", "6:34: body.ok: expected 1, got true"),
        ("{body_includes: {n: [3, 1]}}", "6:37: body.n[1]: expected 1, got none such in []"),
        ("{content_type: text/xml}", "6:28: content type: expected text/xml, got application/json"),
        ("{headers: {x-crm: '2'}}", "6:31: header x-crm: expected \"2\", got \"1\""),
        ("{that: body.n | length == 2}", "6:20: not true: body.n | length == 2 gave false; "
         'body: {"ok":true,"n":[1,2,3]}'),
        ("{calls: []}", "6:14: calls: 1 than expected"
         "\n    steps[0].call (http) of route 'orders': {\"total\":5}"),
        ("{calls: [{to: http, body: {total: 6}}]}",
         "6:47: call of 'http': body.total: expected 6, got 5"),
        ("{calls: [{to: http, sent: {method: GET}}]}",
         "6:48: call of 'http': method: expected \"GET\", got \"POST\""),
        ("{calls: [{to: http, times: 2}]}", "6:27: expected a call of 'http', there is none"),
        ("{dead: rejected}", "6:14: expected 1 dead letter, got 0"),
        ("{took: 1s}", "6:20: took: expected 1s, got 0.000s"),
        ("{log: [hello]}", "6:20: log: no line with \"hello\" in nothing"),
        ("{error: rejected}", "6:21: error: expected rejected, got no error, and the body "
         '{"ok":true,"n":[1,2,3]}'),
    ],
)  # fmt: skip
def test_a_failure_is_told_where_it_was_expected(
    project: Project, expect: str, message: str
) -> None:
    project.routes("""\
        routes:
          orders:
            from: {http: {path: /orders}}
            steps:
              - call: {http: {url: "http://crm.example/"}}
        """)
    tests = f"""\
        tests:
          one:
            given: {{body: {{total: 5}}}}
            mocks:
              http: {{status: 201, headers: {{x-crm: "1"}}, body: {{ok: true, n: [1, 2, 3]}}}}
            expect: {expect}
        """
    assert project.failure(tests) == message


def test_an_error_that_nobody_expected_fails_the_test(project: Project) -> None:
    project.routes("""\
        routes:
          feed:
            from: {amqp: {connection: rabbit, queue: feed}}
            steps: [{set: {body: body.missing}}]
        connections: {rabbit: {amqp: {url: "amqp://broker"}}}
        """)
    failure = project.failure("""\
        tests:
          one:
            given: {body: {}}
            expect: {calls: []}
        """)
    assert failure.startswith("4:5: a dead letter: route-failure of route 'feed' at steps[0].set: ")


def test_a_message_that_is_given_up_fails_the_test(project: Project) -> None:
    project.routes("""\
        routes:
          feed:
            from: {queue: feed}
            steps: [{send: {http: "http://far.example/"}}]
            dead_letter: {http: "http://dead.example/"}
        """)
    tests = """\
        tests:
          one:
            mocks: {http: {status: 404}, dead_letter: {}}
            expect: {log: []}
        """
    assert project.failure(tests) == "4:5: the route gave the message up (outcome: dead)"


def test_text_is_shown_as_a_diff(project: Project) -> None:
    project.routes("""\
        routes:
          page:
            from: {http: {path: /page, method: GET}}
            steps:
              - transform:
                  jinja: |
                    one
                    two
        """)
    failure = project.failure("""\
        tests:
          one:
            expect:
              body: |
                one
                three
        """)
    assert failure.startswith("4:13: body: \n--- expected\n+++ got\n")
    assert failure.endswith(" one\n-three\n+two")


@pytest.mark.parametrize(
    ("expected", "body", "content_type", "part", "different"),
    [
        ({"n": 1.1}, '{"n": 1.10}', "application/json", False, ""),
        ({"n": 1}, '{"n": true}', "application/json", False, "n: expected 1, got true"),
        (None, "null", "application/json", False, ""),
        ('{"n": 0.10000000000000000001}', '{"n": 0.10000000000000000002}', "application/json",
         False, "n: expected 0.10000000000000000001, got 0.10000000000000000002"),
        ([{"a": 1}], '[{"a": 1, "b": 2}]', "application/json", True, ""),
        ([2, 3], "[1, 2, 3]", "application/json", True, ""),
        ("Bell", '"Bell & Co"', "application/json", True, ""),
        ("<o xmlns='u' b='2' a='1'><n>1.0</n></o>",
         "<p:o xmlns:p='u' a='1' b='2'>\n <p:n>1.00</p:n> </p:o>", "text/xml", False, ""),
        ("<o><n>007</n></o>", "<o><n>7</n></o>", "application/xml", False,
         '/o/n: expected "007", got "7"'),
        ("<o><n>2</n></o>", "<o a='1'><m/><n>1</n><n>2</n></o>", "application/soap+xml", True, ""),
        ("<o/>", "<o a='1'><m/></o>", "application/xml", False,
         '/o/@a: expected nothing, got "1"'),
        ({"o": 1}, "<o/>", "application/xml", False, 'expected {"o":1}, got XML: <o/>'),
        ("a,b\n1,2", "a,b\n1,2\n", "text/csv", False, ""),
        ([{"a": "1", "b": "2"}], "a,b\n1,2\n", "text/csv", False, ""),
        ("text", "text\n", "", False, ""),
        ({"a": 1}, "text", "", False, 'expected {"a":1}, got "text"'),
        ({"a": 1}, "{", "application/json", False, 'expected {"a":1}, got application/json that '
         "cannot be read: the JSON ends too early at line 1, column 2"),
    ],
)  # fmt: skip
def test_bodies_are_compared_by_value(
    expected: Any, body: str, content_type: str, part: bool, different: str
) -> None:
    found = differences(expected, Body(body.encode(), content_type), part=part)
    assert (str(found[0]) if found else "") == different


# --- what is wrong with tests ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("test", "mistake"),
    [
        ("{route: order, expect: {}}", "2:16: there is no route 'order' did you mean 'orders'?"),
        ("{expect: {}}", "2:3: 'route' is missing there are: orders, large"),
        ("{route: orders}", "2:3: it expects nothing expect: {...}"),
        ("{route: orders, expect: {statsu: 200}}",
         "2:33: unknown key 'statsu' did you mean 'status'?"),
        ("{route: orders, given: {bdy: 1}, expect: {}}",
         "2:32: unknown key 'bdy' did you mean 'body'?"),
        ("{route: orders, mocks: {htp: {}}, expect: {}}",
         "2:32: no endpoint goes by 'htp' did you mean 'http'?"),
        ("{route: orders, mocks: {http: [{status: 99}]}, expect: {}}",
         "2:48: must be greater than or equal to 100"),
        ("{route: orders, mocks: {http: {error: unreachabel}}, expect: {}}", "2:46: an error is "),
        ("{route: orders, expect: {that: 'body.x =='}}", "2:"),
        ("{route: orders, given: {file: missing.json}, expect: {}}",
         "2:38: there is no file missing.json"),
        ("{route: orders, expect: {calls: [{body: 1}]}}", "2:41: 'to' is missing"),
        ("{route: orders, expect: {calls: [{to: crm}]}}", "2:46: no endpoint goes by 'crm' there "
         "are: "),
        ("{route: orders, also: [larg], expect: {}}",
         "2:31: there is no route 'larg' did you mean 'large'?"),
    ],
)  # fmt: skip
def test_mistakes_are_told_like_those_in_routes(project: Project, test: str, mistake: str) -> None:
    [found] = project.mistakes(f"tests:\n  one: {test}\n")
    assert found.startswith(mistake)


def test_mistakes_in_the_routes_are_told_once(project: Project) -> None:
    project.routes("routes: {a: {from: {http: {path: /a}}, stesp: []}}")
    [found] = project.mistakes("tests: {one: {expect: {}}, two: {expect: {}}}")
    assert "unknown key 'stesp' did you mean 'steps'?" in found


def test_files_of_tests_are_no_routes(project: Project) -> None:
    project.run("tests: {one: {route: orders, expect: {}}}")
    result = CliRunner().invoke(app, ["check", str(project.folder)])
    assert result.exit_code == 0, result.output


# --- the command ----------------------------------------------------------------------------------

TWO = """\
tests:
  passes: {route: large, mocks: {http: {}}, expect: {calls: [{to: http}]}}
  fails: {route: large, mocks: {http: {}}, expect: {calls: []}}
"""


def command(project: Project, *arguments: str) -> tuple[int, str]:
    (project.folder / "routes.test.yaml").write_text(TWO)
    result = CliRunner().invoke(app, ["test", str(project.folder), *arguments])
    return result.exit_code, result.output


def test_the_command_tells_what_failed_and_what_never_ran(project: Project) -> None:
    code, output = command(project, "--coverage", "-v")
    assert code == 1
    assert "passed" in output
    assert "routes.test.yaml:3: fails" in output
    assert "the last step that ran: steps[0].send.http of route 'large'" in output
    assert "routes.yaml:5 steps[0].choose" in output
    assert "2 tests, 1 failed; 17% of the steps ran" in output
    assert command(project, "--filter", "passes")[0] == 0
    assert command(project, "--filter", "passes", "--min-coverage", "50")[0] == 1
    assert command(project, "--filter", "nonsense")[0] == 2


def test_what_changes_is_tested_again(project: Project) -> None:
    (project.folder / "tests").mkdir()
    tests = project.folder / "tests" / "all.test.yaml"
    tests.write_text("routes: [../routes.yaml]\n" + TWO)
    with Process([ESB, "test", tests, "--watch"], cwd=project.folder) as process:
        process.until(lambda: "2 tests, 1 failed" in process.output)
        project.routes(ROUTES.replace("send: {http:", "sedn: {http:"))
        process.until(lambda: "did you mean 'send'?" in process.output)
        project.routes(ROUTES)
        process.until(lambda: process.output.count("2 tests, 1 failed") == 2)
        process.signal(signal.SIGINT)
        process.wait()


def test_reports_for_programs(project: Project, tmp_path: Path) -> None:
    code, output = command(project, "--json", "--junit", str(tmp_path / "junit.xml"))
    told = json.loads(output)
    assert code == 1
    assert [(test["name"], test["passed"]) for test in told["tests"]] == [
        ("passes", True),
        ("fails", False),
    ]
    assert told["tests"][1]["failures"][0]["line"] == 3
    assert told["coverage"][1]["missed"][0].endswith("routes.yaml:5 steps[0].choose")
    junit = etree.parse(tmp_path / "junit.xml").getroot()
    assert [(s.get("tests"), s.get("failures")) for s in junit] == [("2", "1")]
    assert junit.find(".//failure").getparent().get("name") == "fails"


def test_reports_tell_files_that_cannot_be_run(project: Project) -> None:
    report = project.run("tests: {one: {rout: large}}")
    junit = etree.fromstring(as_junit(report))
    assert "unknown key 'rout'" in junit.find(".//error").get("message")
    assert as_json(report)["mistakes"][0]["hint"] == "did you mean 'route'?"
    assert not report.passed


def test_branches_that_were_never_taken(project: Project) -> None:
    report = project.run("""\
        tests:
          large:
            route: orders
            given: {path: {id: 8}, body: {total: 101}}
            expect: {status: 202}
        """)
    rows = {row.route: row for row in covered(report.coverage)}
    assert (rows["orders"].ran, rows["orders"].steps) == (3, 5)
    [missed] = rows["orders"].missed
    assert missed.endswith(" the branch steps[0].choose[1].steps")


def test_the_way_past_all_branches_is_a_way(project: Project) -> None:
    project.routes("""\
        routes:
          a:
            from: {http: {path: /a}}
            steps:
              - choose:
                  - when: body.n > 1
                    steps: [{set: {fields: {large: true}}}]
        """)
    tests = """\
        tests:
          large: {given: {body: {n: 2}}, expect: {body: {n: 2, large: true}}}
        """
    [row] = covered(project.run(tests).coverage)
    assert (row.ran, row.steps) == (2, 3)
    assert row.missed[0].endswith("routes.yaml:5 the way past all branches of steps[0].choose")
    tests = dedent(tests) + "  small: {given: {body: {n: 1}}, expect: {body: {n: 1}}}\n"
    [row] = covered(project.run(tests).coverage)
    assert (row.percent, row.missed) == (100, [])


def test_the_schema_knows_what_tests_may_say() -> None:
    result = CliRunner().invoke(app, ["schema", "--tests"])
    validator = jsonschema_rs.validator_for(json.loads(result.output))
    files = [*EXAMPLES.glob("*/*.test.yaml"), *(EXAMPLES.parent / "routes").glob("*.test.yaml")]
    assert files
    for file in files:
        text = read_yaml(file.read_text(), file.name, file.parent, References(None))
        assert [(file, str(error)) for error in validator.iter_errors(text.data)] == []
    assert not validator.is_valid({"tests": {"one": {"expect": {"statsu": 1}}}})
    assert not validator.is_valid({"tests": {"one": {"mocks": {"http": [{"error": "away"}]}}}})


def test_chances_are_the_same_whatever_ran_before(project: Project) -> None:
    tests = "tests: {one: {route: large, mocks: {http: {}}, expect: {calls: [{to: http}]}}}"
    project.run(tests)
    first = random.random()
    project.run(tests)
    assert random.random() == first


def test_the_page_says_what_is_so(tmp_path: Path) -> None:
    page = (EXAMPLES.parent / "docs" / "testing.md").read_text()
    first, mocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    folder = tmp_path / "claims"
    shutil.copytree(EXAMPLES / "content-based-router", folder)
    (folder / "routes.test.yaml").write_text(first)
    passes(run_tests([folder], root=tmp_path), 2)
    loaded = read_yaml(mocks, "", tmp_path, References(None))
    assert [Reply(**reply).error for reply in loaded.data["mocks"]["http"]] == [None] * 4
    for heading, model in (("what must have happened", Expect), ("## A test", CaseOptions)):
        table = (
            page[page.lower().index(heading.lower()) :].partition("\n\n|")[2].partition("\n\n")[0]
        )
        named = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|? ?(`.*?) \|", table, re.M))))
        assert named == set(model.model_fields) - {"any_order", "description"}, heading


def test_what_another_file_says_is_hinted_at(project: Project) -> None:
    project.routes("""\
        routes:
          feed:
            from: {queue: feed}
            steps: [{send: {http: {connection: crm, path: /feed}}}]
        """)
    (project.folder / "shared.yaml").write_text(
        "connections: {crm: {http: {url: 'http://crm.example'}}}\n"
    )
    tests = """\
        {also}tests:
          one:
            given: {{body: 1}}
            mocks: {{crm: {{status: 200}}}}
            expect: {{calls: [{{to: crm}}]}}
        """
    told = project.mistakes(tests.format(also=""))
    assert sorted(told, reverse=True) == [
        "4:40: there is no connection 'crm'",
        "1:1: of the routes only routes.yaml is loaded if it needs what other files of the folder "
        'say: routes: ["."]',
    ]
    passes(project.run(tests.format(also='routes: ["."]\n        ')), 1)
