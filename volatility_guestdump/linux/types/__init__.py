# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The kernel's types, wherever they come from.

protocol    what is asked of them: members by name, sizes, constants of enums
reading     members of structures in memory, by what the types say of them
lists       linked lists, of every kind
btf         the kernel's own types; btf_in_image: where they lie; btf_types: asked by name
isf         those of an ISF document

A further source of types is one more class that fulfils `protocol.Types`, and one more place in
`LinuxKernel.types` where it is asked.
"""
