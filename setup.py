# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What pyproject.toml cannot say: which files are installed where."""

import setuptools

setuptools.setup(
    packages=[
        *setuptools.find_packages(include=["volatility_guestdump", "volatility_guestdump.*"]),
        "volatility_guestdump.plugins",
        "volatility_guestdump.symbols",
    ],
    package_data={
        "volatility_guestdump": ["py.typed"],
        "volatility_guestdump.exports": ["*.html", "*.css", "*.json"],
        "volatility_guestdump.symbols": ["*.json"],
    },
    # Volatility imports what lies in its own plugins folder. The module alone goes there; an
    # __init__.py would belong to Volatility.
    package_dir={
        "volatility3.plugins": "volatility_guestdump/plugins",
        "volatility_guestdump.symbols": "symbols",
    },
    py_modules=["volatility3.plugins.guestdump"],
)
