// Makes every call of the client mailpit-api against a server, and follows its events.
//
//   node mailpit.mjs BASEURL USER PASSWORD
//
// The server has Basic auth, and releases messages. It prints the names of the calls as JSON.

import assert from "node:assert/strict"
import { createRequire } from "node:module"

const require = createRequire(`${process.env.NODE_MODULES}/`)
const { MailpitClient } = require("mailpit-api")
const WebSocket = require("ws")
const [baseURL, username, password] = process.argv.slice(2)

// -- a client that notes its calls, and the events -------------------------------------------------

const made = new MailpitClient(baseURL, { auth: { username, password } })
const called = new Set()
const mailpit = new Proxy(made, {
  get(client, name) {
    if (typeof client[name] !== "function") return client[name]
    called.add(name)
    return client[name].bind(client)
  },
})

const login = { Authorization: `Basic ${Buffer.from(`${username}:${password}`).toString("base64")}` }
const socket = new WebSocket(`${baseURL.replace("http", "ws")}/api/events`, { headers: login })
const events = []
const waiting = []
socket.on("message", (data) => {
  events.push(JSON.parse(data))
  for (const wake of waiting.splice(0)) wake()
})
await new Promise((resolve, reject) => socket.on("open", resolve).on("error", reject))

/** Waits for the next event of a type for which `is` holds; the ones before are dropped. */
async function event(type, is = () => true) {
  for (;;) {
    while (events.length) {
      const found = events.shift()
      if (found.Type === type && is(found.Data)) return found.Data
    }
    await new Promise((resolve) => waiting.push(resolve))
  }
}

const keys = (value) => Object.keys(value).sort()
const address = (name, at) => ({ Name: name, Address: at })
const pixel =
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
const html = `<p>Hello <b>you</b>\n  <img src="cid:none">\n<a href="https://x.test/go">go</a></p>`
const letter = {
  From: { Email: "sender@x.test", Name: "Jörg Sender" },
  To: [{ Email: "to@y.test", Name: "To" }],
  Cc: [{ Email: "cc@y.test", Name: "Cc" }],
  Bcc: ["bcc@y.test"],
  ReplyTo: [{ Email: "reply@x.test", Name: "Reply" }],
  Subject: "Every call",
  Text: "Hello you",
  HTML: html,
  Headers: { "List-Unsubscribe": "<mailto:u@x.test>, <https://x.test/u>" },
  Tags: ["first"],
  Attachments: [
    { Content: pixel, Filename: "pixel.png" },
    { Content: pixel, Filename: "inline.png", ContentID: "pixel", ContentType: "image/png" },
  ],
}

// -- sending, and what is sent ---------------------------------------------------------------------

assert.deepEqual(keys(await event("stats")), ["Total", "Unread", "Version"])
await mailpit.deleteMessages()
const { ID } = await mailpit.sendMessage(letter)
const summary = await event("new")
const listed = {
  ID,
  Read: false,
  From: address("Jörg Sender", "sender@x.test"),
  To: [address("To", "to@y.test")],
  Cc: [address("Cc", "cc@y.test")],
  Bcc: [address("", "bcc@y.test")],
  ReplyTo: [address("Reply", "reply@x.test")],
  Subject: "Every call",
  Username: username,
  Tags: ["first"],
  Attachments: 1,
}
const { MessageID, Created, Size, Snippet, ...rest } = summary
assert.deepEqual(rest, listed)
assert.ok(MessageID && Size && Snippet.startsWith("Hello you"))
assert.ok(Math.abs(Date.parse(Created) - Date.now()) < 600_000)
await event("stats", ({ Total, Unread }) => Total === 1 && Unread === 1)

const list = await mailpit.listMessages()
assert.deepEqual(list.messages, [summary])
assert.deepEqual(keys(list), [
  ...["count", "messages", "messages_count", "messages_unread", "start", "tags", "total", "unread"],
])
assert.equal((await mailpit.listMessages(1, 10)).count, 0)
assert.deepEqual((await mailpit.searchMessages({ query: "subject:Every" })).messages, [summary])
assert.equal((await mailpit.searchMessages({ query: "no such" })).messages_count, 0)
assert.equal((await mailpit.waitForMessages({ query: "from:sender" })).count, 1)
assert.equal((await mailpit.waitForMessages({ count: 1, exact: true })).count, 1)

const message = await mailpit.waitForMessage({ query: "tag:first" })
assert.deepEqual(message, await mailpit.getMessageSummary())
assert.deepEqual(message, await mailpit.getMessageSummary(ID))
assert.deepEqual(await event("update"), { ID, Read: true })
assert.deepEqual(keys(message), [
  ...["Attachments", "Bcc", "Cc", "Date", "From", "HTML", "ID", "Inline", "ListUnsubscribe"],
  ...["MessageID", "ReplyTo", "ReturnPath", "Size", "Subject", "Tags", "Text", "To", "Username"],
])
assert.deepEqual(message.ListUnsubscribe.Links, ["mailto:u@x.test", "https://x.test/u"])
assert.equal(message.HTML, html)
const [attachment] = message.Attachments
assert.equal(attachment.FileName, "pixel.png")
assert.equal(message.Inline[0].ContentID, "pixel")
assert.deepEqual(keys(attachment.Checksums), ["MD5", "SHA1", "SHA256"])

const headers = await mailpit.getMessageHeaders(ID)
assert.deepEqual(keys(headers), [
  ...["Bcc", "Cc", "Content-Type", "Date", "From", "List-Unsubscribe", "Message-Id"],
  ...["Mime-Version", "Reply-To", "Return-Path", "Subject", "To", "X-Tags"],
])
assert.deepEqual(headers, await mailpit.getMessageHeaders())
assert.match(await mailpit.getMessageSource(ID), /^Subject: Every call\r$/m)
assert.match(await mailpit.getMessageSource(), /bcc@y\.test/)

const part = await mailpit.getMessageAttachment(ID, attachment.PartID)
assert.equal(part.type, "image/png")
assert.equal(Buffer.from(await part.arrayBuffer()).toString("base64"), pixel)
assert.equal((await mailpit.getAttachmentThumbnail(ID, attachment.PartID)).type, "image/jpeg")

assert.ok((await mailpit.renderMessageHTML()).includes(html))
const embedded = await mailpit.renderMessageHTML(ID, 1)
assert.ok(!embedded.includes(html))
assert.ok(embedded.includes('target="_blank" rel="noreferrer noopener"'))
assert.ok((await mailpit.renderMessageText()).includes("Hello you"))
assert.ok((await mailpit.renderMessageText(ID)).includes("Hello you"))

assert.equal(await mailpit.releaseMessage(ID, { To: ["a@z.test"] }), "ok")
await assert.rejects(mailpit.releaseMessage(ID, { To: ["bad"] }), /Invalid email address: bad/)

// -- states and tags -------------------------------------------------------------------------------

assert.equal(await mailpit.setReadStatus({ IDs: [ID], Read: false }), "ok")
assert.deepEqual(await event("update"), { ID, Read: false })
await event("stats", ({ Unread }) => Unread === 1)
assert.equal(await mailpit.setReadStatus({ Search: "subject:every", Read: true }, { tz: "UTC" }), "ok")
assert.deepEqual(await event("update"), { ID, Read: true })
assert.equal(await mailpit.setReadStatus({ IDs: [ID], Read: true }), "ok") // it is told again
assert.deepEqual(await event("update"), { ID, Read: true })

assert.equal(await mailpit.setTags({ IDs: [ID], Tags: ["b", "a"] }), "ok")
assert.deepEqual(await event("update"), { ID, Tags: ["a", "b"] })
assert.equal(await mailpit.renameTag("a", "c"), "ok")
assert.equal(await event("prune"), null)
assert.deepEqual(await mailpit.getTags(), ["b", "c"])
assert.equal(await mailpit.deleteTag("b"), "ok")
await assert.rejects(mailpit.deleteTag("b"), /tag not found: b/)

// -- the server ------------------------------------------------------------------------------------

const info = await mailpit.getInfo()
assert.equal(info.Messages, 1)
assert.deepEqual(info.Tags, { c: 1 })
assert.deepEqual(keys(info.RuntimeStats), [
  ...["Memory", "MessagesDeleted", "SMTPAccepted", "SMTPAcceptedSize", "SMTPIgnored"],
  ...["SMTPRejected", "Uptime"],
])
const settings = await mailpit.getConfiguration()
assert.equal(settings.MessageRelay.Enabled, true)
assert.deepEqual(keys(settings), [
  ...["ChaosEnabled", "DuplicatesIgnored", "HideDeleteAllButton", "Label", "MessageRelay"],
  "SpamAssassin",
])

const triggers = {
  Authentication: { ErrorCode: 451, Probability: 5 },
  Recipient: { ErrorCode: 452, Probability: 10 },
  Sender: { ErrorCode: 453, Probability: 15 },
}
assert.deepEqual(await mailpit.setChaosTriggers(triggers), triggers)
assert.deepEqual(await mailpit.getChaosTriggers(), triggers)
assert.equal((await mailpit.setChaosTriggers()).Sender.Probability, 0)

// Mailpit's checks are not there, as its sa-check is not when it is off
for (const check of ["htmlCheck", "linkCheck", "spamAssassinCheck"]) {
  await assert.rejects(mailpit[check](ID), /404 Not Found .*File not found/s)
}
const stranger = new MailpitClient(baseURL, { auth: { username, password: "wrong" } })
await assert.rejects(stranger.getInfo(), /401 Unauthorized/)

// -- the end ---------------------------------------------------------------------------------------

const other = await mailpit.sendMessage({ ...letter, Subject: "Another" })
assert.equal(await mailpit.deleteMessagesBySearch({ query: "subject:every" }), "ok")
assert.deepEqual(await event("delete"), { ID })
assert.equal(await mailpit.deleteMessages({ IDs: [other.ID] }), "ok")
assert.deepEqual(await event("delete"), { ID: other.ID })
await mailpit.sendMessage(letter)
assert.equal(await mailpit.deleteMessages(), "ok")
assert.equal(await event("truncate"), null)
await event("stats", ({ Total }) => Total === 0)
socket.terminate()

const methods = Object.getOwnPropertyNames(MailpitClient.prototype)
const left = methods.filter((name) => !["constructor", "request"].includes(name) && !called.has(name))
assert.deepEqual(left, [])
console.log(JSON.stringify([...called].sort()))
