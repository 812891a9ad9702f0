"""One file a role: its wiring, start and stop. start.py runs any of them."""
