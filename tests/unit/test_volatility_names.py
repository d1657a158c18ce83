# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Private names of Volatility that the package uses: all in one list, and all still there.

Volatility promises nothing for a name with an underscore, so pyproject.toml allows only versions
that the tests have passed with. Where a test of this file fails with a newer version, `PRIVATE`
says which of our files has to follow.
"""

import ast
import importlib
import inspect
import pathlib
import pkgutil
import textwrap
from collections.abc import Iterator
from typing import NamedTuple

import pytest

import volatility_guestdump

PACKAGE = pathlib.Path(volatility_guestdump.__file__).parent
#: The files that know Volatility.
FILES = sorted(
    path.relative_to(PACKAGE).as_posix()
    for part in ("framework", "plugins")
    for path in (PACKAGE / part).rglob("*.py")
)


class Private(NamedTuple):
    """Names of a class of Volatility, and the files of ours that use them.

    Attributes:
        owner: the class that defines them.
        names: the names, separated by blanks.
        users: the files, separated by blanks.
    """

    owner: str
    names: str
    users: str


PRIVATE = (
    # What all that is configurable has.
    Private(
        "volatility3.framework.interfaces.configuration:ConfigurableInterface",
        "_context",
        "framework/intel.py framework/layers.py",
    ),
    Private(
        "volatility3.framework.interfaces.configuration:ConfigurableInterface",
        "_config_path",
        "framework/layers.py",
    ),
    # Every plugin of Volatility sets these two.
    Private(
        "volatility3.framework.interfaces.configuration:VersionableInterface",
        "_version _required_framework_version",
        "plugins/guestdump.py",
    ),
    Private(
        "volatility3.framework.interfaces.plugins:PluginInterface",
        "_progress_callback",
        "plugins/guestdump.py",
    ),
    # A layer of a file reads through a stream of ours, and is not asked for its size.
    Private("volatility3.framework.layers.physical:FileLayer", "_file", "framework/layers.py"),
    Private(
        "volatility3.framework.layers.physical:FileLayer",
        "_file_",
        "framework/layers.py framework/stacking.py",
    ),
    Private(
        "volatility3.framework.layers.physical:FileLayer",
        "_maximum_address",
        "framework/stacking.py",
    ),
    # A layer of a machine's memory has segments, and what it is of.
    Private(
        "volatility3.framework.layers.segmented:NonLinearlySegmentedLayer",
        "_load_segments _segments",
        "framework/layers.py",
    ),
    Private(
        "volatility3.framework.layers.segmented:NonLinearlySegmentedLayer",
        "_base_layer",
        "framework/layers.py",
    ),
    Private(
        "volatility3.framework.interfaces.layers:DataLayerInterface",
        "_metadata",
        "framework/layers.py",
    ),
    # Layers of page tables: a page's place is kept, and there are five levels.
    Private(
        "volatility3.framework.layers.intel:Intel",
        "_base_layer _translate _maxphyaddr _maxvirtaddr _structure _pte_pfn",
        "framework/intel.py",
    ),
    Private(
        "volatility3.framework.layers.intel:LinuxMixin",
        "_pte_needs_invert _pte_pfn",
        "framework/intel.py",
    ),
    # A symbol table over the kernel's own types, which are decoded when they are asked for.
    Private(
        "volatility3.framework.symbols.intermed:IntermediateSymbolTable",
        "_delegate",
        "framework/structures.py framework/symbol_table.py",
    ),
    Private(
        "volatility3.framework.symbols.intermed:ISFormatTable",
        "_json_object",
        "framework/symbol_table.py",
    ),
    Private(
        "volatility3.framework.symbols.intermed:Version1Format",
        "_interdict_to_template",
        "framework/symbol_table.py",
    ),
    Private(
        "volatility3.framework.symbols.intermed:Version8Format",
        "_reduce_fields",
        "framework/symbol_table.py",
    ),
    Private(
        "volatility3.framework.interfaces.symbols:BaseSymbolTableInterface",
        "_sort_symbols",
        "framework/symbol_table.py",
    ),
    # Objects that know what they are made of in one dictionary, and share their members.
    Private(
        "volatility3.framework.interfaces.objects:ObjectInterface",
        "_vol",
        "framework/templates.py",
    ),
    Private("volatility3.framework.interfaces.objects:Template", "_vol", "framework/templates.py"),
    Private(
        "volatility3.framework.interfaces.objects:ObjectInterface",
        "_context",
        "framework/mends.py framework/open_files.py framework/page_cache.py framework/templates.py",
    ),
    Private(
        "volatility3.framework.objects:PrimitiveObject", "_data_format", "framework/templates.py"
    ),
    Private("volatility3.framework.objects:Pointer", "_cache", "framework/templates.py"),
    Private(
        "volatility3.framework.objects:AggregateType",
        "_concrete_members",
        "framework/templates.py",
    ),
    # Each node of the areas of a process' memory is read by a call of its own.
    Private(
        "volatility3.framework.symbols.linux.extensions:maple_tree",
        "_parse_maple_tree_node",
        "framework/mends.py",
    ),
    # What exported symbols are called.
    Private(
        "volatility3.framework.symbols.linux.extensions:kernel_symbol",
        "_do_get_name _do_get_namespace _offset_to_ptr",
        "framework/mends.py",
    ),
    # What plugins show of long arguments, and of mounts that a process does not see.
    Private(
        "volatility3.plugins.linux.psaux:PsAux",
        "_get_command_line_args",
        "framework/mends.py",
    ),
    Private(
        "volatility3.plugins.linux.mountinfo:MountInfo",
        "_get_tasks_mountpoints",
        "framework/mends.py",
    ),
    # The file that the command line writes: its temporary one, and how it will be called.
    Private(
        "volatility3.cli:CommandLine", "_file _name _get_final_filename", "framework/output.py"
    ),
)


def is_private(name: str) -> bool:
    """Whether a name begins with one underscore."""
    return name.isidentifier() and name.strip("_") != "" and name[0] == "_" and name[:2] != "__"


def defined(tree: ast.AST) -> set[str]:
    """Returns the private names that code defines: functions, variables, attributes of self."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        ):
            found.add(node.attr)
    return set(filter(is_private, found))


def defined_by(owner: type) -> set[str]:
    """Returns the private names that a class itself defines."""
    return defined(ast.parse(textwrap.dedent(inspect.getsource(owner))))


def mentioned(tree: ast.AST) -> set[str]:
    """Returns the private names that code defines, or asks any object for."""
    found = defined(tree)
    in_text = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Constant) and id(node) not in in_text:
            # Of getattr, or of what an object's __dict__ has.
            found.add(str(node.value))
    return set(filter(is_private, found))


def used(name: str) -> Iterator[str]:
    """Yields the private names of Volatility in a file of ours.

    In a class of ours they are those that a class of Volatility defines which it derives from.
    Elsewhere they are all that the file itself does not define.
    """
    module_name = f"{PACKAGE.name}.{name[:-3].replace('/', '.')}"
    module = importlib.import_module(module_name.partition(".__init__")[0])
    tree = ast.parse((PACKAGE / name).read_text(encoding="utf-8"))
    yield from mentioned(tree) - defined(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for base in getattr(module, node.name).__mro__:
                if base.__module__.startswith("volatility3."):
                    yield from mentioned(node) & defined_by(base)


@pytest.mark.parametrize("private", PRIVATE, ids=lambda private: str(private.owner))
def test_it_is_still_there(private: Private) -> None:
    """The class defines every name; one that only a class below it defines would not do."""
    owner = pkgutil.resolve_name(private.owner)
    assert not set(private.names.split()) - defined_by(owner)


@pytest.mark.parametrize("name", FILES)
def test_no_other_is_used(name: str) -> None:
    """The list is complete, and has nothing that is not used."""
    listed = {
        each
        for private in PRIVATE
        if name in private.users.split()
        for each in private.names.split()
    }
    assert set(used(name)) == listed


def test_the_files_of_the_list_exist() -> None:
    """A file that was renamed is renamed here."""
    assert {user for private in PRIVATE for user in private.users.split()} <= set(FILES)
