// SPDX-License-Identifier: GPL-2.0
/*
 * Unit tests of what vexfs_ref_fs.h computes: layouts, paths through the block map, records.
 *
 * cc -std=gnu11 -I. -o ondisk_test tests/ondisk_test.c && ./ondisk_test
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "vexfs_ref_fs.h"

static const char *failure;

#define CHECK(condition) do { if (!(condition) && !failure) failure = #condition; } while (0)

static void superblock_fields_are_where_the_medium_has_them(void)
{
	CHECK(sizeof(struct vexfs_ref_super) == VEXFS_REF_BLOCK_SIZE);
	CHECK(offsetof(struct vexfs_ref_super, s_magic) == 4);
	CHECK(offsetof(struct vexfs_ref_super, s_data) == 52);
	CHECK(offsetof(struct vexfs_ref_super, s_free_blocks) == 64);
	CHECK(offsetof(struct vexfs_ref_super, s_uuid) == 72);
	CHECK(offsetof(struct vexfs_ref_super, s_label) == 88);
}

static void inode_fields_are_where_the_medium_has_them(void)
{
	CHECK(sizeof(struct vexfs_ref_inode) == VEXFS_REF_INODE_SIZE);
	CHECK(offsetof(struct vexfs_ref_inode, i_size) == 24);
	CHECK(offsetof(struct vexfs_ref_inode, i_atime) == 40);
	CHECK(offsetof(struct vexfs_ref_inode, i_block) == 80);
	CHECK(offsetof(struct vexfs_ref_inode, i_inline) == 136);
}

static void records_are_multiples_of_eight(void)
{
	CHECK(vexfs_ref_dirent_size(1) == 16);
	CHECK(vexfs_ref_dirent_size(8) == 16);
	CHECK(vexfs_ref_dirent_size(9) == 24);
	CHECK(vexfs_ref_dirent_size(VEXFS_REF_NAME_MAX) == 264);
	for (unsigned int length = 1; length <= VEXFS_REF_NAME_MAX; length++)
		CHECK(vexfs_ref_dirent_size(length) % 8 == 0 &&
		      vexfs_ref_dirent_size(length) >= 8 + length);
}

static void layout_of_64_mib(void)
{
	struct vexfs_ref_layout layout;

	CHECK(!vexfs_ref_compute_layout(16384, 8192, &layout));
	CHECK(layout.inode_bitmap == 1 && layout.inode_bitmap_blocks == 1);
	CHECK(layout.block_bitmap == 2 && layout.block_bitmap_blocks == 1);
	CHECK(layout.inode_table == 3 && layout.inode_table_blocks == 512);
	CHECK(layout.data == 515);
}

static void impossible_layouts_are_refused(void)
{
	struct vexfs_ref_layout layout;

	CHECK(vexfs_ref_compute_layout(0, 16, &layout));
	CHECK(vexfs_ref_compute_layout(VEXFS_REF_MIN_BLOCKS - 1, 16, &layout));
	CHECK(vexfs_ref_compute_layout(VEXFS_REF_MAX_BLOCKS + 1, 16, &layout));
	CHECK(vexfs_ref_compute_layout(0xffffffff, 16, &layout));
	CHECK(vexfs_ref_compute_layout(1024, 0, &layout));
	CHECK(vexfs_ref_compute_layout(1024, 17, &layout));
	CHECK(vexfs_ref_compute_layout(1024, 0xfffffff0, &layout));
	CHECK(vexfs_ref_compute_layout(64, 16 * 61, &layout));	/* no room for data */
	CHECK(!vexfs_ref_compute_layout(65, 16 * 61, &layout));
}

static void the_largest_layout_does_not_overflow(void)
{
	struct vexfs_ref_layout layout;

	CHECK(!vexfs_ref_compute_layout(VEXFS_REF_MAX_BLOCKS, VEXFS_REF_MAX_INODES, &layout));
	CHECK(layout.data == 1 + 2048 + 2048 + VEXFS_REF_MAX_INODES / 16);
}

/* The path as one number, so that a comparison says it all. */
static unsigned long long path_of(__u64 index, int *depth)
{
	__u32 path[3] = { 0, 0, 0 };

	*depth = vexfs_ref_block_path(index, path);
	return ((unsigned long long)path[0] << 40) + ((unsigned long long)path[1] << 20) + path[2];
}

#define PATH(a, b, c) (((unsigned long long)(a) << 40) + ((unsigned long long)(b) << 20) + (c))

static void paths_at_the_borders(void)
{
	int depth;

	CHECK(path_of(0, &depth) == PATH(0, 0, 0) && depth == 1);
	CHECK(path_of(11, &depth) == PATH(11, 0, 0) && depth == 1);
	CHECK(path_of(12, &depth) == PATH(12, 0, 0) && depth == 2);
	CHECK(path_of(12 + 1023, &depth) == PATH(12, 1023, 0) && depth == 2);
	CHECK(path_of(12 + 1024, &depth) == PATH(13, 0, 0) && depth == 3);
	CHECK(path_of(12 + 1024 + 1023, &depth) == PATH(13, 0, 1023) && depth == 3);
	CHECK(path_of(12 + 1024 + 1024, &depth) == PATH(13, 1, 0) && depth == 3);
	CHECK(path_of(VEXFS_REF_FILE_BLOCKS - 1, &depth) == PATH(13, 1023, 1023) && depth == 3);
}

static void beyond_the_largest_file_there_is_no_path(void)
{
	__u32 path[3];

	CHECK(!vexfs_ref_block_path(VEXFS_REF_FILE_BLOCKS, path));
	CHECK(!vexfs_ref_block_path(~0ULL, path));
}

static void every_block_has_a_path_of_its_own(void)
{
	unsigned long long before, here;
	int depth, depth_before;

	before = path_of(0, &depth_before);
	for (__u64 index = 1; index < 12 + 1024 + 3 * 1024; index++) {
		here = path_of(index, &depth);
		CHECK(depth > depth_before || here > before);
		before = here;
		depth_before = depth;
	}
}

static void ioctl_numbers_are_the_documented_ones(void)
{
	CHECK(VEXFS_REF_IOC_STATUS == 0x8030e701);
	CHECK(VEXFS_REF_IOC_ADD_VECTORS == 0xc020e702);
	CHECK(VEXFS_REF_IOC_SEARCH == 0xc028e703);
}

static void structures_are_the_same_for_32_bit_callers(void)
{
	/* Every __u64 at a multiple of 8 without padding: compat_ptr_ioctl() is enough. */
	CHECK(offsetof(struct vexfs_ref_status, blocks) == 8);
	CHECK(offsetof(struct vexfs_ref_add_vectors, vectors) == 8);
	CHECK(offsetof(struct vexfs_ref_search, query) == 8);
	CHECK(offsetof(struct vexfs_ref_search, rows) == 32);
	CHECK(sizeof(struct vexfs_ref_hit) == 16);
	CHECK(sizeof(struct vexfs_ref_vector_header) == 64);
}

#define TEST(function) { #function, function }

static const struct {
	const char *name;
	void (*run)(void);
} tests[] = {
	TEST(superblock_fields_are_where_the_medium_has_them),
	TEST(inode_fields_are_where_the_medium_has_them),
	TEST(records_are_multiples_of_eight),
	TEST(layout_of_64_mib),
	TEST(impossible_layouts_are_refused),
	TEST(the_largest_layout_does_not_overflow),
	TEST(paths_at_the_borders),
	TEST(beyond_the_largest_file_there_is_no_path),
	TEST(every_block_has_a_path_of_its_own),
	TEST(ioctl_numbers_are_the_documented_ones),
	TEST(structures_are_the_same_for_32_bit_callers),
};

int main(void)
{
	unsigned int passed = 0, all = sizeof(tests) / sizeof(tests[0]);

	for (unsigned int i = 0; i < all; i++) {
		failure = NULL;
		tests[i].run();
		printf("%s %s%s%s\n", failure ? "not ok" : "ok", tests[i].name,
		       failure ? ": " : "", failure ? failure : "");
		passed += !failure;
	}
	printf("%u passed, %u not\n", passed, all - passed);
	return passed != all;
}
