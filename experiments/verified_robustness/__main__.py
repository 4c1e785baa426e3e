"""``python -m experiments.verified_robustness``: imports only what the command line needs."""

from jaxrobust.reporting import main

from .config import Config


def _run(config: Config) -> None:
    from .study import run

    run(config)


if __name__ == "__main__":
    main(Config, _run, "python -m experiments.verified_robustness")
