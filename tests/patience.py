"""How long tests wait, in real seconds, for what comes at once unless it is broken."""

# No figure that a slow machine could miss: a test that fails with it has waited for what never came.
PATIENCE = 60.0

# For what comes to a device: less than the 30 s after which its pump looks by itself, or lost wake-ups would not show.
PROMPT = 25.0
