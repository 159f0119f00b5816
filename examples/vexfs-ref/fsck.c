// SPDX-License-Identifier: GPL-2.0
/*
 * fsck.vexfs-ref: is everything on the volume as it must be? Reads only.
 *
 * usage: fsck.vexfs-ref DEVICE
 *
 * Exit status: 0 consistent, 4 errors were found, 8 the check could not be made. A volume that is
 * in use (mounted, or not unmounted cleanly) is checked all the same; only its free counts, which
 * are written at umount, are then not compared.
 */
#define _FILE_OFFSET_BITS 64
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vexfs_ref_fs.h"

#define EXIT_CLEAN 0
#define EXIT_ERRORS 4
#define EXIT_OPERATIONAL 8

#define SHOWN_AT_MOST 50
#define BLOCK VEXFS_REF_BLOCK_SIZE

/* FT_* of linux/fs_types.h, by type bits of the mode. */
enum { FT_REG = 1, FT_DIR, FT_CHR, FT_BLK, FT_FIFO, FT_SOCK, FT_LNK };

static const char *device;
static int fd;
static unsigned int errors;

static struct vexfs_ref_super super;
static struct vexfs_ref_layout layout;
static uint32_t blocks, inodes;
static uint8_t *inode_bits, *block_bits;
static struct vexfs_ref_inode *table;	/* all inodes; number N is at N - 1 */

static uint32_t *owner;			/* of each block: the inode that has it */
static uint32_t *names;			/* of each inode: names, without "." and ".." */
static uint32_t *subdirs;		/* of each inode: directories named in it */
static uint32_t *parent;		/* of each directory: where it is named */
static bool *valid;			/* of each inode: in use, and fit to be looked into */

static void __attribute__((noreturn, format(printf, 1, 2))) give_up(const char *format, ...)
{
	va_list arguments;

	fprintf(stderr, "fsck.vexfs-ref: ");
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fprintf(stderr, "\n");
	exit(EXIT_OPERATIONAL);
}

static void __attribute__((format(printf, 1, 2))) problem(const char *format, ...)
{
	va_list arguments;

	if (++errors > SHOWN_AT_MOST)
		return;
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	printf("\n");
}

static void *allocate(size_t count, size_t size)
{
	void *memory = calloc(count ? count : 1, size);

	if (!memory)
		give_up("out of memory");
	return memory;
}

static void read_blocks(uint32_t first, uint32_t count, void *to)
{
	size_t left = (size_t)count * BLOCK;
	off_t at = (off_t)first * BLOCK;
	char *next = to;

	while (left) {
		ssize_t got = pread(fd, next, left, at);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			give_up("'%s' cannot be read at byte %lld: %s", device, (long long)at,
				strerror(errno));
		if (!got)
			give_up("'%s' ends at byte %lld", device, (long long)at);
		next += got;
		at += got;
		left -= (size_t)got;
	}
}

/* CRC-32 as in zlib, continued from `crc` (0 to begin). */
static uint32_t crc32(uint32_t crc, const void *data, size_t length)
{
	static uint32_t of[256];
	const uint8_t *bytes = data;

	for (uint32_t n = 0; !of[255] && n < 256; n++) {
		of[n] = n;
		for (int bit = 0; bit < 8; bit++)
			of[n] = of[n] >> 1 ^ (of[n] & 1 ? 0xedb88320U : 0);
	}
	crc = ~crc;
	while (length--)
		crc = of[(crc ^ *bytes++) & 0xff] ^ crc >> 8;
	return ~crc;
}

static bool is_set(const uint8_t *bits, uint32_t number)
{
	return bits[number / 8] >> number % 8 & 1;
}

static bool all_zero(const void *memory, size_t length)
{
	const uint8_t *bytes = memory;

	while (length--)
		if (*bytes++)
			return false;
	return true;
}

static bool is_data_block(uint32_t block)
{
	return block >= layout.data && block < blocks;
}

/* -- superblock and bitmaps ------------------------------------------------------------------ */

static uint64_t device_size(void)
{
	off_t end = lseek(fd, 0, SEEK_END);

	if (end < 0)
		give_up("the size of '%s' cannot be found: %s", device, strerror(errno));
	return (uint64_t)end;
}

/* Without a right superblock nothing else can be found. */
static bool check_superblock(void)
{
	const uint32_t known = VEXFS_REF_CLEAN | VEXFS_REF_ERROR;
	uint64_t size = device_size();
	uint32_t state;

	if (size < BLOCK) {
		problem("'%s' has %llu bytes, a superblock has %d", device,
			(unsigned long long)size, BLOCK);
		return false;
	}
	read_blocks(0, 1, &super);
	if (le32toh(super.s_magic) != VEXFS_REF_MAGIC) {
		problem("superblock: there is no vexfs-ref here");
		return false;
	}
	if (le32toh(super.s_checksum) !=
	    crc32(0, (char *)&super + sizeof(super.s_checksum), BLOCK - sizeof(super.s_checksum))) {
		problem("superblock: wrong checksum");
		return false;
	}
	blocks = le32toh(super.s_blocks);
	inodes = le32toh(super.s_inodes);
	if (le32toh(super.s_version) != VEXFS_REF_VERSION || super.s_features ||
	    le32toh(super.s_block_size) != BLOCK ||
	    le32toh(super.s_inode_size) != VEXFS_REF_INODE_SIZE ||
	    vexfs_ref_compute_layout(blocks, inodes, &layout) ||
	    le32toh(super.s_inode_bitmap) != layout.inode_bitmap ||
	    le32toh(super.s_inode_bitmap_blocks) != layout.inode_bitmap_blocks ||
	    le32toh(super.s_block_bitmap) != layout.block_bitmap ||
	    le32toh(super.s_block_bitmap_blocks) != layout.block_bitmap_blocks ||
	    le32toh(super.s_inode_table) != layout.inode_table ||
	    le32toh(super.s_inode_table_blocks) != layout.inode_table_blocks ||
	    le32toh(super.s_data) != layout.data) {
		problem("superblock: wrong version, sizes or positions");
		return false;
	}
	if (blocks > size / BLOCK) {
		problem("superblock: %u blocks do not fit on a device of %llu", blocks,
			(unsigned long long)(size / BLOCK));
		return false;
	}
	state = le32toh(super.s_state);
	if (state & ~known)
		problem("superblock: unknown state %#x", state);
	if (state & VEXFS_REF_ERROR)
		problem("superblock: the kernel has met damage on this volume");
	if (!all_zero(super.s_reserved, sizeof(super.s_reserved)))
		problem("superblock: the reserved bytes are not zero");
	if (!memchr(super.s_label, 0, sizeof(super.s_label)))
		problem("superblock: the label has no end");
	return true;
}

static void load(void)
{
	inode_bits = allocate(layout.inode_bitmap_blocks, BLOCK);
	block_bits = allocate(layout.block_bitmap_blocks, BLOCK);
	table = allocate(layout.inode_table_blocks, BLOCK);
	read_blocks(layout.inode_bitmap, layout.inode_bitmap_blocks, inode_bits);
	read_blocks(layout.block_bitmap, layout.block_bitmap_blocks, block_bits);
	read_blocks(layout.inode_table, layout.inode_table_blocks, table);
	owner = allocate(blocks, sizeof(*owner));
	names = allocate((size_t)inodes + 1, sizeof(*names));
	subdirs = allocate((size_t)inodes + 1, sizeof(*subdirs));
	parent = allocate((size_t)inodes + 1, sizeof(*parent));
	valid = allocate((size_t)inodes + 1, sizeof(*valid));
}

static void check_padding(const char *what, const uint8_t *bits, uint32_t from, uint32_t area)
{
	for (uint64_t bit = from; bit < (uint64_t)area * VEXFS_REF_BITS_PER_BLOCK; bit++) {
		if (!is_set(bits, (uint32_t)bit)) {
			problem("%s bitmap: bit %llu behind its end is clear", what,
				(unsigned long long)bit);
			return;
		}
	}
}

/* -- inodes and their blocks ----------------------------------------------------------------- */

static const struct vexfs_ref_inode *inode_of(uint32_t ino)
{
	return &table[ino - 1];
}

static bool is_type(uint32_t ino, uint32_t type)
{
	return (le32toh(inode_of(ino)->i_mode) & S_IFMT) == type;
}

static uint64_t size_of(uint32_t ino)
{
	return le64toh(inode_of(ino)->i_size);
}

/* Note that the inode has the block; false if it cannot. */
static bool claim(uint32_t ino, uint32_t block)
{
	if (!is_data_block(block)) {
		problem("inode %u: block %u is none of the data blocks %u to %u", ino, block,
			layout.data, blocks - 1);
		return false;
	}
	if (owner[block]) {
		problem("inode %u: block %u belongs to inode %u as well", ino, block, owner[block]);
		return false;
	}
	owner[block] = ino;
	return true;
}

/* Block of the volume at `index` of the file, 0 for a hole. The map has been checked before. */
static uint32_t find_block(uint32_t ino, uint64_t index)
{
	static __le32 numbers[VEXFS_REF_PTRS];
	uint32_t path[3], block;
	int depth = vexfs_ref_block_path(index, path);

	if (!depth)
		return 0;
	block = le32toh(inode_of(ino)->i_block[path[0]]);
	for (int level = 1; level < depth && block; level++) {
		read_blocks(block, 1, numbers);
		block = le32toh(numbers[path[level]]);
	}
	return block;
}

struct walk {
	uint32_t ino;
	uint32_t used;		/* blocks, those of the map included */
	uint32_t data;		/* without them */
	uint64_t limit;		/* blocks the size has room for */
	bool sound;
};

/* Everything below a number of the map; `index` is the first block of the file it leads to. */
static void walk_map(struct walk *walk, uint32_t block, int levels, uint64_t index)
{
	__le32 *numbers;
	uint64_t span = levels == 2 ? VEXFS_REF_PTRS : 1;

	if (!block)
		return;
	if (!claim(walk->ino, block)) {
		walk->sound = false;
		return;
	}
	walk->used++;
	if (!levels) {
		walk->data++;
		if (index >= walk->limit)
			problem("inode %u: block %u is at position %llu, behind the end of the file",
				walk->ino, block, (unsigned long long)index);
		return;
	}
	if (index >= walk->limit)
		problem("inode %u: map block %u is wholly behind the end of the file", walk->ino,
			block);
	numbers = allocate(1, BLOCK);
	read_blocks(block, 1, numbers);
	for (int i = 0; i < VEXFS_REF_PTRS; i++)
		walk_map(walk, le32toh(numbers[i]), levels - 1, index + (uint64_t)i * span);
	free(numbers);
}

/* What is behind the last byte of a file, in its last block, must be zeros. */
static void check_tail(uint32_t ino)
{
	static char content[BLOCK];
	uint64_t size = size_of(ino);
	uint32_t inside = (uint32_t)(size % BLOCK), block;

	if (!inside)
		return;
	block = find_block(ino, size / BLOCK);
	if (!block)
		return;
	read_blocks(block, 1, content);
	if (!all_zero(content + inside, BLOCK - inside))
		problem("inode %u: there is old data behind its last byte", ino);
}

static void check_symlink(uint32_t ino)
{
	static char content[BLOCK];
	const struct vexfs_ref_inode *inode = inode_of(ino);
	uint64_t size = size_of(ino);
	uint32_t block;

	if (size < VEXFS_REF_INLINE_SIZE) {
		if (strnlen((const char *)inode->i_inline, VEXFS_REF_INLINE_SIZE) != size)
			problem("inode %u: the target of the link is not %llu bytes long", ino,
				(unsigned long long)size);
		return;
	}
	block = find_block(ino, 0);
	if (!block) {
		problem("inode %u: the link has no target", ino);
		return;
	}
	read_blocks(block, 1, content);
	if (strnlen(content, BLOCK) != size)
		problem("inode %u: the target of the link is not %llu bytes long", ino,
			(unsigned long long)size);
}

static void check_blocks(uint32_t ino)
{
	const struct vexfs_ref_inode *inode = inode_of(ino);
	uint64_t size = size_of(ino);
	struct walk walk = { .ino = ino, .limit = (size + BLOCK - 1) / BLOCK, .sound = true };

	for (int i = 0; i < VEXFS_REF_DIRECT; i++)
		walk_map(&walk, le32toh(inode->i_block[i]), 0, (uint64_t)i);
	walk_map(&walk, le32toh(inode->i_block[VEXFS_REF_INDIRECT]), 1, VEXFS_REF_DIRECT);
	walk_map(&walk, le32toh(inode->i_block[VEXFS_REF_DOUBLE]), 2,
		 VEXFS_REF_DIRECT + VEXFS_REF_PTRS);
	if (walk.used != le32toh(inode->i_blocks))
		problem("inode %u: has %u blocks and says %u", ino, walk.used,
			le32toh(inode->i_blocks));
	if (!walk.sound) {
		valid[ino] = false;
		return;
	}
	if (is_type(ino, S_IFDIR) && walk.data != walk.limit) {
		problem("inode %u: the directory has %u blocks for a size of %llu", ino, walk.data,
			(unsigned long long)size);
		valid[ino] = false;
	}
	if (is_type(ino, S_IFREG))
		check_tail(ino);
	if (is_type(ino, S_IFLNK))
		check_symlink(ino);
}

/* What an inode says about itself; NULL or what is wrong. */
static const char *inode_fault(uint32_t ino)
{
	const struct vexfs_ref_inode *inode = inode_of(ino);
	__le32 number = htole32(ino);
	uint32_t mode = le32toh(inode->i_mode), nlink = le32toh(inode->i_nlink);
	uint32_t second = 1000000000;
	uint64_t size = size_of(ino);
	bool keeps_blocks;

	if (le32toh(inode->i_checksum) !=
	    crc32(crc32(0, &number, sizeof(number)), (const char *)inode + sizeof(number),
		  sizeof(*inode) - sizeof(number)))
		return "wrong checksum";
	if (mode & ~(uint32_t)(S_IFMT | 07777))
		return "impossible mode";
	if (inode->i_flags || inode->i_reserved)
		return "unknown flags";
	if (!nlink)
		return "in use without a link";
	if (nlink > VEXFS_REF_LINK_MAX)
		return "too many links";
	if (le32toh(inode->i_atime_nsec) >= second || le32toh(inode->i_mtime_nsec) >= second ||
	    le32toh(inode->i_ctime_nsec) >= second)
		return "impossible time";
	switch (mode & S_IFMT) {
	case S_IFREG:
		if (size > (uint64_t)VEXFS_REF_FILE_BLOCKS * BLOCK)
			return "too large";
		keeps_blocks = true;
		break;
	case S_IFDIR:
		if (!size || size % BLOCK || size / BLOCK > blocks)
			return "impossible size of a directory";
		keeps_blocks = true;
		break;
	case S_IFLNK:
		if (!size || size > VEXFS_REF_SYMLINK_MAX)
			return "impossible size of a link";
		keeps_blocks = size >= VEXFS_REF_INLINE_SIZE;
		break;
	case S_IFCHR:
	case S_IFBLK:
	case S_IFIFO:
	case S_IFSOCK:
		if (size)
			return "a special file with a size";
		keeps_blocks = false;
		break;
	default:
		return "unknown type";
	}
	if (!keeps_blocks && !all_zero(inode->i_block, sizeof(inode->i_block)))
		return "blocks where there can be none";
	if (inode->i_rdev && (mode & S_IFMT) != S_IFCHR && (mode & S_IFMT) != S_IFBLK)
		return "a device number where there can be none";
	return NULL;
}

static void check_inodes(void)
{
	for (uint32_t ino = 1; ino <= inodes; ino++) {
		const char *fault;

		if (!is_set(inode_bits, ino - 1)) {
			if (!all_zero(inode_of(ino), sizeof(struct vexfs_ref_inode)))
				problem("inode %u: marked free, but it is not empty", ino);
			continue;
		}
		if (all_zero(inode_of(ino), sizeof(struct vexfs_ref_inode))) {
			problem("inode %u: marked in use, but it is empty", ino);
			continue;
		}
		fault = inode_fault(ino);
		if (fault) {
			problem("inode %u: %s", ino, fault);
			continue;
		}
		valid[ino] = true;
		check_blocks(ino);
	}
}

/* -- directories ----------------------------------------------------------------------------- */

struct name {
	const char *text;
	uint8_t length;
};

static int compare_names(const void *left, const void *right)
{
	const struct name *a = left, *b = right;
	int order = memcmp(a->text, b->text, a->length < b->length ? a->length : b->length);

	return order ? order : a->length - b->length;
}

static int type_of_mode(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG: return FT_REG;
	case S_IFDIR: return FT_DIR;
	case S_IFCHR: return FT_CHR;
	case S_IFBLK: return FT_BLK;
	case S_IFIFO: return FT_FIFO;
	case S_IFSOCK: return FT_SOCK;
	case S_IFLNK: return FT_LNK;
	default: return 0;
	}
}

static bool is_named(const struct vexfs_ref_dirent *entry, const char *name)
{
	return entry->d_name_len == strlen(name) && !memcmp(entry->d_name, name, strlen(name));
}

/* A name of the directory that is neither "." nor "..". */
static void check_entry(uint32_t dir, const struct vexfs_ref_dirent *entry)
{
	uint32_t ino = le32toh(entry->d_ino);
	int length = entry->d_name_len;

	if (!is_set(inode_bits, ino - 1)) {
		problem("directory %u: '%.*s' is inode %u, which is free", dir, length,
			entry->d_name, ino);
		return;
	}
	names[ino]++;
	if (!valid[ino])
		return;	/* its own problem has been told */
	if (entry->d_type != type_of_mode(le32toh(inode_of(ino)->i_mode)))
		problem("directory %u: '%.*s' has type %u, inode %u has type %d", dir, length,
			entry->d_name, entry->d_type, ino,
			type_of_mode(le32toh(inode_of(ino)->i_mode)));
	if (!is_type(ino, S_IFDIR))
		return;
	subdirs[dir]++;
	if (ino == VEXFS_REF_ROOT_INO)
		problem("directory %u: '%.*s' is the root", dir, length, entry->d_name);
	else if (parent[ino])
		problem("directory %u: '%.*s' is directory %u, which has a name in directory %u",
			dir, length, entry->d_name, ino, parent[ino]);
	else
		parent[ino] = dir;
}

/* One block of a directory; appends its names to `list`. */
static void check_dir_block(uint32_t dir, uint32_t index, const char *content, struct name *list,
			    size_t *count)
{
	unsigned int length, number = 0;

	for (unsigned int offset = 0; offset < BLOCK; offset += length, number++) {
		const struct vexfs_ref_dirent *entry = (const void *)(content + offset);
		uint32_t ino = le32toh(entry->d_ino);

		length = le16toh(entry->d_rec_len);
		if (length < VEXFS_REF_DIRENT_HEAD || length % VEXFS_REF_DIRENT_ALIGN ||
		    length > BLOCK - offset) {
			problem("directory %u: block %u has a record of %u bytes at byte %u", dir,
				index, length, offset);
			return;
		}
		if (!index && number < 2) {
			const char *wanted = number ? ".." : ".";

			if (!ino || !is_named(entry, wanted) || entry->d_type != FT_DIR)
				problem("directory %u: record %u is not '%s'", dir, number, wanted);
			else if (!number && ino != dir)
				problem("directory %u: its '.' is inode %u", dir, ino);
			continue;
		}
		if (!ino)
			continue;
		if (ino > inodes || !entry->d_name_len ||
		    vexfs_ref_dirent_size(entry->d_name_len) > length ||
		    memchr(entry->d_name, 0, entry->d_name_len) ||
		    memchr(entry->d_name, '/', entry->d_name_len) || is_named(entry, ".") ||
		    is_named(entry, "..")) {
			problem("directory %u: block %u has a wrong record at byte %u", dir, index,
				offset);
			continue;
		}
		check_entry(dir, entry);
		list[*count].text = entry->d_name;
		list[(*count)++].length = entry->d_name_len;
	}
}

static void check_directory(uint32_t dir)
{
	uint32_t dir_blocks = (uint32_t)(size_of(dir) / BLOCK);
	char *content = allocate(dir_blocks, BLOCK);
	struct name *list = allocate((size_t)dir_blocks * (BLOCK / 16), sizeof(*list));
	size_t count = 0;

	for (uint32_t index = 0; index < dir_blocks; index++) {
		char *here = content + (size_t)index * BLOCK;

		read_blocks(find_block(dir, index), 1, here);
		check_dir_block(dir, index, here, list, &count);
	}
	qsort(list, count, sizeof(*list), compare_names);
	for (size_t i = 1; i < count; i++)
		if (!compare_names(&list[i - 1], &list[i]))
			problem("directory %u: has two names '%.*s'", dir, list[i].length,
				list[i].text);
	free(list);
	free(content);
}

/* What ".." says, read again: the parent may have been looked into after the child. */
static void check_dot_dot(uint32_t dir)
{
	static char content[BLOCK];
	const struct vexfs_ref_dirent *entry = (const void *)content;
	uint32_t wanted = dir == VEXFS_REF_ROOT_INO ? dir : parent[dir];
	unsigned int first;

	read_blocks(find_block(dir, 0), 1, content);
	first = le16toh(entry->d_rec_len);
	if (!wanted || first % VEXFS_REF_DIRENT_ALIGN || first > BLOCK - vexfs_ref_dirent_size(2))
		return;	/* unreachable or damaged: told elsewhere */
	entry = (const void *)(content + first);
	if (is_named(entry, "..") && le32toh(entry->d_ino) != wanted)
		problem("directory %u: its '..' is inode %u, its parent is %u", dir,
			le32toh(entry->d_ino), wanted);
}

/* Directories that name each other in a circle have names, and no way leads to them. */
static bool is_below_root(uint32_t dir)
{
	for (uint32_t steps = 0; dir && steps <= inodes; steps++) {
		if (dir == VEXFS_REF_ROOT_INO)
			return true;
		dir = parent[dir];
	}
	return false;
}

static void check_names(void)
{
	for (uint32_t ino = 1; ino <= inodes; ino++)
		if (valid[ino] && is_type(ino, S_IFDIR))
			check_directory(ino);

	for (uint32_t ino = 1; ino <= inodes; ino++) {
		uint32_t links = le32toh(inode_of(ino)->i_nlink);
		bool is_root = ino == VEXFS_REF_ROOT_INO;

		if (!valid[ino])
			continue;
		if (!names[ino] && !is_root)
			problem("inode %u: in use, and no directory names it", ino);
		if (is_type(ino, S_IFDIR)) {
			check_dot_dot(ino);
			if (links != 2 + subdirs[ino])
				problem("inode %u: %u links, its %u subdirectories make %u", ino,
					links, subdirs[ino], 2 + subdirs[ino]);
			if (names[ino] && !is_below_root(ino))
				problem("inode %u: the directory cannot be reached", ino);
		} else if (links != names[ino]) {
			problem("inode %u: %u links, and %u names", ino, links, names[ino]);
		}
	}
	if (!valid[VEXFS_REF_ROOT_INO] || !is_type(VEXFS_REF_ROOT_INO, S_IFDIR))
		problem("inode %u: there is no root directory", VEXFS_REF_ROOT_INO);
}

/* -- free space ------------------------------------------------------------------------------ */

static void check_free_space(void)
{
	uint32_t free_blocks = 0, free_inodes = 0;

	for (uint32_t block = 0; block < blocks; block++) {
		bool used = is_set(block_bits, block);

		free_blocks += !used;
		if (block < layout.data && !used)
			problem("block %u: metadata, and marked free", block);
		else if (block >= layout.data && used && !owner[block])
			problem("block %u: marked in use, and nobody has it", block);
		else if (owner[block] && !used)
			problem("block %u: inode %u has it, and it is marked free", block,
				owner[block]);
	}
	for (uint32_t ino = 1; ino <= inodes; ino++)
		free_inodes += !is_set(inode_bits, ino - 1);
	check_padding("block", block_bits, blocks, layout.block_bitmap_blocks);
	check_padding("inode", inode_bits, inodes, layout.inode_bitmap_blocks);

	if (!(le32toh(super.s_state) & VEXFS_REF_CLEAN)) {
		printf("not unmounted cleanly: the free counts are not compared\n");
		return;
	}
	if (le32toh(super.s_free_blocks) != free_blocks)
		problem("superblock: %u free blocks, there are %u", le32toh(super.s_free_blocks),
			free_blocks);
	if (le32toh(super.s_free_inodes) != free_inodes)
		problem("superblock: %u free inodes, there are %u", le32toh(super.s_free_inodes),
			free_inodes);
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: fsck.vexfs-ref DEVICE\n");
		return EXIT_OPERATIONAL;
	}
	device = argv[1];
	fd = open(device, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		give_up("'%s' cannot be opened: %s", device, strerror(errno));

	if (check_superblock()) {
		load();
		check_inodes();
		check_names();
		check_free_space();
	}
	if (errors > SHOWN_AT_MOST)
		printf("... and %u more\n", errors - SHOWN_AT_MOST);
	if (errors)
		printf("%s: %u errors\n", device, errors);
	else
		printf("%s: clean, %u blocks, %u inodes\n", device, blocks, inodes);
	/* What could not be printed was not told. */
	if (fflush(stdout) || ferror(stdout))
		return EXIT_OPERATIONAL;
	return errors ? EXIT_ERRORS : EXIT_CLEAN;
}
