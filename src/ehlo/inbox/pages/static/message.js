// A message: its frame, its tags, its release, and the way to the next one.

import { attempt, call, tell } from "./api.js"
import { remember, returnAddress } from "./list.js"
import { leave, refresh } from "./live.js"

const { here } = document.body.dataset
const LEAST = 240 // pixels that the frame is high
const MOST = 20_000 // a higher mail scrolls in its frame
const HEIGHTS = 12 // how often a mail may change its height, until it is loaded or resized again
const TRUSTED = "ehlo.remote" // senders whose remote content is loaded

const letter = () => document.querySelector(".letter")

function goBack() {
  location.href = returnAddress() ?? document.getElementById("back").href
}

async function remove() {
  const next = document.querySelector("#older[href]") ?? document.querySelector("#newer[href]")
  leave(true) // the message is gone before its page is
  if (!(await attempt(() => call("DELETE", "messages", { IDs: [letter().dataset.id] })))) leave(false)
  else if (next) location.replace(next.href)
  else goBack()
}

async function toggleRead() {
  const read = document.getElementById("toggle-read").textContent.includes("Mark read")
  await attempt(() => call("PUT", "messages", { Read: read, IDs: [letter().dataset.id] }))
  refresh()
}

const words = (text) => text.split(",").map((each) => each.trim()).filter(Boolean)

async function saveTags() {
  const tags = words(document.getElementById("tags-input").value)
  if (await attempt(() => call("PUT", "tags", { Tags: tags, IDs: [letter().dataset.id] }))) refresh()
}

async function release() {
  const to = words(document.getElementById("release-input").value)
  if (await attempt(() => call("POST", `message/${letter().dataset.id}/release`, { To: to }))) tell("Released")
}

const FORMS = { tags: saveTags, release }
const DO = {
  delete: remove,
  "toggle-read": toggleRead,
  "more-links": () => document.querySelector(".chips").classList.add("all"),
}

// -- the frame ------------------------------------------------------------------------------------

function trusted() {
  try {
    const list = JSON.parse(localStorage.getItem(TRUSTED))
    return Array.isArray(list) ? list : []
  } catch {
    return []
  }
}

function loadRemote() {
  const frame = document.getElementById("mail")
  frame.src = `${frame.dataset.src}&remote=1`
  document.getElementById("remote").hidden = true
}

// The frame has an origin of its own, so it tells its height. Nothing but our own script may run in
// it, and all the same what it says is only a number, within bounds, and not for ever.
function followHeight(frame) {
  let left = HEIGHTS
  addEventListener("resize", () => { left = HEIGHTS })
  frame.addEventListener("load", () => { left = HEIGHTS })
  addEventListener("message", (event) => {
    const height = event.data?.messageHeight
    if (event.source !== frame.contentWindow || !Number.isFinite(height) || left === 0) return
    left -= 1 // a mail that is as high as its frame, and a bit, would grow without end
    frame.style.height = `${Math.min(Math.max(Math.ceil(height), LEAST), MOST)}px`
  })
}

function startFrame() {
  const frame = document.getElementById("mail")
  if (!frame) return
  followHeight(frame)
  const notice = document.getElementById("remote")
  const sender = notice?.dataset.sender
  if (sender && trusted().includes(sender)) loadRemote()
  else frame.src = frame.dataset.src
  notice?.addEventListener("click", (event) => {
    const wanted = event.target.closest("[data-remote]")?.dataset.remote
    if (!wanted) return
    loadRemote()
    const senders = [...trusted().filter((each) => each !== sender), sender].slice(-500)
    if (wanted === "sender") attempt(() => localStorage.setItem(TRUSTED, JSON.stringify(senders)))
  })
  document.querySelector(".widths")?.addEventListener("click", (event) => {
    const wanted = event.target.closest("[data-width]")
    if (!wanted) return
    document.querySelector(".stage").dataset.width = wanted.dataset.width
    for (const each of document.querySelectorAll("[data-width][aria-pressed]")) each.setAttribute("aria-pressed", String(each === wanted))
  })
}

// -- headers --------------------------------------------------------------------------------------

function filterHeaders(text) {
  const wanted = text.toLowerCase()
  for (const row of document.querySelectorAll(".headers tr")) {
    row.hidden = !row.textContent.toLowerCase().includes(wanted)
  }
}

/** Starts a message, and returns its keys. */
export function startMessage() {
  startFrame()
  remember(letter().dataset.id)
  // A message opens at its subject; only a tab that was chosen is scrolled to
  if (!location.pathname.endsWith(`/view/${letter().dataset.id}`)) {
    document.querySelector(".tabs [aria-current]").scrollIntoView({ block: "nearest", inline: "center" })
  }
  document.addEventListener("click", (event) => DO[event.target.closest("main [data-do]")?.dataset.do]?.())
  document.addEventListener("submit", (event) => FORMS[event.target.dataset.form]?.())
  document.getElementById("filter")?.addEventListener("input", (event) => filterHeaders(event.target.value))
  document.getElementById("back").addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return
    event.preventDefault()
    goBack()
  })
  const tabs = [...document.querySelectorAll(".tabs a")]
  const tab = (number) => () => tabs[number - 1]?.click()
  const older = () => document.querySelector("#older[href]")?.click()
  const newer = () => document.querySelector("#newer[href]")?.click()
  return {
    ...Object.fromEntries([1, 2, 3, 4, 5, 6, 7].map((number) => [String(number), tab(number)])),
    n: older, j: older, p: newer, k: newer,
    u: goBack, Escape: goBack,
    r: toggleRead,
    "#": remove, Delete: remove,
  }
}
