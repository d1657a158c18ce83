# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What is known of a guest: of its machine, of the kernel that it runs, and of what they did.

`facts` has the types, `system` and `collect` find them in a machine, `read` in the files of one.
"""
