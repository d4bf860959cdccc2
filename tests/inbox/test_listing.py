"""Lists of the API: pages, limits, marking and deleting; and requests that are wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence

import httpx
import pytest

from ehlo.store import Delivery, StoredMail
from support.inboxes import inbox
from support.sites import Line, desk
from support.storing import fill, in_loop, mail

MESSAGES = "/api/v1/messages"


def listed(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [each["Subject"] for each in answer.json()["messages"]]


def refused(answer: httpx.Response) -> str:
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "text/plain"
    return answer.text


@in_loop
async def test_a_list_has_the_newest_first_and_is_one_line_of_json() -> None:
    deliveries = [Delivery(mail(f"<number {each}> ä")) for each in range(3)]
    async with inbox(*deliveries) as (_, api):
        answer = await api.get(f"{MESSAGES}?limit=2")
        assert listed(answer) == ["<number 2> ä", "<number 1> ä"]
        assert answer.json()["total"] == answer.json()["messages_count"] == 3
        assert answer.json()["count"] == 2
        assert "\\u003cnumber 2\\u003e ä" in answer.text
        assert answer.text.count("\n") == 1
        assert answer.text.endswith("\n")


@in_loop
async def test_a_summary_has_exactly_the_fields_of_mailpit() -> None:
    """A client of Mailpit compares them with `toEqual`."""
    delivery = Delivery(mail(), created=1_700_000_000.25, username="<ann>", inbox="default")
    async with inbox(delivery) as (_, api):
        (summary,) = (await api.get(MESSAGES)).json()["messages"]
        expected = "ID MessageID Read From To Cc Bcc ReplyTo Subject Created Username Tags Size"
        assert set(summary) == {*expected.split(), "Attachments", "Snippet"}
        assert summary["MessageID"] == f"{summary['ID']}@ehlo"
        assert summary["Created"][18:22] == "0.25"
        assert summary["Username"] == "<ann>"


@in_loop
async def test_a_page_has_at_most_a_thousand_messages_unless_all_are_asked_for() -> None:
    async with inbox() as (store, api):
        await fill(store, 1_002)
        for limit, count in (("", 50), ("5000", 1_000), ("0", 1_002), ("-3", 50), ("x", 50)):
            assert len(listed(await api.get(f"{MESSAGES}?limit={limit}"))) == count
        assert len(listed(await api.get("/api/v1/search?query=number&limit=5000"))) == 1_000
        assert listed(await api.get(f"{MESSAGES}?start={10**30}&limit=1")) == ["number 1001"]
        assert listed(await api.get(f"{MESSAGES}?start={10**17}")) == []


def long_mail(number: int) -> bytes:
    people = ", ".join(f"{'n' * 100} <p{each}@x.test>" for each in range(60))
    return f"To: {people}\r\nCc: {people}\r\nSubject: number {number}\r\n\r\n".encode()


@pytest.mark.parametrize("target", ["messages?limit=0", "search?query=number&limit=1000"])
@in_loop
async def test_a_large_list_is_read_and_sent_in_pieces(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    async with desk(keep=0) as site:
        for number in range(120):
            await site.store.put(Delivery(long_mail(number)))
        numbered = site.store.numbered

        async def note(numbers: Sequence[int]) -> Sequence[StoredMail]:
            read.append(len(numbers))
            return await numbered(numbers)

        monkeypatch.setattr(site.store, "numbered", note)
        async with Line(site, f"/api/v1/{target}") as line:
            headers = dict((await line.message())["headers"])
            pieces = await line.body()
    assert b"content-length" not in headers
    assert headers[b"content-type"] == b"application/json"
    assert read == [50, 20]  # and 50 at first
    assert max(map(len, pieces)) < 1_048_576 < sum(map(len, pieces))
    answer = json.loads(b"".join(pieces))
    assert (answer["count"], answer["messages_count"], answer["total"]) == (120, 120, 120)
    assert [each["Subject"] for each in answer["messages"]] == [
        f"number {number}" for number in reversed(range(120))
    ]


@in_loop
async def test_what_is_deleted_while_a_list_is_read_is_not_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with inbox() as (store, api):
        kept = await fill(store, 160)
        numbered = store.numbered

        async def deletes(numbers: Sequence[int]) -> Sequence[StoredMail]:
            await store.delete(ids=kept[:111])
            await store.put(Delivery(mail("later")))
            return await numbered(numbers)

        monkeypatch.setattr(store, "numbered", deletes)
        answer = await api.get(f"{MESSAGES}?limit=0")
        assert len(listed(answer)) == answer.json()["count"] == 50
        assert answer.json()["messages_count"] == 160


@in_loop
async def test_each_page_has_the_mails_behind_the_one_before() -> None:
    async with inbox() as (store, api):
        await fill(store, 230)
        whole = listed(await api.get(f"{MESSAGES}?limit=0"))
        assert whole == [f"number {number}" for number in reversed(range(230))]
        for start, limit in ((0, 49), (1, 50), (2, 51), (3, 99), (4, 101), (5, 1_000), (199, 60)):
            page = whole[start : start + limit]
            assert listed(await api.get(f"{MESSAGES}?start={start}&limit={limit}")) == page
            target = f"/api/v1/search?query=number&start={start}&limit={limit}"
            assert listed(await api.get(target)) == page


@in_loop
async def test_a_long_list_of_recipients_is_whole_in_the_message_alone() -> None:
    people = ", ".join(f"p{each}@x.test" for each in range(900))
    subject = "s" * 5_000
    message = f"From: {'n' * 999} <a@x.test>\r\nTo: {people}\r\nSubject: {subject}\r\n\r\n".encode()
    delivery = Delivery(message, rcpt_tos=[f"q{each}@x.test" for each in range(101)])
    user = "u" * 9_000
    async with inbox(delivery._replace(username=user)) as (_, api):
        (summary,) = (await api.get(MESSAGES)).json()["messages"]
        assert (len(summary["To"]), len(summary["Bcc"])) == (100, 100)
        assert summary["Omitted"] == {"To": 800, "Bcc": 1}
        assert len(summary["Username"]) == 320
        whole = (await api.get(f"/api/v1/message/{summary['ID']}")).json()
        assert [each["Address"] for each in whole["To"]] == people.split(", ")
        assert len(whole["Bcc"]) == 101
        assert whole["From"] == {"Name": "n" * 999, "Address": "a@x.test"}
        assert (whole["Subject"], whole["Username"]) == (subject, user)
        assert whole["MessageID"] == summary["MessageID"] == f"{summary['ID']}@ehlo"
        assert "Omitted" not in whole


@in_loop
async def test_lists_have_the_first_thousand_tags() -> None:
    async with inbox() as (store, api):
        for number in range(11):
            tags = [f"tag {number:02} {each:02}" for each in range(100)]
            await store.put(Delivery(mail(), tags=tags))
        for path in (MESSAGES, "/api/v1/search?query=hello", "/api/v1/tags", "/api/v1/info"):
            answer = (await api.get(path)).json()
            tags = list(
                answer if isinstance(answer, list) else answer.get("tags") or answer["Tags"]
            )
            assert len(tags) == 1_000
            assert (tags[0], tags[-1]) == ("tag 00 00", "tag 09 99")
        assert len(listed(await api.get("/api/v1/search?query=tag:%22tag%2010%2099%22"))) == 1


@in_loop
async def test_each_inbox_has_an_api_of_its_own() -> None:
    async with inbox(Delivery(mail("a"), inbox="one"), Delivery(mail("b"), inbox="two")) as (
        _,
        api,
    ):
        assert listed(await api.get(MESSAGES)) == ["b", "a"]
        answer = await api.get(f"/inbox/one{MESSAGES}")
        assert listed(answer) == ["a"]
        assert answer.json()["messages"][0]["Inbox"] == "one"
        other = answer.json()["messages"][0]["ID"]
        assert (await api.get(f"/inbox/two/api/v1/message/{other}")).status_code == 404
        assert (await api.delete(f"/inbox/two{MESSAGES}")).text == "ok"
        assert listed(await api.get(MESSAGES)) == ["a"]


@in_loop
async def test_deleting_without_json_deletes_nothing() -> None:
    """Mailpit deletes all for what is no JSON, which has cost people their mail."""
    async with inbox(Delivery(mail())) as (_, api):
        for body in (
            "nonsense",
            "IDs=x",
            "[1",
            '{"IDs":"x"}',
            '{"IDs":[1]}',
            '["x"]',
            "{" * 50_000,
        ):
            assert refused(await api.request("DELETE", MESSAGES, content=body))
        huge = b'{"IDs":["' + b"x" * 5_242_880 + b'"]}'
        assert refused(await api.request("DELETE", MESSAGES, content=huge)) == (
            "http: request body too large"
        )
        assert len(listed(await api.get(MESSAGES))) == 1
        assert (await api.request("DELETE", MESSAGES, content='{"iDs":["nope"]}')).text == "ok"
        assert len(listed(await api.get(MESSAGES))) == 1


@pytest.mark.parametrize("body", [None, "{}", '{"IDs":[]}', '{"IDs":null}', " \n"])
def test_deleting_without_ids_deletes_all(body: str | None) -> None:
    @in_loop
    async def run() -> None:
        async with inbox(Delivery(mail())) as (_, api):
            assert (await api.request("DELETE", MESSAGES, content=body)).text == "ok"
            assert listed(await api.get(MESSAGES)) == []

    run()


@pytest.mark.parametrize(
    "query",
    [
        *("before:2025-02-30", "subject:", "-after:yesterday", "header:=x", '""', ", ;"),
        " ".join(f"subject:{number}" for number in range(51)),
        "subject:" + "a" * 5_000 + " tag:old",
    ],
)
def test_a_query_of_which_a_part_is_ignored_changes_nothing(query: str) -> None:
    """It finds more than was asked for: all mail, mostly."""

    @in_loop
    async def run() -> None:
        async with inbox(Delivery(mail("a" * 600))) as (_, api):
            answer = await api.delete("/api/v1/search", params={"query": query})
            assert "nothing was changed" in refused(answer)
            change = {"Read": True, "Search": query}
            assert "nothing was changed" in refused(await api.put(MESSAGES, json=change))
            assert (await api.get(MESSAGES)).json()["unread"] == 1

    run()


@in_loop
async def test_json_is_read_as_go_reads_it() -> None:
    async with inbox(Delivery(mail())) as (_, api):
        for body, text in (
            ("", "EOF"),
            ('{"Read":', "unexpected EOF"),
            ('{"Read": nope}', "invalid character"),
            ('{"Read": NaN}', "invalid character 'N'"),
            ('{"Read":1}', "json: cannot unmarshal number into Go struct field .Read of type bool"),
            ('{"IDs":{}}', "json: cannot unmarshal object into Go struct field .IDs of type []str"),
            ("[" * 100_000, "exceeded max depth"),
            ("9" * 5_000, ""),
        ):
            assert refused(await api.put(MESSAGES, content=body)).startswith(text)
        read = '\ufeff{"READ":true,"Other":[{}],"ids":null,"search":null} and more'
        assert (await api.put(MESSAGES, content=read[1:])).text == "ok"
        assert (await api.get(MESSAGES)).json()["unread"] == 0
        lone = json.dumps({"IDs": ["\ud800", "\0"], "Read": False}).encode()
        assert (await api.put(MESSAGES, content=lone)).text == "ok"
        assert (await api.put(MESSAGES, content=b'{"Search":"\xff\\ud800"}')).text == "ok"
        assert (await api.get(MESSAGES)).json()["unread"] == 0


@in_loop
async def test_no_query_is_an_error_of_the_server() -> None:
    async with inbox(Delivery(mail())) as (_, api):
        for query in ("%00", "%ff%fe", '"', "%25", "*", "a*b OR NEAR(", "\\", "'", "tag:%00", "^"):
            for more in ("", "tz=Mars/Olympus", "tz=../../etc/passwd", "tz=%00", "start=-1"):
                answer = await api.get(f"/api/v1/search?query={query}&{more}")
                assert answer.status_code == 200, (query, more)
        assert (await api.get("/api/v1/search?query=header:subject%00=hello")).status_code == 200
        assert (await api.get(f"/api/v1/search?query={'a+' * 5_000}")).status_code == 200
        assert refused(await api.get("/api/v1/search")) == "Error: no search query"


@in_loop
async def test_methods_are_answered_for_each_path() -> None:
    async with inbox(Delivery(mail())) as (_, api):
        answer = await api.post(MESSAGES)
        assert (answer.status_code, answer.text) == (405, "Method Not Allowed\n")
        assert answer.headers["allow"] == "GET, PUT, DELETE, HEAD, OPTIONS"
        assert (await api.head(MESSAGES)).status_code == 200
        for path in (MESSAGES, "/api/v1/nothing", "/inbox/one/api/v1/x/y"):
            answer = await api.options(path)
            assert (answer.status_code, answer.content) == (200, b"")
        for path in ("/api/v1/nothing", "/api/", "/api/v1/message/ID/html-check"):
            answer = await api.get(path)
            assert (answer.status_code, answer.text) == (404, "File not found\n")


@in_loop
async def test_tags_are_set_renamed_and_deleted() -> None:
    async with inbox(Delivery(mail())) as (_, api):
        (summary,) = (await api.get(MESSAGES)).json()["messages"]
        tags = {"Tags": ["b", "a/b", "B"], "IDs": [summary["ID"]]}
        assert (await api.put("/api/v1/tags", json=tags)).text == "ok"
        assert (await api.get("/api/v1/tags")).json() == ["a b", "b"]
        assert refused(await api.put("/api/v1/tags/a%20b", json={"Name": "B"})) == (
            "tag already exists: B"
        )
        assert (await api.put("/api/v1/tags/A%20B", json={"Name": "c"})).text == "ok"
        assert (await api.delete("/api/v1/tags/b")).text == "ok"
        assert (await api.get("/api/v1/info")).json()["Tags"] == {"c": 1}
        many = {"Tags": ["x"] * 500, "IDs": ["y"] * 500}
        assert refused(await api.put("/api/v1/tags", json=many)).startswith("more than 100000 tags")
        assert refused(await api.delete("/api/v1/tags/%00")) == "tag not found: \0"


@in_loop
async def test_answers_are_compressed_for_clients_that_ask() -> None:
    async with inbox() as (store, api):
        await fill(store, 200)
        for accepted, encoding in (
            ("gzip, deflate, br", "gzip"),
            ("br;q=1.0, gzip;q=0.5", "gzip"),
            ("gzip;q=0", None),
            ("gzip;q=0.0, br", None),
            ("identity", None),
        ):
            answer = await api.get(f"{MESSAGES}?limit=0", headers={"accept-encoding": accepted})
            assert answer.headers.get("content-encoding") == encoding
            assert len(listed(answer)) == 200
        small = await api.get("/api/v1/tags", headers={"accept-encoding": "gzip"})
        assert "content-encoding" not in small.headers
