// The faults panel: adds and removes rules by which the server fails.

/** Starts the panel, and returns its keys. */
export function startFaults() {
  return {}
}
