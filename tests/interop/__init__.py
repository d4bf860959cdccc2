"""`ehlo` and the programs that it will meet."""
