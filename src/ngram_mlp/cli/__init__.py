"""The commands behind `scripts/`; only this room knows all the others."""
