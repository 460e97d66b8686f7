"""``python -m spectral_toolkit`` is ``spectral-toolkit``."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
