# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What is known of a guest: of its machine, of the kernel that it runs, and of what they did.

`facts` has the types; `system` and `collect` find them. `guest` puts both to a machine, and `read`
to the files of one: `volatility_guestdump.facts`.
"""
