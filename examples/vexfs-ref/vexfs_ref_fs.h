/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * vexfs-ref: what is on the medium, and what the ioctls exchange.
 *
 * Shared by the kernel module, fsck.c and the unit tests. vexctl (Rust) has its own transcription
 * of it, on purpose: two implementations of the layout must agree before anything can be mounted.
 * Everything on the medium is little-endian.
 */
#ifndef VEXFS_REF_FS_H
#define VEXFS_REF_FS_H

#include <linux/ioctl.h>
#include <linux/types.h>

/*
 * Layout, in blocks of 4096 bytes; each area follows the one before without a gap:
 *
 *   0  superblock | inode bitmap | block bitmap | inode table | data
 *
 * Bit N of the block bitmap is block N, metadata included. Bit N of the inode bitmap is inode
 * N + 1. The bits behind the last block and the last inode are set.
 */
#define VEXFS_REF_MAGIC		0x46525856	/* "VXRF" */
#define VEXFS_REF_VERSION	1
#define VEXFS_REF_BLOCK_SHIFT	12
#define VEXFS_REF_BLOCK_SIZE	(1 << VEXFS_REF_BLOCK_SHIFT)
#define VEXFS_REF_INODE_SIZE	256
#define VEXFS_REF_INODES_PER_BLOCK (VEXFS_REF_BLOCK_SIZE / VEXFS_REF_INODE_SIZE)
#define VEXFS_REF_BITS_PER_BLOCK (VEXFS_REF_BLOCK_SIZE * 8)

#define VEXFS_REF_ROOT_INO	1
#define VEXFS_REF_NAME_MAX	255
#define VEXFS_REF_LINK_MAX	65000

/* The module keeps the bitmaps in memory, which is what bounds a volume: 256 GiB, 8 MiB of bits. */
#define VEXFS_REF_MAX_BLOCKS	(1U << 26)
#define VEXFS_REF_MAX_INODES	(1U << 26)
#define VEXFS_REF_MIN_BLOCKS	32

/*
 * Block map of an inode: 12 blocks in the inode itself, a block of 1024 numbers, and a block of
 * 1024 blocks of numbers. 0 is a hole.
 */
#define VEXFS_REF_DIRECT	12
#define VEXFS_REF_INDIRECT	12		/* index in i_block[] */
#define VEXFS_REF_DOUBLE	13
#define VEXFS_REF_N_BLOCKS	14
#define VEXFS_REF_PTRS_SHIFT	(VEXFS_REF_BLOCK_SHIFT - 2)
#define VEXFS_REF_PTRS		(1 << VEXFS_REF_PTRS_SHIFT)
#define VEXFS_REF_FILE_BLOCKS \
	(VEXFS_REF_DIRECT + VEXFS_REF_PTRS + VEXFS_REF_PTRS * VEXFS_REF_PTRS)

/* Longest target of a symbolic link, without a NUL; the shorter ones live in the inode. */
#define VEXFS_REF_INLINE_SIZE	120
#define VEXFS_REF_SYMLINK_MAX	(VEXFS_REF_BLOCK_SIZE - 1)

/* s_state. CLEAN is missing while mounted read-write; ERROR stays until fsck's word is heard. */
#define VEXFS_REF_CLEAN		0x0001
#define VEXFS_REF_ERROR		0x0002

struct vexfs_ref_super {
	__le32 s_checksum;		/* crc32 of the rest of the block */
	__le32 s_magic;
	__le32 s_version;
	__le32 s_block_size;
	__le32 s_inode_size;
	__le32 s_blocks;		/* blocks of the volume, all of them */
	__le32 s_inodes;		/* a multiple of VEXFS_REF_INODES_PER_BLOCK */
	__le32 s_inode_bitmap;		/* first block of each area, and its length */
	__le32 s_inode_bitmap_blocks;
	__le32 s_block_bitmap;
	__le32 s_block_bitmap_blocks;
	__le32 s_inode_table;
	__le32 s_inode_table_blocks;
	__le32 s_data;
	__le32 s_features;		/* a bit nobody knows: not mounted */
	__le32 s_state;
	__le32 s_free_blocks;		/* right only in state CLEAN: counted anew at each mount */
	__le32 s_free_inodes;
	__u8   s_uuid[16];
	__u8   s_label[32];		/* ends with a NUL */
	__u8   s_reserved[VEXFS_REF_BLOCK_SIZE - 120];
};

/*
 * A free inode is 256 zero bytes. i_checksum is the crc32 of the inode number (4 bytes) and the
 * rest of the inode, so that an inode at the place of another one is noticed.
 */
struct vexfs_ref_inode {
	__le32 i_checksum;
	__le32 i_mode;
	__le32 i_nlink;
	__le32 i_uid;
	__le32 i_gid;
	__le32 i_rdev;			/* device number of a special file, as new_encode_dev() */
	__le64 i_size;
	__le32 i_blocks;		/* blocks in use, those of the block map included */
	__le32 i_reserved;		/* 0 */
	__le64 i_atime;			/* seconds, signed */
	__le64 i_mtime;
	__le64 i_ctime;
	__le32 i_atime_nsec;
	__le32 i_mtime_nsec;
	__le32 i_ctime_nsec;
	__le32 i_flags;			/* 0 */
	__le32 i_block[VEXFS_REF_N_BLOCKS];
	__u8   i_inline[VEXFS_REF_INLINE_SIZE];
};

/*
 * A directory is a file without holes whose blocks are filled by records. A record of inode 0 is
 * free space. Records never move, so a position in a directory stays valid for readdir.
 * The first two records of block 0 are "." and "..".
 */
struct vexfs_ref_dirent {
	__le32 d_ino;
	__le16 d_rec_len;		/* to the next record; a multiple of 8 */
	__u8   d_name_len;
	__u8   d_type;			/* FT_* of linux/fs_types.h */
	char   d_name[];
};

#define VEXFS_REF_DIRENT_HEAD	8
#define VEXFS_REF_DIRENT_ALIGN	8

/* Bytes a record needs for a name of that length. */
static inline unsigned int vexfs_ref_dirent_size(unsigned int name_len)
{
	return (VEXFS_REF_DIRENT_HEAD + name_len + VEXFS_REF_DIRENT_ALIGN - 1) &
	       ~(VEXFS_REF_DIRENT_ALIGN - 1U);
}

/* Where the areas of a volume are. */
struct vexfs_ref_layout {
	__u32 inode_bitmap;
	__u32 inode_bitmap_blocks;
	__u32 block_bitmap;
	__u32 block_bitmap_blocks;
	__u32 inode_table;
	__u32 inode_table_blocks;
	__u32 data;
};

/* Compute the layout. Returns 0, or -1 for numbers that make no filesystem. */
static inline int vexfs_ref_compute_layout(__u32 blocks, __u32 inodes,
					   struct vexfs_ref_layout *layout)
{
	const __u32 bits = VEXFS_REF_BITS_PER_BLOCK;

	if (blocks < VEXFS_REF_MIN_BLOCKS || blocks > VEXFS_REF_MAX_BLOCKS)
		return -1;
	if (!inodes || inodes > VEXFS_REF_MAX_INODES || inodes % VEXFS_REF_INODES_PER_BLOCK)
		return -1;
	layout->inode_bitmap = 1;
	layout->inode_bitmap_blocks = (inodes + bits - 1) / bits;
	layout->block_bitmap = layout->inode_bitmap + layout->inode_bitmap_blocks;
	layout->block_bitmap_blocks = (blocks + bits - 1) / bits;
	layout->inode_table = layout->block_bitmap + layout->block_bitmap_blocks;
	layout->inode_table_blocks = inodes / VEXFS_REF_INODES_PER_BLOCK;
	layout->data = layout->inode_table + layout->inode_table_blocks;
	return layout->data < blocks ? 0 : -1;
}

/*
 * The way to block `index` of a file: path[0] is the index in i_block[], the others are indices
 * in the blocks of numbers. Returns how many there are (1 to 3), or 0 beyond the largest file.
 */
static inline int vexfs_ref_block_path(__u64 index, __u32 path[3])
{
	if (index < VEXFS_REF_DIRECT) {
		path[0] = (__u32)index;
		return 1;
	}
	index -= VEXFS_REF_DIRECT;
	if (index < VEXFS_REF_PTRS) {
		path[0] = VEXFS_REF_INDIRECT;
		path[1] = (__u32)index;
		return 2;
	}
	index -= VEXFS_REF_PTRS;
	if (index < (__u64)VEXFS_REF_PTRS * VEXFS_REF_PTRS) {
		path[0] = VEXFS_REF_DOUBLE;
		path[1] = (__u32)(index >> VEXFS_REF_PTRS_SHIFT);
		path[2] = (__u32)(index & (VEXFS_REF_PTRS - 1));
		return 3;
	}
	return 0;
}

/*
 * The ioctls. They work on files the caller has opened and need no privilege.
 *
 * A vector file is an ordinary file: this header, then rows of `dimension` little-endian 16-bit
 * integers. read(), write() and truncate() see and change it as any other file; a file that does
 * not look like one is refused with EINVAL.
 */
#define VEXFS_REF_VECTOR_MAGIC	0x31565856	/* "VXV1" */
#define VEXFS_REF_ELEMENT_S16	1
#define VEXFS_REF_MAX_DIMENSION	4096
#define VEXFS_REF_MAX_K		1024
#define VEXFS_REF_MAX_ADD_BYTES	(16U << 20)	/* of one ADD_VECTORS */

struct vexfs_ref_vector_header {
	__le32 v_magic;
	__le32 v_dimension;
	__le32 v_element;		/* VEXFS_REF_ELEMENT_S16 */
	__le32 v_reserved[13];		/* 0 */
};

#define VEXFS_REF_HAS_VECTORS	0x0001	/* the module was built with the vector ioctls */

struct vexfs_ref_status {		/* out */
	__u32 version;
	__u32 block_size;
	__u64 blocks;			/* as statfs: without the metadata areas */
	__u64 free_blocks;
	__u64 inodes;
	__u64 free_inodes;
	__u32 flags;			/* VEXFS_REF_HAS_* */
	__u32 max_dimension;
};

struct vexfs_ref_add_vectors {
	__u32 dimension;
	__u32 count;			/* rows; all of them are added, or none */
	__u64 vectors;			/* address of count * dimension __le16 */
	__u64 first_row;		/* out: number of the first one added */
	__u32 flags;			/* 0 */
	__u32 reserved;			/* 0 */
};

struct vexfs_ref_hit {
	__u64 row;
	__u64 distance;			/* squared Euclidean */
};

struct vexfs_ref_search {
	__u32 dimension;
	__u32 k;			/* hits wanted */
	__u64 query;			/* address of `dimension` __le16 */
	__u64 hits;			/* address of k struct vexfs_ref_hit; nearest first */
	__u32 found;			/* out: hits written, k unless there are fewer rows */
	__u32 flags;			/* 0 */
	__u64 rows;			/* out: rows looked at */
};

#define VEXFS_REF_IOC		0xE7
#define VEXFS_REF_IOC_STATUS	_IOR(VEXFS_REF_IOC, 1, struct vexfs_ref_status)
#define VEXFS_REF_IOC_ADD_VECTORS _IOWR(VEXFS_REF_IOC, 2, struct vexfs_ref_add_vectors)
#define VEXFS_REF_IOC_SEARCH	_IOWR(VEXFS_REF_IOC, 3, struct vexfs_ref_search)

#endif
