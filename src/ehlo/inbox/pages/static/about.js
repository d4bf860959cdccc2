// Dialogs that read what they show when they are opened: about the inbox, and checksums of files.

import { attempt, call } from "./api.js"

const UNITS = ["B", "KB", "MB", "GB", "TB"]
const SPANS = [["day", 86_400], ["hour", 3600], ["minute", 60], ["second", 1]]

function size(bytes) {
  const power = Math.min(bytes ? Math.floor(Math.log2(bytes) / 10) : 0, UNITS.length - 1)
  return `${(bytes / 1024 ** power).toLocaleString(undefined, { maximumFractionDigits: power ? 1 : 0 })} ${UNITS[power]}`
}

function count(number, noun) {
  return `${number.toLocaleString()} ${noun}${number === 1 ? "" : "s"}`
}

function span(seconds) {
  const [name, length] = SPANS.find(([, least]) => seconds >= least) ?? ["second", 1]
  return count(Math.round(seconds / length), name)
}

function element(name, text, attributes = {}) {
  const made = document.createElement(name)
  made.textContent = text
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value)
  return made
}

async function about() {
  const info = JSON.parse(await call("GET", "info"))
  const { SMTPAccepted, SMTPAcceptedSize, SMTPRejected, Memory, Uptime } = info.RuntimeStats
  const facts = {
    Version: `ehlo ${info.Version}`,
    Running: `for ${span(Uptime)}`,
    Accepted: `${count(SMTPAccepted, "message")}, ${size(SMTPAcceptedSize)}`,
    Rejected: count(SMTPRejected, "command"),
    Stored: `${count(info.Messages, "message")}, ${info.Unread.toLocaleString()} unread`,
    File: `${info.Database} (${size(info.DatabaseSize)})`,
    Memory: Memory ? size(Memory) : "unknown",
  }
  const rows = Object.entries(facts).flatMap(([name, text]) => [element("dt", name), element("dd", text)])
  document.getElementById("about-facts").replaceChildren(...rows)
}

async function checksums() {
  const { id } = document.querySelector(".letter").dataset
  const unseen = { "X-Ehlo-Refresh": "1" } // a message that is marked as unread stays so
  const message = JSON.parse(await call("GET", `message/${id}`, undefined, unseen))
  const files = [...message.Attachments, ...message.Inline, ...(message.OtherParts ?? [])]
  const items = files.map((file) => {
    const item = element("li", "")
    const list = element("dl", "", { class: "facts" })
    for (const [name, digits] of Object.entries(file.Checksums)) {
      const shown = element("dd", "")
      shown.append(element("button", digits, { type: "button", class: "sum", "data-copy": digits, title: `Copy the ${name}` }))
      list.append(element("dt", name), shown)
    }
    item.append(element("h3", file.FileName || file.ContentType, { dir: "auto" }), list)
    return item
  })
  document.getElementById("checksum-list").replaceChildren(...items)
}

const FILL = { about, checksums }

/** Reads what a dialog shows when a button opens it. */
export function fillDialogs() {
  document.addEventListener("click", (event) => {
    const fill = FILL[event.target.closest("[data-open]")?.dataset.open]
    if (fill) attempt(fill)
  })
}
