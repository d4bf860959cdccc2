"""The OpenAPI document: it names every route and method, and the answers are as it says."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.result import Ok
from starlette.routing import Route

from ehlo import Server
from ehlo.inbox import Catcher
from ehlo.inbox.answers import Resource
from ehlo.inbox.openapi import document
from ehlo.inbox.pages.screens import Screens
from ehlo.inbox.pages.screens import routes as page_routes
from ehlo.inbox.site import routes_of
from support.sites import desk
from support.storing import in_loop

EXAMPLES = 100 if os.environ.get("EHLO_SOAK") else 2
LETTER = {
    "From": {"Email": "a@x.test"},
    "To": [{"Email": "b@y.test"}],
    "Subject": "Your code is 482913",
    "HTML": "<a href='https://x.test/reset'>Reset</a>",
    "Attachments": [{"Content": "aGVsbG8=", "Filename": "a.txt"}],
}
NAMES = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    "response_schema_conformance",
)


@in_loop
async def test_the_document_names_every_route_and_method() -> None:
    async with desk() as site:
        routes = [each for each in routes_of(site, Screens(site)) if isinstance(each, Route)]
        pages = {each.path for each in page_routes(Screens(site)) if isinstance(each, Route)}
    served = {
        (method.lower(), each.path)
        for each in routes
        if isinstance(each.endpoint, Resource) and each.path not in pages
        for method in each.endpoint.methods
    }
    served.add(("get", "/api/v1/events"))
    named = {(method, path) for path, item in document()["paths"].items() for method in item}
    assert named == served


def test_each_operation_and_shape_is_described() -> None:
    made = document()
    operations = [each for item in made["paths"].values() for each in item.values()]
    assert all(each["summary"] for each in operations)
    identifiers = [each["operationId"] for each in operations]
    assert len(set(identifiers)) == len(identifiers)
    for name, schema in made["components"]["schemas"].items():
        assert schema["properties"], name
        assert schema["description"], name
    message = made["components"]["schemas"]["WholeMessage"]
    assert "Inbox" not in message["required"]
    assert message["properties"]["ReturnPath"]["description"] == "The envelope sender."
    assert "required" not in made["components"]["schemas"]["SendRequest"]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Serve an inbox with a message."""
    listening = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    with contextlib.ExitStack() as stack:
        catcher = Catcher(web=[listening])
        stack.enter_context(Server(catcher, addr="127.0.0.1:0").in_thread())
        yield url


def test_answers_are_as_the_document_says(address: str) -> None:
    """Send requests that schemathesis makes of the document, valid ones and others."""
    load_all_checks()
    checks = CHECKS.get_by_names(NAMES)
    schema = schemathesis.openapi.from_url(f"{address}/api/v1/openapi.json")
    operations = [each.ok() for each in schema.get_all_operations() if isinstance(each, Ok)]
    assert len(operations) == sum(map(len, document()["paths"].values())) - 1  # itself
    for operation in operations:
        if operation.path == "/api/v1/events":
            continue  # it does not end

        httpx.post(f"{address}/api/v1/send", json=LETTER, timeout=60).raise_for_status()

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def attack(case: Any) -> None:
            if case.path.endswith("/wait"):
                case.query["timeout"] = "0"
            values = case.path_parameters
            if "id" in values and len(values["id"]) % 2:
                values["id"] = "latest"
            if "part" in values and len(values["part"]) % 2:
                values["part"] = "2"
            response = case.call(timeout=60, allow_redirects=False)
            case.validate_response(response, checks=checks)

        attack()
