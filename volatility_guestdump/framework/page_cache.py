# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Mends of how Volatility reads the page cache: files in memory, and the pages that they are in.

See `mends` for what a mend is. Files of a server lie in large folios: runs of pages that the kernel
manages as one, with the flags, the file and the place in it kept by the first page alone (the
*head*; include/linux/page-flags.h). The tree of a file's pages has one entry for all of them.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Optional

from volatility3.framework import exceptions, interfaces, objects
from volatility3.framework.symbols import linux
from volatility3.framework.symbols.linux import extensions

from volatility_guestdump.exceptions import AddressError
from volatility_guestdump.linux.state import xarray

#: A folio has 1 GiB at most: the largest page that the CPU maps at once.
_MOST_PAGES = 1 << 18


class Page(extensions.page):
    """A page frame.

    Plugins: linux.pagecache.InodePages, linux.pagecache.RecoverFs; Volatility 2.28.2.
    Causes: from 6.16 on at the latest `index` is called `__folio_index`. From 7.2 on at the latest
    `flags` is a structure with one member, from which the plugin takes bits: a traceback. Pages of
    a large folio behind its first one do not say which file they belong to, nor where in it they
    are.
    No longer needed when: inode.get_contents knows the new name, page.get_flags_list the structure,
    and inode.get_pages large folios.
    """

    _head: Optional["Page"] = None
    _number: int = 0

    def become_part(self, head: "Page", number: int) -> None:
        """Makes this page one of a folio's.

        Args:
            head: the first page of the folio.
            number: of this page in the folio.
        """
        self._head, self._number = head, number

    @property
    def index(self) -> int:
        """Number of the page in its file."""
        if self._head is not None:
            return self._head.index + self._number
        number: Any = self.member("index" if self.has_member("index") else "__folio_index")
        return int(number)

    @property
    def mapping(self) -> Any:
        """Pointer to the `address_space` of the page's file."""
        return self.member("mapping") if self._head is None else self._head.mapping

    @property
    def flags(self) -> int:
        """The flags, a bit for each of `enum pageflags`; of a folio, those of its first page."""
        if self._head is not None:
            return self._head.flags & ~self._head_flag
        flags: Any = self.member("flags")
        return int(flags.f if isinstance(flags, objects.StructType) else flags)

    @property
    def is_head(self) -> bool:
        """Whether a large folio begins with this page."""
        return bool(self.flags & self._head_flag)

    @property
    def _head_flag(self) -> int:
        number: Optional[int] = self.pageflags_enum.get("PG_head")
        return 0 if number is None else 1 << number


class Inode(extensions.inode):
    """A file, folder or other thing that a file system has.

    Plugins: linux.pagecache.InodePages, linux.pagecache.RecoverFs; kernels from 5.17 on, which keep
    a large folio as one entry (6b24ca4a1a8d), and before that for huge pages; Volatility 2.28.2.
    Cause: of the tree of pages only the lowest level is walked for pages, each slot for one page.
    Entries of large folios are on higher levels too and have siblings: "Invalid cached page". One
    page that cannot be read ends the list as well.
    No longer needed when: linux.PageCache yields all pages of large folios.
    """

    def get_pages(self) -> Iterable[interfaces.objects.ObjectInterface]:
        """Yields the pages of the file that are in memory; see `inode.get_pages`."""
        mapping: Any = self.i_mapping
        if not self.i_size or not mapping or not mapping.is_readable() or mapping.nrpages <= 0:
            return
        if mapping.i_pages.has_member("xa_head"):
            yield from self._pages(mapping.i_pages.xa_head)
        else:
            yield from super().get_pages()

    def get_contents(self) -> Iterable[tuple[int, bytes]]:
        """Yields number and content of each page in memory that has a part of the file.

        A large folio goes on behind the end of a small file.
        """
        layer: Any = self._context.layers[self.vol.layer_name]
        for page in self.get_pages():
            if page.mapping == self.i_mapping and page.index * layer.page_size < self.i_size:
                content = page.get_content()
                if content:
                    yield page.index, content

    def _pages(self, head: int) -> Iterator[Page]:
        kernel = linux.LinuxUtilities.get_module_from_volobj_type(self._context, self)
        layer: Any = self._context.layers[self.vol.layer_name]
        memory = self._context.layers[layer.config.get("memory_layer", layer.name)]
        node = kernel.get_type("xa_node")
        layout = xarray.Layout(
            shift=node.relative_child_offset("shift"),
            slots=node.relative_child_offset("slots"),
            count=node.child_template("slots").count,
            pointer_size=kernel.get_type("pointer").size,
        )

        def read(address: int, length: int) -> bytes:
            try:
                data: bytes = layer.read(address, length)
                return data
            except exceptions.InvalidAddressException as error:
                raise AddressError(error.invalid_address) from error

        # Damage may show the same pages again and again, but a file has no more than memory has.
        left = memory.maximum_address // layer.page_size + 1
        most_nodes = memory.maximum_address // node.size + 1
        for entry in xarray.entries(read, int(head), layout, most_nodes):
            for page in self._pages_of(kernel, entry):
                if not left:
                    return
                left -= 1
                yield page

    def _pages_of(
        self, kernel: interfaces.context.ModuleInterface, entry: xarray.Entry
    ) -> Iterator[Page]:
        """Yields the pages of an entry of the tree, as far as they can be read."""
        head: Any = kernel.object("page", offset=entry.pointer, absolute=True)
        layer = self._context.layers[self.vol.layer_name]
        size = head.vol.size
        if not layer.is_valid(entry.pointer, size) or not head.is_valid():
            return
        # Before 5.17 each page of a huge one had an entry, and each of these led to the first page.
        before = entry.number - head.index
        if before < 0:
            return
        if not before and entry.numbers == 1:
            yield head
        elif head.is_head:
            for number in range(before, min(before + entry.numbers, _MOST_PAGES)):
                page: Any = head
                if number:
                    place = entry.pointer + number * size
                    if not layer.is_valid(place, size):
                        return
                    page = kernel.object("page", offset=place, absolute=True)
                    page.become_part(head, number)
                yield page
