// Keeps a page up to date: hears of changes, reads the page again, and takes over what is new.
//
// Elements with `data-live` are replaced by those of the same id. In `data-live="rows"` each row is
// kept unless its `data-state` differs, so that focus and selection stay where they are.

import { announce, tell } from "./api.js"

const { here, screen } = document.body.dataset
const GAP = 300 // milliseconds between two readings at least
const PATIENCE = 30_000 // milliseconds for one reading
let last = 0
let isReading = false
let isWanted = false
let isLeft = false
let reading = new AbortController()

/** Reads the page again, soon; many calls make one reading. */
export function refresh() {
  isWanted = true // also while it is read: the change may be newer than what comes
  if (isReading) return
  isReading = true
  const wait = Math.max(0, last + (document.hidden ? 4 * GAP : GAP) - performance.now())
  setTimeout(async () => {
    isWanted = false
    try {
      if (!isLeft && screen !== "missing") await read() // it may be a search that takes too long
    } catch {
      // The server is away: the connection says so, and reads again when it is back
    }
    last = performance.now()
    isReading = false
    if (isWanted) refresh()
  }, wait)
}

/** Reads the page no more, because it is about to be left; with false, reads it again. */
export function leave(isLeaving) {
  isLeft = isLeaving
  if (isLeaving) reading.abort()
  else refresh()
}

async function read() {
  reading = new AbortController()
  const signal = AbortSignal.any([reading.signal, AbortSignal.timeout(PATIENCE)])
  const response = await fetch(location.href, { headers: { "X-Ehlo-Refresh": "1" }, signal })
  if (response.status === 404 && screen === "message") tell("This message is no longer here")
  if (!response.ok) return
  const page = new DOMParser().parseFromString(await response.text(), "text/html")
  document.title = page.title
  const icon = page.getElementById("favicon").getAttribute("href")
  const shown = document.getElementById("favicon")
  if (shown.getAttribute("href") !== icon) shown.setAttribute("href", icon)
  for (const fresh of page.querySelectorAll("[data-live]")) {
    const old = document.getElementById(fresh.id)
    if (!old || old.closest("dialog[open]")) continue // what a person edits stays
    if (fresh.dataset.live === "rows") mergeRows(old, fresh)
    else if (old.innerHTML !== fresh.innerHTML) replace(old, fresh)
  }
  document.dispatchEvent(new Event("refreshed"))
}

function replace(old, fresh) {
  const focused = old.contains(document.activeElement) ? document.activeElement : null
  const adopted = document.importNode(fresh, true)
  old.replaceWith(adopted)
  if (!focused) return
  const same = focused.id ? document.getElementById(focused.id) : null
  const href = focused.getAttribute("href")
  ;(same ?? [...adopted.querySelectorAll("a")].find((a) => a.getAttribute("href") === href))?.focus()
}

function mergeRows(list, fresh) {
  const known = new Map([...list.children].map((row) => [row.id, row]))
  const focused = document.activeElement?.closest?.(".row")
  const at = focused ? [...list.children].indexOf(focused) : -1
  const wasEmpty = known.size === 0
  const arrived = []
  const rows = [...fresh.children].map((row) => {
    const old = known.get(row.id)
    if (old && old.dataset.state === row.dataset.state) return old
    const adopted = document.importNode(row, true)
    if (!old) arrived.push(adopted)
    return adopted
  })
  for (const row of arrived) if (!wasEmpty) row.classList.add("fresh")
  // Only what has moved is touched: a row that leaves the document loses its focus
  const wanted = new Set(rows)
  for (const row of [...list.children]) if (!wanted.has(row)) row.remove()
  rows.forEach((row, index) => {
    if (list.children[index] !== row) list.insertBefore(row, list.children[index] ?? null)
  })
  if (focused && !focused.isConnected) {
    const next = document.getElementById(focused.id) ?? list.children[Math.min(at, rows.length - 1)]
    next?.querySelector(".open").focus({ preventScroll: true })
  }
  const mails = arrived.filter((row) => row.classList.contains("unread"))
  if (mails.length === 1) announce(`New message: ${mails[0].querySelector(".subject").textContent}`)
  else if (mails.length) announce(`${mails.length} new messages`)
}

// -- changes --------------------------------------------------------------------------------------

/** Hears of changes by WebSocket, or by Server-Sent Events where a proxy has no WebSocket.
 *  `hear` is called with each of them, as JSON. */
export function listen(hear) {
  let failures = 0

  function connected() {
    failures = 0
    state("live", "live")
    refresh() // what happened meanwhile
  }

  function lost() {
    failures += 1
    state("lost", "not connected")
    setTimeout(connect, Math.min(500 * 2 ** failures, 15_000))
  }

  function changed(event) {
    refresh()
    hear(event.data)
  }

  function connect() {
    // A browser opens few streams to a server, but many WebSockets: so each tab may have one
    if (failures % 2) listenByStream(connected, changed, lost)
    else listenBySocket(connected, changed, lost)
  }

  connect()
}

function listenBySocket(connected, changed, lost) {
  const address = new URL(`${here}/api/events`, location.href)
  address.protocol = address.protocol.replace("http", "ws")
  const socket = new WebSocket(address)
  socket.addEventListener("open", connected)
  socket.addEventListener("message", changed)
  socket.addEventListener("close", lost)
}

function listenByStream(connected, changed, lost) {
  const source = new EventSource(`${here}/api/v1/events`)
  source.addEventListener("open", connected)
  source.addEventListener("message", changed)
  source.addEventListener("error", () => {
    source.close() // not by itself: the WebSocket is tried first
    lost()
  })
}

function state(name, text) {
  const shown = document.getElementById("connection")
  shown.dataset.state = name
  shown.querySelector(".text").textContent = text
  shown.title = name === "live" ? "New mail appears by itself" : "Trying to connect"
}
