"""Real processes that are killed, stopped, locked out and lied to; and what must hold afterwards."""
