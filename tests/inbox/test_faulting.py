"""Faults by the API: one set of rules, as `faults` and as Mailpit's `chaos` have it."""

from __future__ import annotations

import asyncio
import json
import smtplib

import httpx

from ehlo import Handler, Message, Server, Session
from ehlo.protocol.reply import Disconnect
from support.sites import browser, desk
from support.storing import in_loop

FAULTS, CHAOS = "/api/v1/faults", "/api/v1/chaos"
TYPE = {"Content-Type": "application/json"}


class Accepting(Handler):
    async def on_message(self, session: Session, message: Message) -> None: ...


async def put(client: httpx.AsyncClient, path: str, value: object) -> httpx.Response:
    return await client.put(path, content=json.dumps(value), headers=TYPE)


@in_loop
async def test_rules_are_replaced_listed_and_removed() -> None:
    async with desk() as site:
        client = browser(site)
        assert (await client.get(FAULTS)).json() == {"Seed": 1, "Faults": []}
        wanted = {
            "seed": 7,
            "FAULTS": [
                {"at": "rcpt", "Reply": "450 4.2.1 Greylisted", "times": 2, "To": "a@x.test"},
                {"At": "data", "Delay": 2.5, "Times": 0, "After": 3, "MailFrom": "@y.test"},
                {"At": "end", "Drop": True, "probability": 0.25, "mail_from": ""},
                {"Script": ["450 4.2.1 Later", "250", "drop"]},
            ],
        }
        answer = await put(client, FAULTS, wanted)
        assert answer.status_code == 200
        found = answer.json()
        assert found["Seed"] == 7
        usual = {"Times": 1, "After": 0, "Probability": 1.0, "Used": 0}
        assert found["Faults"] == [
            {**usual, "At": "rcpt", "Reply": "450 4.2.1 Greylisted", "Times": 2, "To": "a@x.test"},
            {**usual, "At": "data", "Delay": 2.5, "Times": 0, "After": 3, "MailFrom": "@y.test"},
            {**usual, "At": "end", "Drop": True, "Probability": 0.25, "MailFrom": ""},
            {"Script": ["450 4.2.1 Later", "250", "drop"], "Used": 0},
        ]
        assert str(site.faults[0]).startswith("fail('rcpt'")
        assert isinstance(site.faults[3].replies[2], Disconnect)
        site.faults.strike("rcpt", to="a@x.test")
        assert (await client.get(FAULTS)).json()["Faults"][0]["Used"] == 1
        again = (await put(client, FAULTS, (await client.get(FAULTS)).json())).json()
        assert [each | {"Used": 0} for each in again["Faults"]] == found["Faults"]
        site.faults[0].remove()
        assert len(site.faults) == 3
        assert (await client.delete(FAULTS)).text == "ok"
        assert len(site.faults) == 0


@in_loop
async def test_the_same_seed_gives_the_same_faults() -> None:
    rules = {
        "Seed": 5,
        "Faults": [{"At": "mail", "Reply": "451 no", "Times": 0, "Probability": 0.5}],
    }
    async with desk() as site:
        runs = []
        for _ in range(2):
            await put(browser(site), FAULTS, rules)
            runs.append([site.faults.strike("mail").action is None for _ in range(64)])
        assert runs[0] == runs[1]
        assert len(set(runs[0])) == 2


NINES, LONG = "9" * 400, "x" * 2_000
BAD_RULES = (
    *("{}", "null", "[]", "7", '{"At":"end"}', '{"At":"nowhere","Drop":true}', '{"Drop":true}'),
    *('{"At":"end","Drop":1}', '{"At":"end","Drop":"x"}', '{"At":["end"],"Drop":true}'),
    *('{"At":"end","Reply":"250 Ok"}', '{"At":"end","Reply":"99"}', '{"At":"end","Reply":7}'),
    *(r'{"At":"end","Reply":"451 a\r\n250 b"}', f'{{"At":"end","Reply":"451 {LONG}"}}'),
    *('{"At":"end","Delay":"1"}', '{"At":"end","Delay":0}', '{"At":"end","Delay":-1}'),
    *('{"At":"end","Delay":1e400}', '{"At":"end","Delay":NaN}', '{"At":"end","Delay":86401}'),
    *(f'{{"At":"end","Delay":{NINES}}}', '{"At":"end","Drop":true,"Delay":1}'),
    *('{"At":"end","Drop":true,"Times":-1}', '{"At":"end","Drop":true,"Times":1.5}'),
    *('{"At":"end","Drop":true,"After":-1}', '{"At":"end","Drop":true,"After":true}'),
    *('{"At":"end","Drop":true,"Probability":2}', '{"At":"end","Drop":true,"Probability":NaN}'),
    *('{"At":"end","Drop":true,"To":7}', '{"At":"mail","Drop":true,"To":"a"}'),
    *(f'{{"At":"end","Drop":true,"To":"{LONG}"}}', '{"At":"end","Drop":true,"Why":1}'),
    *('{"Script":[]}', '{"Script":"250"}', '{"Script":["x"]}', '{"Script":[["250"]]}'),
    *('{"Script":[%s"250"]}' % ('"250",' * 100), '{"Script":[{"a":1}]}'),
)
BAD_BODIES = (
    *("", "x", "[]", "null", "7", '"x"', "{}", '{"Faults":{}}', '{"Faults":null}', "\0"),
    *("[" * 200_000, '{"Faults":' * 100_000, '{"Faults":[],"X":1}'),
    *('{"Seed":-1,"Faults":[]}', '{"Seed":1e9,"Faults":[]}', '{"Seed":"x","Faults":[]}'),
    *(f'{{"Seed":{NINES},"Faults":[]}}', f'{{"Seed":{NINES * 20},"Faults":[]}}'),
    '{"Faults":[%s{}]}' % ('{"At":"end","Drop":true},' * 100),
)


@in_loop
async def test_absurd_rules_are_rejected_and_change_nothing() -> None:
    bodies = [*BAD_BODIES, *(f'{{"Faults":[{rule}]}}' for rule in BAD_RULES)]
    async with desk() as site:
        site.faults.drop("end")
        for body in bodies:
            answer = await browser(site).put(FAULTS, content=body, headers=TYPE)
            assert answer.status_code == 400, body[:100]
            assert answer.headers["content-type"].startswith("text/plain")
            assert 0 < len(answer.text) < 1_000, body[:100]
            assert len(site.faults) == 1


# -- chaos -----------------------------------------------------------------------------------------

CALM = {
    "Sender": {"ErrorCode": 451, "Probability": 0},
    "Recipient": {"ErrorCode": 451, "Probability": 0},
    "Authentication": {"ErrorCode": 535, "Probability": 0},
}


@in_loop
async def test_chaos_and_faults_are_one_set_of_rules() -> None:
    async with desk() as site:
        client = browser(site)
        assert (await client.get(CHAOS)).json() == CALM
        kept = site.faults.fail("rcpt", "450 Later")
        sender = {"Sender": {"ErrorCode": 453, "Probability": 15}}
        answer = await put(client, CHAOS, sender)
        assert answer.json() == {**CALM, **sender}
        recipient = {"recipient": {"errorcode": 452, "probability": 100}}
        assert (await put(client, CHAOS, recipient)).json() == {
            **CALM,
            "Recipient": {"ErrorCode": 452, "Probability": 100},
        }
        rules = (await client.get(FAULTS)).json()["Faults"]
        assert [each["At"] for each in rules] == ["rcpt", "rcpt"]
        assert site.faults[0] is kept
        assert rules[1]["Times"] == 0
        assert (await put(client, FAULTS, {"Faults": rules})).status_code == 200
        assert (await client.get(CHAOS)).json()["Recipient"] == {
            "ErrorCode": 452,
            "Probability": 100,
        }
        await client.delete(FAULTS)
        assert (await client.get(CHAOS)).json() == CALM


@in_loop
async def test_absurd_triggers_change_nothing() -> None:
    wrong_code = "error code must be between 400 and 599"
    wrong_probability = "probability must be between 0 and 100"
    cases: list[tuple[object, str]] = [
        ({"ErrorCode": 399, "Probability": 5}, wrong_code),
        ({"ErrorCode": 600, "Probability": 5}, wrong_code),
        ({"Probability": 5}, wrong_code),
        ({"ErrorCode": 451, "Probability": 101}, wrong_probability),
        ({"ErrorCode": 451, "Probability": -1}, wrong_probability),
        ({"ErrorCode": 451, "Probability": 10**300}, wrong_probability),
        ({"ErrorCode": "451", "Probability": 1}, "json: cannot unmarshal string"),
    ]
    async with desk() as site:
        client = browser(site)
        before = {"Recipient": {"ErrorCode": 452, "Probability": 10}}
        await put(client, CHAOS, before)
        for trigger, text in cases:
            answer = await put(client, CHAOS, {"Sender": trigger})
            assert answer.status_code == 400
            assert answer.text.startswith(text)
            assert (await client.get(CHAOS)).json() == {**CALM, **before}


@in_loop
async def test_codes_of_chaos_from_400_to_599_can_be_used() -> None:
    async with desk() as site:
        for code in (*range(400, 600, 13), 599):
            wanted = {"Authentication": {"ErrorCode": code, "Probability": 50}}
            assert (await put(browser(site), CHAOS, wanted)).json() == {**CALM, **wanted}


@in_loop
async def test_chaos_strikes_on_the_wire() -> None:
    async with desk() as site:
        server = Server(site.faults.around(Accepting()), addr="127.0.0.1:0")
        async with server:
            port = server.addresses[0].port

            def send() -> tuple[int, bytes]:
                with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
                    client.ehlo()
                    client.mail("a@x.test")
                    return client.rcpt("b@y.test")

            wanted = {"Recipient": {"ErrorCode": 452, "Probability": 100}}
            await put(browser(site), CHAOS, wanted)
            code, text = await asyncio.to_thread(send)
            assert code == 452
            assert text.endswith(b"Chaos recipient error")
            await put(browser(site), CHAOS, {})
            assert (await asyncio.to_thread(send))[0] == 250
