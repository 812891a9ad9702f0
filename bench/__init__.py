"""Speed and scale of pbxctl, measured: see README.md."""
