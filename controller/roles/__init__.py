"""One file a role: its wiring, start and stop. start.py runs any of them."""

from controller.roles.start import run

__all__ = ["run"]
