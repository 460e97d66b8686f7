"""Open up vision transformers: capture every layer, solve one spectral problem, see the eigenvectors.

The public names are listed in ``__init__.pyi``, for type checkers and for this module alike. Each is loaded on first
use (PEP 562), so that ``import spectral_toolkit`` stays instant.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
