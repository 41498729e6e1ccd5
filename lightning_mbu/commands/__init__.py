"""`mbu convert`, `mbu verify` and `mbu predict`: from a trained network in a file to masks in a folder."""
