"""The options of a server, the frozen rules that they resolve to, and the files that they name."""
