// The faults panel: adds and removes rules by which the server fails.
//
// The API replaces all rules at once. So that a rule which has done its part does not begin again,
// each is sent with what it has left to do.

import { attempt, call } from "./api.js"
import { refresh } from "./live.js"

function remaining({ Used = 0, ...rule }) {
  if (rule.Script) {
    const left = rule.Script.slice(Used)
    return left.length ? { ...rule, Script: left } : null
  }
  if (!rule.Times) return rule
  return Used < rule.Times ? { ...rule, Times: rule.Times - Used } : null
}

async function change(edit) {
  const { Seed, Faults: rules } = JSON.parse(await call("GET", "faults"))
  await call("PUT", "faults", { Seed, Faults: edit(rules).map(remaining).filter(Boolean) })
}

function ruleIn(form) {
  const { at, kind, reply, delay, times, after, to, sender, probability } = Object.fromEntries(new FormData(form))
  return {
    At: at,
    ...(kind === "reply" && { Reply: reply }),
    ...(kind === "delay" && { Delay: Number(delay) }),
    ...(kind === "drop" && { Drop: true }),
    Times: Number(times), // empty is 0, which is without end
    After: Number(after),
    ...(to.trim() && { To: to.trim() }),
    ...(sender.trim() && { MailFrom: sender.trim() }),
    Probability: probability === "" ? 1 : Number(probability),
  }
}

const DO = {
  "remove-fault": ({ index }) => change((rules) => rules.toSpliced(Number(index), 1)),
  "clear-faults": () => call("DELETE", "faults"),
}

/** Starts the panel, and returns its keys. */
export function startFaults() {
  const form = document.getElementById("fault-form")
  form.addEventListener("submit", async (event) => {
    event.preventDefault()
    if (await attempt(() => change((rules) => [...rules, ruleIn(form)]))) refresh()
  })
  form.elements.kind.addEventListener("change", () => {
    for (const field of form.querySelectorAll("[data-for]")) field.hidden = field.dataset.for !== form.elements.kind.value
  })
  document.getElementById("main").addEventListener("click", async (event) => {
    const button = event.target.closest("[data-do]")
    const action = DO[button?.dataset.do]
    if (action && (await attempt(() => action(button.dataset)))) refresh()
  })
  return {}
}
