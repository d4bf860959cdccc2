"""The API of the inbox: that of Mailpit, version 1, with fields and differences of its own."""
