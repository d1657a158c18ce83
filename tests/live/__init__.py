# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Memory that was read while the guest ran: what plugins show of it, and whether that is true.

Such an image is smeared: its pages are of different moments. Lists lead to what is gone, and to
what is something else by now. See `tests.live.__main__` for the experiment.
"""
