"""Installs the package, and its plugins where Volatility looks for them."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(
    r'__version__ = "([^"]+)"',
    (ROOT / "volatility_guestdump" / "__init__.py").read_text(encoding="utf-8"),
)
assert VERSION is not None

setuptools.setup(  # type: ignore[no-untyped-call]
    name="volatility3-guestdump",
    version=VERSION[1],
    description="Volatility 3 reads debug.guest and debug.vmem, the guest dumps of VMware ESXi",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Volatility Software License 1.0",
    keywords="forensics memory volatility vmware esxi",
    classifiers=[
        "Environment :: Console",
        "Intended Audience :: Information Technology",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Topic :: Security",
    ],
    python_requires=">=3.9",
    extras_require={
        "gzip": ["rapidgzip>=0.14"],
        "test": [
            "pytest",
            "hypothesis",
            "jsonschema",
            "mypy",
            "ruff",
            "rapidgzip>=0.14",
            "cramjam>=2.11",
        ],
    },
    install_requires=["volatility3>=2.28.2,<3", "pefile>=2023.2.7"],
    packages=[
        *setuptools.find_packages(include=["volatility_guestdump", "volatility_guestdump.*"]),
        "volatility_guestdump.symbols",
    ],
    package_data={
        "volatility_guestdump": ["plugins/guestdump.py"],
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
