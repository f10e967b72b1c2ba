"""pushd's state: one domain-level interface (`base`) and its implementations."""
