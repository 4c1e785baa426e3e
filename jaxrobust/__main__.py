"""``python -m jaxrobust``, the same as the command ``jaxrobust``."""

from jaxrobust.cli import jaxrobust

if __name__ == "__main__":
    jaxrobust()
