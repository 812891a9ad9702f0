"""The checks of `pbxctl doctor`: what usually goes wrong, and the exact fix for each.

host.py looks at this machine, picture.py at Redis and at who works on it, nodes.py at the PBXs.
In each the judging functions are pure; those that ask are few and stand below them.
"""
