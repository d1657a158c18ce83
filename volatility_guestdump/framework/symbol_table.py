# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""kallsyms and BTF of the dump as a Volatility symbol table.

It is put into Volatility's symbol space where a table loaded from an ISF file would be. Unlike
that, it makes the templates of a structure's members when they are asked for, and not those of
all structures that can be reached from there: a process list needs a dozen of a thousand.
"""

import contextlib
import copy
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Optional

from volatility3.framework import constants, exceptions, interfaces, objects
from volatility3.framework.objects import templates
from volatility3.framework.symbols import intermed, linux

# LinuxKernelIntermedSymbols needs it, but leaves it to the plugins to import it.
from volatility3.framework.symbols.linux.extensions import network  # noqa: F401

from volatility_guestdump.framework import makers, mends
from volatility_guestdump.framework.machines import machine_of
from volatility_guestdump.kernels import search_linux
from volatility_guestdump.linux.isf.document import IsfView
from volatility_guestdump.linux.kernel import LinuxKernel


class _Members(Mapping[str, tuple[int, interfaces.objects.Template]]):
    """The members of a structure, name -> (offset, template), made when they are asked for.

    Args:
        table: that has the structure.
        type_name: of the structure.
    """

    def __init__(self, table: "_GuestDumpFormat", type_name: str) -> None:
        self._table = table
        self._type_name = type_name
        self._made: dict[str, tuple[int, interfaces.objects.Template]] = {}

    @functools.cached_property
    def _fields(self) -> dict[str, tuple[int, dict[str, Any]]]:
        return self._table.fields(self._type_name)

    def __getitem__(self, name: str) -> tuple[int, interfaces.objects.Template]:
        member = self._made.get(name)
        if member is None:
            offset, descriptor = self._fields[name]
            member = self._made[name] = (offset, self._table.template(descriptor))
        return member

    def get(self, name: str, default: Any = None) -> Any:
        """Returns a member, or a default."""
        member = self._made.get(name)
        if member is None and name in self:
            member = self[name]
        return default if member is None else member

    def __contains__(self, name: object) -> bool:
        if name in self._fields:
            return True
        # To say that the kernel has no such member would be false.
        self._table.refuse_lost(self._type_name, name)
        return False

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Members":
        # A copied context makes its own.
        return _Members(copy.deepcopy(self._table, memo), self._type_name)


class _GuestDumpFormat(intermed.Version8Format):
    """The newest ISF format over an `IsfView`.

    It is hidden, for Volatility would take every visible subclass for a version of the format
    and load JSON files with it.
    """

    hidden = True

    def __init__(
        self,
        context: interfaces.context.ContextInterface,
        config_path: str,
        name: str,
        view: IsfView,
        native_types: Optional[interfaces.symbols.NativeTableInterface] = None,
        table_mapping: Optional[dict[str, str]] = None,
    ) -> None:
        super().__init__(context, config_path, name, view.document, native_types, table_mapping)
        self._view = view

    def get_type(self, type_name: str) -> interfaces.objects.Template:
        """Resolves an individual type, without its members."""
        if type_name not in self._json_object["user_types"]:
            template = super().get_type(type_name)
            if isinstance(template, templates.ObjectTemplate):
                return makers.resolvable(template)
            return template
        kind, size = self._view.types.outline(type_name)
        object_class = self.get_type_class(type_name)
        if object_class is objects.AggregateType:
            object_class = objects.StructType if kind == "struct" else objects.UnionType
        return makers.structure(
            object_class, self.name + constants.BANG + type_name, size, _Members(self, type_name)
        )

    def fields(self, type_name: str) -> dict[str, tuple[int, dict[str, Any]]]:
        """Returns name -> (offset, type) of a structure's members.

        Raises:
            SymbolError: the structure is damaged.
        """
        try:
            fields = self._json_object["user_types"][type_name]["fields"]
            return {name: (at, field["type"]) for at, name, field in self._reduce_fields(fields)}
        except KeyError as error:
            raise exceptions.SymbolError(
                type_name, self.name, f"{type_name} cannot be decoded"
            ) from error

    def refuse_lost(self, type_name: str, member: object) -> None:
        """Says that a member that is asked for is on a page that is missing.

        Raises:
            SymbolError: it is.
        """
        if self._view.types.is_lost(type_name, member):
            raise exceptions.SymbolError(
                f"{type_name}.{member}",
                self.name,
                f"The type of {type_name}.{member} is on a page of the kernel's BTF that is "
                f"missing from the dump",
            )

    def template(self, descriptor: dict[str, Any]) -> interfaces.objects.Template:
        """Returns the template of a member, with all that it refers to."""
        return self._resolve(self._interdict_to_template(descriptor))

    def _resolve(self, template: interfaces.objects.Template) -> interfaces.objects.Template:
        # Plugins resolve a member that is a structure itself; what pointers and arrays refer to
        # is up to the symbol space.
        if not isinstance(template, templates.ObjectTemplate):
            return template
        resolved = makers.resolvable(template)
        for child in resolved.children:
            if not isinstance(child, templates.ReferenceTemplate):
                resolved.replace_child(child, self._resolve(child))
                continue
            # One that remains says so when it is used.
            with contextlib.suppress(exceptions.SymbolError):
                resolved.replace_child(
                    child, self.context.symbol_space.get_type(child.vol.type_name)
                )
        return resolved

    @property
    def types(self) -> Iterable[str]:
        """The names of the types. The inherited property converts them all, at every call."""
        return self._type_names

    @functools.cached_property
    def _type_names(self) -> Iterable[str]:
        return dict.fromkeys((*self._json_object["user_types"], *self.natives.types))


class _GuestDumpTable(intermed.IntermediateSymbolTable):
    """A table whose URL is that of the file that describes a machine, instead of an ISF file."""

    def __init__(
        self,
        context: interfaces.context.ContextInterface,
        config_path: str,
        name: str,
        isf_url: str,
        native_types: Optional[interfaces.symbols.NativeTableInterface] = None,
        table_mapping: Optional[dict[str, str]] = None,
        validate: bool = True,
        class_types: Optional[Mapping[str, type[interfaces.objects.ObjectInterface]]] = None,
        symbol_mask: int = 0,
    ) -> None:
        self._kernel = _kernel_at(context, isf_url)
        self._view = IsfView(self._kernel)
        self._delegate = _GuestDumpFormat(
            context, config_path, name, self._view, native_types, table_mapping
        )
        # Past the loading of a JSON file.
        super(intermed.IntermediateSymbolTable, self).__init__(
            context,
            config_path,
            name,
            native_types or self._delegate.natives,
            table_mapping=table_mapping,
            class_types=class_types,
        )
        self.config["isf_url"] = isf_url
        self.config["symbol_mask"] = symbol_mask

    def get_symbol(self, name: str) -> interfaces.symbols.SymbolInterface:
        """Returns the symbol of a name."""
        mends.refuse_unreadable_kallsyms(self._kernel, name, self.name)
        symbol: interfaces.symbols.SymbolInterface = super().get_symbol(name)
        return symbol

    def get_symbols_by_location(self, offset: int, size: int = 0) -> Iterable[str]:
        """Returns the names of all symbols at an address, or in a range of addresses."""
        mask = int(str(self.config["symbol_mask"]))
        between = self._view.symbols_between(offset, offset + size, mask) if size >= 0 else None
        if between is not None:
            return [name for _, name in between]
        if not self._sort_symbols:
            self._sort_symbols = self._view.symbols_by_location(mask)
        return super().get_symbols_by_location(offset, size)


def _kernel_at(context: interfaces.context.ContextInterface, location: str) -> LinuxKernel:
    for layer in context.layers.values():
        machine = machine_of(layer)
        if machine is not None and machine.origin.location == location:
            kernel = search_linux(machine)
            if kernel is not None:
                return kernel
    raise exceptions.SymbolSpaceError(f"No layer has the Linux kernel of {location}")


class LinuxGuestDumpSymbols(linux.LinuxKernelIntermedSymbols, _GuestDumpTable):
    """The symbols and types of the Linux kernel in a guest dump, from the dump itself.

    The layer of the dump has to be in the context already.

    Raises:
        KernelError: the kernel has no kallsyms or no BTF.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        mends.install(self)
