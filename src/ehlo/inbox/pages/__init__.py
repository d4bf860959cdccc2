"""The pages of the inbox: rendered on the server, kept up to date by modules of JavaScript."""
