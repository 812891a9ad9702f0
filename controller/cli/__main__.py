"""`python -m controller.cli`, which the supervisor starts its roles by."""

from controller.cli.main import main

main()
