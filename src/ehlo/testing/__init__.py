"""Tools for testing programs that send mail, and handlers that receive it."""
