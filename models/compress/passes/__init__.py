"""The passes: one file each. `registry` lists them in the order of their stages."""
