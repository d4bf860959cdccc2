// Keys. None acts while a person types, and none together with Ctrl, Alt or Meta.

const TYPED = "input:not([type=checkbox]), textarea, select, [contenteditable]"

/** Listens for keys; `actions` has a function for each, and for `g` and another, as in `g i`. */
export function listenForKeys(actions) {
  let before = ""
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing || event.defaultPrevented) return
    if (document.querySelector("dialog[open]")) return
    if (event.target.closest?.(TYPED)) {
      if (event.key === "Escape") event.target.blur()
      return
    }
    const key = before === "g" ? `g ${event.key}` : event.key
    before = event.key
    const action = actions[key]
    if (!action) return
    if (action(event) !== false) event.preventDefault()
    before = ""
  })
}
