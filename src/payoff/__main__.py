"""``python -m payoff`` is ``payoff``."""

from payoff.cli import main

main()
