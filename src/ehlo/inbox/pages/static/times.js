// Times as a person says them, in the zone of the browser.

const SHORT = { minute: 60, hour: 3600, day: 86400 }

/** Shows all times of the page. */
export function showTimes(root = document) {
  const now = Date.now()
  for (const element of root.querySelectorAll("time")) {
    const at = new Date(element.dateTime)
    const full = at.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" })
    const passed = span((now - at) / 1000)
    const text = element.classList.contains("full") ? full + since(passed) : passed || day(at, now)
    if (element.textContent !== text) element.textContent = text
    element.title = full
  }
}

function since(passed) {
  if (!passed) return ""
  return passed === "now" ? " (now)" : ` (${passed} ago)`
}

/** Returns how long ago it was, in words; empty after a week. */
function span(seconds) {
  if (seconds < 10) return "now"
  if (seconds < SHORT.minute) return `${Math.floor(seconds)} s`
  if (seconds < SHORT.hour) return `${Math.floor(seconds / SHORT.minute)} min`
  if (seconds < SHORT.day) return `${Math.floor(seconds / SHORT.hour)} h`
  return seconds < 7 * SHORT.day ? `${Math.floor(seconds / SHORT.day)} d` : ""
}

function day(at, now) {
  const sameYear = at.getFullYear() === new Date(now).getFullYear()
  return at.toLocaleDateString(undefined, sameYear ? { day: "numeric", month: "short" } : { year: "2-digit", month: "short" })
}

/** Shows times, now and as they pass. */
export function keepTimes() {
  showTimes()
  setInterval(showTimes, 30_000)
  document.addEventListener("refreshed", () => showTimes())
}
