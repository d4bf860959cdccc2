"""The operating system: sockets, event loops, threads, memory, privileges, systemd.

Nothing here knows SMTP, or an option.
"""
