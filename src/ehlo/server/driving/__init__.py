"""The parts of a session, which `driver.py` holds together: one duty each, and its state."""
