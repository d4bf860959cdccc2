// Starts a page: what all pages have, and then its own screen.

import { fillDialogs } from "./about.js"
import { attempt, call, tell } from "./api.js"
import { listenForDialogs, open } from "./dialogs.js"
import { startFaults } from "./faults.js"
import { listenForKeys } from "./keys.js"
import { startList } from "./list.js"
import { listen, refresh } from "./live.js"
import { startMessage } from "./message.js"
import { hear, offerNotifications } from "./notify.js"
import { keepTimes } from "./times.js"

const { here, site, screen } = document.body.dataset

function keep(name, value) {
  document.cookie = `${name}=${encodeURIComponent(value)}; path=${site}/; max-age=31536000; SameSite=Strict`
}

function switchTheme() {
  const root = document.documentElement
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches
  root.dataset.theme = isDark ? "light" : "dark"
  keep("ehlo_theme", root.dataset.theme)
}

async function copy(button) {
  const from = button.dataset.copyFrom
  const text = from ? document.getElementById(from).textContent : button.dataset.copy
  try {
    await navigator.clipboard.writeText(text)
  } catch {
    copyBySelection(text) // a page without TLS, on another machine
  }
  tell(text.length > 60 ? "Copied" : `Copied ${text}`)
}

function copyBySelection(text) {
  const area = document.createElement("textarea")
  area.value = text
  document.body.append(area)
  area.select()
  document.execCommand("copy")
  area.remove()
}

async function changeTag(button) {
  const row = button.closest("[data-tag]")
  const path = `tags/${encodeURIComponent(row.dataset.tag)}`
  const renames = button.dataset.do === "rename-tag"
  const name = row.querySelector("input").value.trim()
  const done = await attempt(() => (renames ? call("PUT", path, { Name: name }) : call("DELETE", path)))
  if (!done) return
  if (renames) row.dataset.tag = name
  else row.remove()
  refresh()
}

document.addEventListener("click", (event) => {
  const copies = event.target.closest("[data-copy], [data-copy-from]")
  if (copies) copy(copies)
  const tag = event.target.closest("[data-do$='-tag']")
  if (tag) changeTag(tag)
})
document.getElementById("theme").addEventListener("click", switchTheme)
document.getElementById("help").addEventListener("click", () => open("keys"))
keep("ehlo_zone", Intl.DateTimeFormat().resolvedOptions().timeZone ?? "")
listenForDialogs()
fillDialogs()
offerNotifications()
keepTimes()

const START = { list: startList, message: startMessage, faults: startFaults }
listenForKeys({
  "/": () => document.getElementById("search").select(),
  "?": () => open("keys"),
  "g i": () => { location.href = `${here}/` },
  u: () => { location.href = `${here}/` },
  ...START[screen]?.(),
})
listen(hear)
document.documentElement.dataset.ready = "" // what tests wait for
