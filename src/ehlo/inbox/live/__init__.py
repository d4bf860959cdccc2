"""The live parts of the inbox: events, waits for mail, faults, releases, looks into a mail."""
