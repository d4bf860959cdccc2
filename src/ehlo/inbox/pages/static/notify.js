// Notifications of the browser: of new mail, while nobody looks at the page, if that is wanted.

import { attempt, call, tell } from "./api.js"

const { here, site } = document.body.dataset
const WANTED = "ehlo.notify"
const GATHER = 500 // milliseconds: mail that comes together makes one notification
const button = document.getElementById("notify")
let mails = []

function isOn() {
  try {
    return localStorage.getItem(WANTED) === "1" && Notification.permission === "granted"
  } catch {
    return false // the browser keeps nothing
  }
}

function show() {
  button.setAttribute("aria-pressed", String(isOn()))
}

async function toggle() {
  if (isOn()) localStorage.removeItem(WANTED)
  else if ((await Notification.requestPermission()) === "granted") localStorage.setItem(WANTED, "1")
  else tell("The browser does not allow notifications here")
  show()
}

/** Returns who a mail is from: without a From, it is the envelope sender, as in the list. */
async function senderOf({ ID, From }) {
  const sender = From.Name || From.Address
  if (sender) return sender
  try {
    const fields = JSON.parse(await call("GET", `message/${encodeURIComponent(ID)}/headers`))
    return fields["Return-Path"]?.[0].replace(/^<|>$/g, "") || "no sender"
  } catch {
    return "no sender" // it was deleted meanwhile
  }
}

async function publish() {
  const arrived = mails
  mails = []
  const [{ ID, Subject }] = arrived
  const isOne = arrived.length === 1
  const title = isOne ? Subject || "No subject" : `${arrived.length} new messages`
  const icon = document.getElementById("favicon").href
  const body = isOne ? await senderOf(arrived[0]) : ""
  let notice
  try {
    notice = new Notification(title, { body, icon, tag: `ehlo${site}` })
  } catch {
    button.hidden = true // this browser has notifications for service workers only
    return
  }
  notice.addEventListener("click", () => {
    window.focus()
    location.href = isOne ? `${here}/view/${encodeURIComponent(ID)}` : `${here}/`
  })
}

/** Hears of an event of the server, as JSON. */
export function hear(text) {
  const { Type, Data } = JSON.parse(text)
  if (Type !== "new" || button.hidden || !isOn() || document.hasFocus()) return
  mails.push(Data)
  if (mails.length === 1) setTimeout(publish, GATHER)
}

/** Offers notifications, where the browser has them. */
export function offerNotifications() {
  if (!window.isSecureContext || !("Notification" in window)) return
  button.hidden = false
  show()
  button.addEventListener("click", () => attempt(toggle)) // where storage is blocked, it throws
}
