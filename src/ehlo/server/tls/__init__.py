"""TLS through memory, and the certificates it is done with. Nothing here knows SMTP."""
