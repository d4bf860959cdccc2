// Calls of the API, and what the user is told of them.

const { here } = document.body.dataset

/** Calls the API of this inbox; throws an Error with the words of the server. */
export async function call(method, path, body, headers = {}) {
  const response = await fetch(`${here}/api/v1/${path}`, {
    method,
    headers: body === undefined ? headers : { ...headers, "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  })
  const text = await response.text()
  if (!response.ok) throw new Error(text.trim().slice(0, 300) || `HTTP ${response.status}`)
  return text
}

let hiding = 0

/** Shows a line at the bottom of the page for a few seconds. */
export function tell(text) {
  const toast = document.getElementById("toast")
  const home = document.querySelector("dialog[open]") ?? document.body // a dialog covers the rest
  if (toast.parentNode !== home) home.append(toast)
  toast.textContent = text
  toast.classList.add("shown")
  clearTimeout(hiding)
  hiding = setTimeout(() => toast.classList.remove("shown"), 3500)
}

/** Runs an action, and shows why it failed. Returns whether it succeeded. */
export async function attempt(action) {
  try {
    await action()
    return true
  } catch (error) {
    tell(error instanceof TypeError ? "The server does not answer" : error.message)
    return false
  }
}

/** Tells screen readers, and no one else. */
export function announce(text) {
  document.getElementById("news").textContent = text
}
