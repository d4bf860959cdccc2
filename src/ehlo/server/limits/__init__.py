"""How much, how often, how fast, and who is exempt: counts that know no socket, no option."""
