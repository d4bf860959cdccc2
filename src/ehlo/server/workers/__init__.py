"""One server as several processes: a parent that binds and supervises, and workers that serve."""
