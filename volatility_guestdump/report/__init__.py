# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What is made of the facts of a guest for people: a headline, and a document of bounded size.

`incident` makes the headline, `compose` the `document`, `evidence` what it says of files, programs
and time, `summary` its rows on the screen. `exports/` writes it to files.
"""
