"""The guard: names, origins, logins, bodies and headers of each request."""

from __future__ import annotations

import asyncio
import base64
import threading

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ehlo.inbox import WebOptions
from ehlo.inbox.accounts import check_of_users
from ehlo.inbox.guard import Guard
from ehlo.inbox.pages.screens import Screens
from ehlo.inbox.signin import SignIn, TooManyLoginsError
from ehlo.inbox.site import routes_of
from support.sites import HOST, Line, browser, desk
from support.storing import in_loop


class Watch:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


WRITES = ("POST", "PUT", "DELETE", "PATCH")


async def reached(scope: object, receive: object, send: object) -> None:
    """Answer each request that passes the guard."""
    request = Request(scope, receive)  # type: ignore[arg-type]  # as ASGI has them
    body = await request.body()
    state = f"{len(body)} {getattr(request.state, 'user', '-')}"
    answer: Response = PlainTextResponse(f"reached {state}")
    await answer(scope, receive, send)  # type: ignore[arg-type]


def guarded(**options: object) -> httpx.AsyncClient:
    return browser(Guard(reached, WebOptions(**options)))  # type: ignore[arg-type]  # each its own


def basic(login: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}


async def status(client: httpx.AsyncClient, path: str = "/", **headers: str) -> int:
    given = {name.replace("_", "-"): text for name, text in headers.items()}
    return (await client.get(path, headers=given)).status_code


@in_loop
async def test_a_loopback_site_is_known_by_loopback_names_and_those_that_are_given() -> None:
    client = guarded(hosts=("Inbox.Example",))
    for name in (
        "127.0.0.1",
        "127.9.9.9:8025",
        "[::1]:8025",
        "[::ffff:127.0.0.1]",
        "localhost",
        "a.localhost",
        HOST,
    ):
        assert await status(client, Host=name) == 200, name
    for name in ("inbox.example", "INBOX.example.:99"):
        assert await status(client, Host=name) == 200, name
    for name in (
        *(
            "evil.test",
            "evil.test:8025",
            "127.0.0.1.evil.test",
            "localhost.evil.test",
            "198.51.100.1",
        ),
        *(
            "127.1",
            "2130706433",
            "[::2]",
            "127.0.0.1@evil.test",
            "127.0.0.1:x",
            "",
            "a b",
            "192.0.2.1",
        ),
    ):
        answer = await client.get("/api/v1/messages", headers={"Host": name})
        assert answer.status_code == 403, name
        assert "--web-hosts" in answer.text


@in_loop
async def test_a_request_has_one_host() -> None:
    scope = {"host": "127.0.0.1"}
    async with Line(Guard(reached, WebOptions()), "/", headers=scope) as line:
        assert (await line.message())["status"] == 200
    for fields in ([], [(b"host", b"127.0.0.1"), (b"host", b"evil.test")]):
        line = Line(Guard(reached, WebOptions()), "/")
        line.scope["headers"] = fields
        async with line:
            assert (await line.message())["status"] == 403


@in_loop
async def test_beyond_loopback_names_are_checked_only_if_some_are_given() -> None:
    assert await status(guarded(is_loopback=False), Host="evil.test") == 200
    client = guarded(is_loopback=False, hosts=("inbox.example",))
    assert await status(client, Host="inbox.example") == 200
    answer = await client.get("/api/v1/info", headers={"Host": "evil.test"})
    wanted = (
        "This Host is not allowed; add it to --web-hosts or WebOptions.hosts, or use 127.0.0.1."
    )
    assert (answer.status_code, answer.text) == (403, f"{wanted}\n")


@pytest.mark.parametrize(
    "origin", ["http://evil.test", "null", "https://127.0.0.1:8026", "file://", "http://x/y", "x"]
)
@in_loop
async def test_other_origins_neither_write_nor_read_the_api(origin: str) -> None:
    client = guarded()
    for method in WRITES:
        for path in ("/api/v1/messages", "/", "/inbox/a/api/v1/send"):
            answer = await client.request(method, path, headers={"Origin": origin})
            assert (answer.status_code, answer.text) == (403, "Blocked due to CORS violation\n")
            assert "Access-Control-Allow-Origin" not in answer.headers
    for path in ("/api/v1/messages", "/api/v1/events", "/inbox/a/api/v1/events", "/view/x.html"):
        assert await status(client, path, Origin=origin) == 403, path
        assert (await client.options(path, headers={"Origin": origin})).status_code == 403
    assert await status(client, "/", Origin=origin) == 200  # a link to the page


@in_loop
async def test_pages_of_other_sites_are_known_by_what_the_browser_says() -> None:
    client = guarded()
    cross = {"Sec-Fetch-Site": "cross-site"}
    for method in WRITES:
        assert (await client.request(method, "/", headers=cross)).status_code == 403
    assert (await client.get("/api/v1/events", headers=cross)).status_code == 403
    for path in ("message/latest", "message/latest/part/2", "message/x/part/"):
        assert (await client.get(f"/api/v1/{path}", headers=cross)).status_code == 403
    # A link to the page, and an image in the frame of a mail, whose origin is opaque
    for path in ("/", "/view/x.html", "/api/v1/message/x/part/2"):
        assert (await client.get(path, headers=cross)).status_code == 200
    image = {**cross, "Origin": "null", "Sec-Fetch-Mode": "no-cors"}
    part = "/api/v1/message/x/part/2"
    assert (await client.get(part, headers=image)).status_code == 200
    assert (await client.post(part, headers=image)).status_code == 403
    assert (await client.get("/api/v1/messages", headers=image)).status_code == 403
    reads = {**image, "Sec-Fetch-Mode": "cors"}  # a script, which would see the bytes
    assert (await client.get(part, headers=reads)).status_code == 403
    same = {"Sec-Fetch-Site": "same-origin", "Origin": f"http://{HOST}"}
    assert (await client.post("/api/v1/send", headers=same)).status_code == 200
    assert (await client.post("/api/v1/send")).status_code == 200  # no browser


@pytest.mark.parametrize(
    ("given", "allowed", "others"),
    [
        (("app.test:3000",), ["http://app.test:3000"], ["http://app.test", "http://app.test:30"]),
        (("http://app.test",), ["http://app.test"], ["https://app.test", "http://app.test:81"]),
        (("app.test, b.test",), ["https://app.test", "http://b.test"], ["http://c.test", "null"]),
        (("*",), ["https://any.test", "null"], []),
    ],
)
@in_loop
async def test_origins_that_are_allowed(
    given: tuple[str, ...], allowed: list[str], others: list[str]
) -> None:
    client = guarded(origins=given)
    for origin in allowed:
        headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
        answer = await client.put("/api/v1/messages", headers=headers)
        assert answer.status_code == 200
        assert answer.headers["Access-Control-Allow-Origin"] == origin
        assert answer.headers["Access-Control-Allow-Methods"] == "GET, POST, DELETE, PUT, OPTIONS"
        assert answer.headers["Access-Control-Allow-Headers"] == "*"
        assert "Access-Control-Allow-Credentials" not in answer.headers
    for origin in others:
        assert await status(client, "/api/v1/messages", Origin=origin) == 403


@pytest.mark.parametrize("path", ["/api/events", "/inbox/a/api/events", "/else"])
@in_loop
async def test_a_websocket_of_another_site_is_rejected(path: str) -> None:
    site = Guard(reached, WebOptions())
    for headers in (
        *({"Origin": "http://evil.test"}, {"Origin": "null"}, {"Host": "evil.test:8025"}),
        {"Sec-Fetch-Site": "cross-site"},
    ):
        async with Line(site, path, websocket=True, headers=headers) as line:
            assert (await line.message())["status"] == 403
        line = Line(site, path, websocket=True, headers=headers)
        line.scope["extensions"] = {}
        async with line:
            assert (await line.message())["type"] == "websocket.close"


@in_loop
async def test_each_answer_has_the_headers_that_protect_it() -> None:
    client = guarded()
    for path in ("/", "/api/v1/messages", "/livez"):
        for headers in ({}, {"Host": "evil.test"}):
            answer = await client.get(path, headers=headers)
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Referrer-Policy"] == "no-referrer"
            assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
            policy = answer.headers["Content-Security-Policy"]
            assert policy == "default-src 'none'; frame-ancestors 'self'"


@in_loop
async def test_an_answer_says_what_it_depends_on() -> None:
    async def own(scope: object, receive: object, send: object) -> None:
        answer = Response(headers={"Vary": "Accept-Encoding"})
        await answer(scope, receive, send)  # type: ignore[arg-type]  # as ASGI has them

    client = browser(Guard(own, WebOptions()))
    assert (await client.get("/api/v1/x")).headers["Vary"] == "Accept-Encoding, Origin"
    assert (await client.get("/")).headers["Vary"] == "Accept-Encoding"


@in_loop
async def test_an_answer_keeps_its_own_headers() -> None:
    async def own(scope: object, receive: object, send: object) -> None:
        headers = {"Content-Security-Policy": "sandbox", "cross-origin-resource-policy": "x"}
        await Response(headers=headers)(scope, receive, send)  # type: ignore[arg-type]

    answer = await browser(Guard(own, WebOptions())).get("/")
    assert answer.headers.get_list("Content-Security-Policy") == ["sandbox"]
    assert answer.headers.get_list("Cross-Origin-Resource-Policy") == ["x"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


# -- logins ----------------------------------------------------------------------------------------


@in_loop
async def test_each_request_needs_the_login_except_probes() -> None:
    client = guarded(check=check_of_users("alice:secret bob:pass:word"), root="/mail")
    for path in ("/mail/", "/mail/api/v1/info", "/livez", "/mail/livez/x", "/mail/api/v1/events"):
        answer = await client.get(path)
        assert answer.status_code == (200 if path == "/livez" else 401), path
    answer = await client.get("/mail/api/v1/info")
    assert answer.text == "Unauthorized.\n"
    assert answer.headers["WWW-Authenticate"].startswith('Basic realm="Login"')
    for path in ("/mail/livez", "/mail/readyz"):
        assert (await client.get(path)).status_code == 200
        assert (await client.head(path, headers={"Host": "10.0.0.7"})).status_code == 200
        assert (await client.post(path)).status_code == 401
    for login in ("alice:secret", "bob:pass:word"):
        answer = await client.get("/mail/", headers=basic(login))
        assert answer.text == f"reached 0 {login.partition(':')[0]}"
    for wrong in ("alice:", "alice:Secret", "bob:secret", ":", "", "alice", "alice:secret:"):
        assert (await client.get("/mail/", headers=basic(wrong))).status_code == 401, wrong


@pytest.mark.parametrize(
    "field", ["Basic", "Basic =", "Basic ÿ", "Bearer x", "Basic " + "A" * 9000]
)
@in_loop
async def test_a_malformed_login_is_none(field: str) -> None:
    client = guarded(check=lambda _name, _password: True)
    headers = {b"Authorization": field.encode("latin-1")}
    assert (await client.get("/", headers=headers)).status_code == 401


@in_loop
async def test_a_websocket_needs_the_login_too() -> None:
    site = Guard(reached, WebOptions(check=check_of_users("a:b")))
    async with Line(site, "/api/events", websocket=True) as line:
        assert (await line.message())["status"] == 401


@in_loop
async def test_a_preflight_has_no_login() -> None:
    check = check_of_users("a:b")
    headers = {"Origin": "http://app.test"}
    client = guarded(check=check, origins=("app.test",))
    assert (await client.options("/api/v1/x", headers=headers)).status_code == 200
    assert (await client.get("/api/v1/x", headers=headers)).status_code == 401
    assert (await guarded(check=check).options("/api/v1/x")).status_code == 401


@in_loop
async def test_a_login_that_was_right_is_not_checked_again_for_a_minute() -> None:
    clock = Watch()
    checked: list[tuple[str, str]] = []

    def check(name: str, password: str) -> bool:
        checked.append((name, password))
        return password == "right"

    sign_in = SignIn(check, clock)
    field = basic("a:right")["Authorization"].encode()
    assert (
        await asyncio.gather(*(sign_in.user_of(field, "192.0.2.1") for _ in range(50)))
        == ["a"] * 50
    )
    assert len(checked) == 1
    clock.now += 59
    assert await sign_in.user_of(field, "192.0.2.1") == "a"
    assert len(checked) == 1
    clock.now += 2
    assert await sign_in.user_of(field, "192.0.2.1") == "a"
    assert len(checked) == 2
    wrong = basic("a:wrong")["Authorization"].encode()
    for _ in range(2):
        assert await sign_in.user_of(wrong, "192.0.2.1") is None
    assert len(checked) == 4
    assert b"right" not in b"".join(vars(sign_in)["_known"])


@in_loop
async def test_guessing_ends_after_ten_failures_of_an_address() -> None:
    clock = Watch()
    sign_in = SignIn(lambda _name, password: password == "right", clock)
    right = basic("a:right")["Authorization"].encode()
    assert await sign_in.user_of(right, "192.0.2.1") == "a"
    for number in range(10):
        field = basic(f"a:{number}")["Authorization"].encode()
        assert await sign_in.user_of(field, "192.0.2.1") is None
    other = basic("b:right")["Authorization"].encode()
    with pytest.raises(TooManyLoginsError):
        await sign_in.user_of(other, "192.0.2.1")
    assert await sign_in.user_of(other, "192.0.2.2") == "b"
    clock.now += 121  # the one that was right is not locked out by the others
    for number in range(10):
        await sign_in.user_of(basic(f"a:{number}")["Authorization"].encode(), "192.0.2.1")
    assert await sign_in.user_of(right, "192.0.2.1") == "a"
    clock.now += 121
    assert await sign_in.user_of(other, "192.0.2.1") == "b"


@in_loop
async def test_guesses_that_have_not_ended_count_and_are_bounded() -> None:
    go = threading.Event()
    running: list[str] = []

    def check(_name: str, password: str) -> bool:
        running.append(password)
        go.wait(60)
        return False

    sign_in = SignIn(check)
    fields = [basic(f"a:{number}")["Authorization"].encode() for number in range(200)]
    hosts = [f"192.0.2.{number % 100}" for number in range(200)]
    tasks = [
        asyncio.ensure_future(sign_in.user_of(field, host))
        for field, host in zip(fields, hosts, strict=True)
    ]
    await asyncio.sleep(0)
    assert len(running) <= 2
    go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(each, TooManyLoginsError) for each in results) == 200 - 64
    assert len(running) == 64


@in_loop
async def test_a_check_that_fails_lets_no_user_in(caplog: pytest.LogCaptureFixture) -> None:
    def check(_name: str, _password: str) -> bool:
        raise ValueError("users: No such file or directory")

    assert (await guarded(check=check).get("/", headers=basic("a:b"))).status_code == 401
    assert "a login could not be checked" in caplog.text


@pytest.mark.parametrize("text", ["", " ", "alice", "alice:", ":secret", "a:b alice:"])
def test_users_of_a_wrong_form_are_named_without_their_passwords(text: str) -> None:
    with pytest.raises(ValueError, match="user:password") as caught:
        check_of_users(text)
    assert "secret" not in str(caught.value)


# -- bodies ----------------------------------------------------------------------------------------


@in_loop
async def test_a_body_is_bounded_whatever_the_route() -> None:
    from starlette.applications import Starlette

    async def read(request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    site = Starlette(routes=[Route("/", read, methods=["POST"])])
    client = browser(Guard(site, WebOptions(max_size=1)))
    assert (await client.post("/", content=b"x" * 8_388_608)).text == "8388608"
    assert (await client.post("/", content=b"x" * 8_388_609)).status_code == 413
    said = Line(Guard(site, WebOptions(max_size=1)), "/", headers={"Content-Length": "9" * 30})
    async with said:
        assert (await said.message())["status"] == 413  # before anything of it comes
    client = browser(Guard(site, WebOptions(max_size=0)))
    assert (await client.post("/", content=b"x" * 8_388_609)).status_code == 200


# -- the whole site --------------------------------------------------------------------------------


@in_loop
async def test_each_route_of_the_site_needs_the_login_and_the_host() -> None:
    values = {"id": "latest", "part": "1", "tag": "x", "tab": "raw", "version": "x", "name": "x"}
    async with desk(check=check_of_users("a:b"), root="/mail") as site:
        client = browser(site)
        paths = [
            str(route.path).replace(":path", "").format(**values, rest="x")
            for route in routes_of(site, Screens(site))
            if isinstance(route, Route) and route.path not in ("/livez", "/readyz")
        ]
        assert len(paths) > 30
        for path in (*paths, "/nowhere", "/inbox", "/livez/", "//livez", "/readyz/x", "/%6civez/"):
            for prefix in ("/mail", "/mail/inbox/support", ""):
                for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
                    answer = await client.request(method, prefix + path)
                    assert answer.status_code == 401, (method, prefix + path)
        for path in paths:
            headers = {"Host": "evil.test", **basic("a:b")}
            answer = await client.get(f"/mail{path}", headers=headers)
            assert answer.status_code == 403
        for path in ("/mail/api/events", "/mail/inbox/x/api/events"):
            async with Line(site, path, websocket=True) as line:
                assert (await line.message())["status"] == 401


@in_loop
async def test_a_foreign_page_cannot_load_a_mail_unseen() -> None:
    """An image with the address of a mail would mark it as read."""
    client = guarded()
    unseen = {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
    framed = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}
    followed = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    for path in ("/view/latest", "/view/x", "/inbox/a/view/x.html", "/view/x.txt"):
        for site in ({"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}):
            for how in (unseen, framed):
                assert await status(client, path, **site, **how) == 403, (path, site, how)
            assert await status(client, path, **site, **followed) == 200, (path, site)
        assert await status(client, path, **{"Sec-Fetch-Site": "same-origin"}, **framed) == 200
    same = {"Sec-Fetch-Site": "same-site"}
    assert await status(client, "/api/v1/message/latest", **same, **unseen) == 403
    assert await status(client, "/api/v1/message/x/part/2", **same, **unseen) == 200
