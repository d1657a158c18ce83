# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What is known of a guest, and its words.

`facts` has what is known, `rows` says it in the words of guestdump.Info. `collect` makes of both
the `document` that guestdump.Report writes: as JSON, or by `html`.
"""
