"""Logins: credentials, SASL mechanisms, and their exchange in lines of SMTP."""
