"""pushd's state in Redis or Valkey: for any number of nodes. Standalone, watched by sentinels, or a cluster."""
