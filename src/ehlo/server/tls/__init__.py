"""TLS through memory, and its certificates. Nothing here knows SMTP."""
