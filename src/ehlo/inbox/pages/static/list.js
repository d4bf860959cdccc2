// The list: focus, selection, and what is done with the messages that are selected.

import { attempt, call, tell } from "./api.js"
import { ask } from "./dialogs.js"
import { refresh } from "./live.js"

const { here } = document.body.dataset
const RETURN = "ehlo.return" // where a message leads back to: the list, and the row
const selected = new Set()
let anchor = "" // where a range begins

const rows = () => [...document.querySelectorAll("#rows > .row")]
const rowAt = (element) => element?.closest?.("#rows > .row")
const query = () => new URLSearchParams(location.search).get("q") ?? ""
// Dates of a search are those of the browser, as in the list
const zone = () => `tz=${encodeURIComponent(Intl.DateTimeFormat().resolvedOptions().timeZone ?? "")}`

/** Returns where `u` leads to from a message. */
export function returnAddress() {
  try {
    return JSON.parse(sessionStorage.getItem(RETURN))?.list
  } catch {
    return undefined
  }
}

/** Notes where a message leads back to: a list, and the row of the message. */
export function remember(id, list = returnAddress()) {
  sessionStorage.setItem(RETURN, JSON.stringify({ list, row: `m-${id}` }))
}

function focusRow(row, scroll = true) {
  row?.querySelector(".open").focus({ preventScroll: !scroll })
  if (scroll) row?.scrollIntoView({ block: "nearest" })
}

function move(step) {
  const all = rows()
  const at = all.indexOf(rowAt(document.activeElement))
  focusRow(all[at < 0 ? (step > 0 ? 0 : all.length - 1) : Math.min(Math.max(at + step, 0), all.length - 1)])
}

// -- selection ------------------------------------------------------------------------------------

function show() {
  const there = rows()
  for (const id of selected) if (!there.some((row) => row.dataset.id === id)) selected.delete(id)
  for (const row of there) {
    const isSelected = selected.has(row.dataset.id)
    row.classList.toggle("chosen-row", isSelected)
    row.querySelector("input").checked = isSelected
  }
  const all = document.getElementById("pick-all")
  all.checked = selected.size > 0 && selected.size === there.length
  all.indeterminate = selected.size > 0 && selected.size < there.length
  document.getElementById("chosen").hidden = !selected.size
  document.getElementById("general").hidden = selected.size > 0
  document.getElementById("chosen-count").textContent = selected.size ? `${selected.size} selected` : ""
}

function toggle(row, isOn = !selected.has(row.dataset.id)) {
  if (isOn) selected.add(row.dataset.id)
  else selected.delete(row.dataset.id)
}

function pick(row, isRange) {
  const all = rows()
  const from = all.findIndex((each) => each.id === anchor)
  if (isRange && from >= 0) {
    const to = all.indexOf(row)
    for (const each of all.slice(Math.min(from, to), Math.max(from, to) + 1)) toggle(each, true)
  } else {
    toggle(row)
    anchor = row.id
  }
  show()
}

function clicked(event) {
  const row = rowAt(event.target)
  if (!row) return
  if (event.target.matches("input")) {
    pick(row, event.shiftKey)
  } else if (event.target.closest(".pick")) {
    // The label's own click on its box follows, with the keys that were down lost
    event.preventDefault()
    pick(row, event.shiftKey)
  } else if (event.ctrlKey || event.metaKey || event.shiftKey) {
    event.preventDefault()
    pick(row, event.shiftKey)
    focusRow(row, false)
  } else {
    remember(row.dataset.id, location.href)
  }
}

// -- actions --------------------------------------------------------------------------------------

function chosen() {
  if (selected.size) return [...selected]
  const row = rowAt(document.activeElement)
  return row ? [row.dataset.id] : []
}

async function mark(read, ids = chosen()) {
  if (!ids.length) return
  if (await attempt(() => call("PUT", "messages", { Read: read, IDs: ids }))) refresh()
}

async function remove(ids = chosen()) {
  if (!ids.length) return // no ids would be all messages
  if (!(await attempt(() => call("DELETE", "messages", { IDs: ids })))) return
  selected.clear()
  tell(ids.length === 1 ? "1 message deleted" : `${ids.length} messages deleted`)
  refresh()
}

async function markAll() {
  const search = query()
  await attempt(() =>
    search ? call("PUT", `messages?${zone()}`, { Read: true, Search: search }) : call("PUT", "messages", { Read: true }))
  refresh()
}

async function removeAll() {
  const search = query()
  const what = search ? "Delete all results?" : "Delete all messages?"
  if (!(await ask(what, "This cannot be undone.", "Delete"))) return
  selected.clear()
  const path = search ? `search?query=${encodeURIComponent(search)}&${zone()}` : "messages"
  if (await attempt(() => call("DELETE", path))) refresh()
}

const DO = {
  read: () => mark(true),
  unread: () => mark(false),
  delete: () => remove(),
  cancel: () => (selected.clear(), show()),
  "read-all": markAll,
  "delete-all": removeAll,
}

/** Starts the list, and returns its keys. */
export function startList() {
  document.getElementById("main").addEventListener("click", (event) => {
    clicked(event)
    DO[event.target.closest("[data-do]")?.dataset.do]?.()
  })
  document.getElementById("pick-all").addEventListener("change", (event) => {
    for (const row of rows()) toggle(row, event.target.checked)
    show()
  })
  document.getElementById("main").addEventListener("change", (event) => {
    if (!event.target.matches("#page-size")) return
    document.cookie = `ehlo_limit=${event.target.value}; path=${document.body.dataset.site}/; max-age=31536000; SameSite=Strict`
    const address = new URL(location.href)
    address.searchParams.delete("limit")
    address.searchParams.delete("start")
    location.href = address
  })
  document.addEventListener("refreshed", show)
  show()
  try {
    const { list, row } = JSON.parse(sessionStorage.getItem(RETURN)) ?? {}
    if (list === location.href && row) focusRow(document.getElementById(row))
  } catch {
    // what was remembered is of another version
  }

  const toggleRead = () => {
    const ids = new Set(chosen())
    mark(rows().some((row) => ids.has(row.dataset.id) && row.classList.contains("unread")))
  }
  const down = () => move(1)
  const up = () => move(-1)
  return {
    j: down, ArrowDown: down, k: up, ArrowUp: up,
    x: () => { const row = rowAt(document.activeElement); if (row) pick(row, false) },
    X: () => { const row = rowAt(document.activeElement); if (row) pick(row, true) },
    "#": () => remove(), Delete: () => remove(),
    r: toggleRead,
    n: () => document.getElementById("older")?.click(),
    p: () => document.getElementById("newer")?.click(),
    u: () => { if (query()) location.href = `${here}/` },
    Escape: () => { if (selected.size) { selected.clear(); show() } else if (query()) location.href = `${here}/` },
  }
}
