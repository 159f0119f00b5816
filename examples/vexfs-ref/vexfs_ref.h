/* SPDX-License-Identifier: GPL-2.0 */
/*
 * vexfs-ref inside the kernel.
 *
 * Locks, outermost first:
 *
 *   inode->i_rwsem          names in a directory, the size of a file (taken by the VFS)
 *   folio lock              one page of a file
 *   i_map_lock              the block map of one inode; readers look up, writers change it
 *   s_bitmap_lock           both bitmaps, their free counts, and the superblock
 *   buffer lock             the bytes of one block of metadata
 *
 * Nothing allocates memory that may enter the filesystem again below i_map_lock: buffers come
 * with the block device's mapping, whose allocations never recurse into a filesystem.
 */
#ifndef VEXFS_REF_H
#define VEXFS_REF_H

#include <linux/buffer_head.h>
#include <linux/fs.h>
#include <linux/mutex.h>
#include <linux/rwsem.h>

#include "compat.h"
#include "vexfs_ref_fs.h"

struct vexfs_ref_sb_info {
	struct buffer_head *s_super_bh;
	struct vexfs_ref_layout s_layout;
	u32 s_blocks;
	u32 s_inodes;

	struct mutex s_bitmap_lock;
	struct buffer_head **s_inode_bits;	/* the bitmaps' blocks, all in memory */
	struct buffer_head **s_block_bits;
	u32 s_free_blocks;
	u32 s_free_inodes;
	u32 s_block_hint;			/* where the next search begins */
	u32 s_inode_hint;
	bool s_damaged;				/* VEXFS_REF_ERROR: never written clean again */
};

struct vexfs_ref_inode_info {
	struct rw_semaphore i_map_lock;
	u32 i_block[VEXFS_REF_N_BLOCKS];
	char i_inline[VEXFS_REF_INLINE_SIZE];
	struct inode vfs_inode;
};

static inline struct vexfs_ref_sb_info *vexfs_ref_sb(struct super_block *sb)
{
	return sb->s_fs_info;
}

static inline struct vexfs_ref_inode_info *vexfs_ref_i(struct inode *inode)
{
	return container_of(inode, struct vexfs_ref_inode_info, vfs_inode);
}

/* True for a block that may hold data or a block map: inside the volume, behind its metadata. */
static inline bool vexfs_ref_is_data_block(const struct vexfs_ref_sb_info *sbi, u32 block)
{
	return block >= sbi->s_layout.data && block < sbi->s_blocks;
}

/*
 * Every change of a block of metadata is made between these two. The lock keeps its bytes from
 * changing while they are written out, and a write that failed from clearing the uptodate
 * bit under us: mark_buffer_dirty() warns about a buffer without it, and after an I/O error what
 * is in memory is still the truth.
 */
static inline void vexfs_ref_begin_change(struct buffer_head *bh)
{
	lock_buffer(bh);
}

static inline void vexfs_ref_end_change(struct buffer_head *bh)
{
	set_buffer_uptodate(bh);
	mark_buffer_dirty(bh);
	unlock_buffer(bh);
}

/* super.c */
__printf(2, 3) void vexfs_ref_damaged(struct super_block *sb, const char *format, ...);

/* bitmap.c: block numbers and inode numbers are those of the medium, never bit numbers */
int vexfs_ref_load_bitmaps(struct super_block *sb);
void vexfs_ref_release_bitmaps(struct vexfs_ref_sb_info *sbi);
int vexfs_ref_alloc_blocks(struct super_block *sb, unsigned int count, u32 *blocks);
void vexfs_ref_free_block(struct super_block *sb, u32 block);
int vexfs_ref_alloc_ino(struct super_block *sb, u32 *ino);
void vexfs_ref_free_ino(struct super_block *sb, u32 ino);
bool vexfs_ref_ino_in_use(struct super_block *sb, u32 ino);
void vexfs_ref_free_counts(struct super_block *sb, u32 *blocks, u32 *inodes);
#ifdef VEXFS_REF_DEBUG
void vexfs_ref_recount(struct super_block *sb);
#else
static inline void vexfs_ref_recount(struct super_block *sb) { }
#endif

/* inode.c */
struct inode *vexfs_ref_iget(struct super_block *sb, u32 ino);
struct inode *vexfs_ref_new_inode(struct vexfs_ref_idmap *idmap, struct inode *dir, umode_t mode,
				  dev_t rdev);
int vexfs_ref_write_inode(struct inode *inode, struct writeback_control *wbc);
void vexfs_ref_evict_inode(struct inode *inode);
void vexfs_ref_set_symlink_operations(struct inode *inode, loff_t length);

/* blockmap.c */
int vexfs_ref_get_block(struct inode *inode, sector_t index, struct buffer_head *result,
			int create);
int vexfs_ref_map(struct inode *inode, u64 index, bool create, u32 *block);
int vexfs_ref_free_blocks_from(struct inode *inode, loff_t size);

/* dir.c */
struct vexfs_ref_dirent *vexfs_ref_find_entry(struct inode *dir, const struct qstr *name,
					      struct buffer_head **bhp);
int vexfs_ref_add_entry(struct inode *dir, const struct qstr *name, struct inode *inode);
void vexfs_ref_set_entry(struct vexfs_ref_dirent *entry, struct buffer_head *bh,
			 const struct inode *inode);
void vexfs_ref_delete_entry(struct inode *dir, struct vexfs_ref_dirent *entry,
			    struct buffer_head *bh);
int vexfs_ref_make_empty(struct inode *dir, u32 parent);
int vexfs_ref_dir_is_empty(struct inode *dir);
extern const struct file_operations vexfs_ref_dir_operations;

/* namei.c */
extern const struct inode_operations vexfs_ref_dir_inode_operations;
extern const struct inode_operations vexfs_ref_special_inode_operations;

/* file.c */
int vexfs_ref_setattr(struct vexfs_ref_idmap *idmap, struct dentry *dentry, struct iattr *attr);
int vexfs_ref_set_size(struct inode *inode, loff_t size);
int vexfs_ref_fsync(struct file *file, loff_t start, loff_t end, int datasync);
extern const struct inode_operations vexfs_ref_file_inode_operations;
extern const struct file_operations vexfs_ref_file_operations;
extern const struct address_space_operations vexfs_ref_aops;

/* ioctl.c */
long vexfs_ref_ioctl(struct file *file, unsigned int command, unsigned long argument);

/* vectors.c */
#ifdef VEXFS_REF_VECTORS
long vexfs_ref_add_vectors(struct file *file, void __user *argument);
long vexfs_ref_search(struct file *file, void __user *argument);
#endif

#endif
