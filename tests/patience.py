"""How long tests wait, in real seconds, for what comes at once unless it is broken."""

# No figure that a slow machine could miss: a test that fails with it has waited for what never came.
PATIENCE = 60.0
