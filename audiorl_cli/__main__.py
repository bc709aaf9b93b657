"""`python -m audiorl_cli`."""

from audiorl_cli.cli import main

if __name__ == "__main__":
    main()
