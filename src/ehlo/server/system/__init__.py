"""What we have of the operating system: sockets, event loops, threads, memory, rights, systemd.

Nothing here knows SMTP, or an option.
"""
