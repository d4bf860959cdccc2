"""Files of users and password hashes, for logins."""
