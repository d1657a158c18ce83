/*
 * Writes the memory of the running system to a file as LiME's format has it: each range that
 * /proc/iomem calls System RAM behind a header, read page by page from /proc/kcore. That file is an
 * ELF core of the kernel's addresses; p_paddr of a program header says which memory they are of.
 *
 * usage: kcore FILE
 */

#define _GNU_SOURCE
#include <elf.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PIECE = 64 << 10, MOST_SEGMENTS = 256 };

struct header {
	uint32_t magic, version;
	uint64_t first, last, reserved;
};

static Elf64_Phdr segments[MOST_SEGMENTS];
static int count;

static int fail(const char *what)
{
	perror(what);
	return 1;
}

static int read_segments(int core)
{
	Elf64_Ehdr elf;

	if (pread(core, &elf, sizeof(elf), 0) != sizeof(elf) || elf.e_phnum > MOST_SEGMENTS)
		return -1;
	count = elf.e_phnum;
	return pread(core, segments, count * sizeof(*segments), elf.e_phoff) < 0 ? -1 : 0;
}

/* Where an address is in the file, or -1; `left` becomes the bytes from there on. */
static int64_t place_of(uint64_t address, uint64_t *left)
{
	for (int i = 0; i < count; i++) {
		Elf64_Phdr *segment = &segments[i];

		if (segment->p_type == PT_LOAD && segment->p_paddr != (uint64_t)-1 &&
		    address >= segment->p_paddr && address - segment->p_paddr < segment->p_memsz) {
			*left = segment->p_memsz - (address - segment->p_paddr);
			return segment->p_offset + (address - segment->p_paddr);
		}
	}
	return -1;
}

static int copy(int core, int out, uint64_t address, uint64_t end)
{
	static char piece[PIECE];

	while (address < end) {
		uint64_t length = end - address, left;
		int64_t place = place_of(address, &left);

		if (length > PIECE)
			length = PIECE;
		if (place >= 0 && length > left)
			length = left;
		/* What cannot be read is zero, as LiME writes it. */
		if (place < 0 || pread(core, piece, length, place) != (ssize_t)length)
			memset(piece, 0, length);
		if (write(out, piece, length) != (ssize_t)length)
			return -1;
		address += length;
	}
	return 0;
}

int main(int arguments, char **names)
{
	FILE *map = fopen("/proc/iomem", "r");
	int core = open("/proc/kcore", O_RDONLY), out;
	char line[256];

	if (arguments != 2 || !map || core < 0 || read_segments(core) < 0)
		return fail("/proc/kcore");
	out = open(names[1], O_WRONLY | O_CREAT, 0600);
	if (out < 0)
		return fail(names[1]);
	while (fgets(line, sizeof(line), map)) {
		struct header header = { .magic = 0x4c694d45, .version = 1 };
		unsigned long long first, last;

		if (line[0] == ' ' || !strstr(line, "System RAM") ||
		    sscanf(line, "%llx-%llx", &first, &last) != 2)
			continue;
		header.first = first;
		header.last = last;
		if (write(out, &header, sizeof(header)) != sizeof(header) ||
		    copy(core, out, first, last + 1) < 0)
			return fail(names[1]);
	}
	return fsync(out) < 0 ? fail(names[1]) : 0;
}
