// Dialogs: opened by `data-open`, closed by `data-close`; and a question before what cannot be undone.

/** Lets buttons open and close dialogs. */
export function listenForDialogs() {
  document.addEventListener("click", (event) => {
    const opener = event.target.closest("[data-open]")
    if (opener) open(opener.dataset.open)
    if (event.target.closest("[data-close]") || event.target.matches("dialog")) {
      event.target.closest("dialog").close() // the dialog itself is its backdrop, too
    }
  })
}

/** Opens a dialog by its id. */
export function open(id) {
  const dialog = document.getElementById(id)
  if (dialog && !dialog.open) dialog.showModal()
}

/** Asks a question; resolves to whether the answer is yes. */
export function ask(title, text, yes) {
  const dialog = document.getElementById("confirm")
  document.getElementById("confirm-title").textContent = title
  document.getElementById("confirm-text").textContent = text
  document.getElementById("confirm-yes").textContent = yes
  dialog.returnValue = ""
  dialog.showModal()
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true })
  })
}
