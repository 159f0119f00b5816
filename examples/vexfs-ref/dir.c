// SPDX-License-Identifier: GPL-2.0
/*
 * vexfs-ref: the records of a directory.
 *
 * Directories live in the buffer cache of the device. Every record is checked when it is met,
 * because the block it is in may have been anything. Callers hold the directory's i_rwsem.
 */
#include <linux/fs.h>
#include <linux/sched.h>
#include <linux/string.h>

#include "vexfs_ref.h"

static u32 vexfs_ref_dir_blocks(const struct inode *dir)
{
	return dir->i_size >> VEXFS_REF_BLOCK_SHIFT;
}

static struct buffer_head *vexfs_ref_read_dir_block(struct inode *dir, u32 index)
{
	struct buffer_head *bh;
	u32 block;
	int error = vexfs_ref_map(dir, index, false, &block);

	if (error)
		return ERR_PTR(error);
	if (!block) {
		vexfs_ref_damaged(dir->i_sb, "directory %lu has a hole at block %u",
				  (unsigned long)dir->i_ino, index);
		return ERR_PTR(-EIO);
	}
	bh = sb_bread(dir->i_sb, block);
	return bh ? bh : ERR_PTR(-EIO);
}

/* The record at `offset` of the block, or NULL if it cannot be one. */
static struct vexfs_ref_dirent *vexfs_ref_entry_at(struct inode *dir, struct buffer_head *bh,
						   unsigned int offset)
{
	struct vexfs_ref_dirent *entry = (struct vexfs_ref_dirent *)(bh->b_data + offset);
	unsigned int length = le16_to_cpu(entry->d_rec_len);
	u32 ino = le32_to_cpu(entry->d_ino);

	/* The offset is a multiple of 8, so the head of the record is inside the block. */
	if (length < VEXFS_REF_DIRENT_HEAD || length % VEXFS_REF_DIRENT_ALIGN ||
	    length > VEXFS_REF_BLOCK_SIZE - offset)
		goto damaged;
	if (!ino)
		return entry;
	if (ino > vexfs_ref_sb(dir->i_sb)->s_inodes || !entry->d_name_len ||
	    vexfs_ref_dirent_size(entry->d_name_len) > length ||
	    memchr(entry->d_name, 0, entry->d_name_len) ||
	    memchr(entry->d_name, '/', entry->d_name_len))
		goto damaged;
	return entry;
damaged:
	vexfs_ref_damaged(dir->i_sb, "directory %lu has a wrong record at byte %u of block %llu",
			  (unsigned long)dir->i_ino, offset, (unsigned long long)bh->b_blocknr);
	return NULL;
}

#ifdef VEXFS_REF_DEBUG
/* Every record of the block, before and after it is changed. */
static void vexfs_ref_check_dir_block(struct inode *dir, struct buffer_head *bh)
{
	const struct vexfs_ref_dirent *entry;
	unsigned int offset;

	for (offset = 0; offset < VEXFS_REF_BLOCK_SIZE; offset += le16_to_cpu(entry->d_rec_len)) {
		entry = vexfs_ref_entry_at(dir, bh, offset);
		if (!entry)
			return;
	}
}
#else
static inline void vexfs_ref_check_dir_block(struct inode *dir, struct buffer_head *bh) { }
#endif

static bool vexfs_ref_is_dots(const struct vexfs_ref_dirent *entry)
{
	return entry->d_name[0] == '.' &&
	       (entry->d_name_len == 1 || (entry->d_name_len == 2 && entry->d_name[1] == '.'));
}

/* The record with that name and, in *bhp, its buffer; -ENOENT if there is none. */
struct vexfs_ref_dirent *vexfs_ref_find_entry(struct inode *dir, const struct qstr *name,
					      struct buffer_head **bhp)
{
	struct vexfs_ref_dirent *entry;
	struct buffer_head *bh;
	unsigned int offset;
	u32 index;

	for (index = 0; index < vexfs_ref_dir_blocks(dir); index++) {
		bh = vexfs_ref_read_dir_block(dir, index);
		if (IS_ERR(bh))
			return ERR_CAST(bh);
		for (offset = 0; offset < VEXFS_REF_BLOCK_SIZE;
		     offset += le16_to_cpu(entry->d_rec_len)) {
			entry = vexfs_ref_entry_at(dir, bh, offset);
			if (!entry) {
				brelse(bh);
				return ERR_PTR(-EIO);
			}
			if (entry->d_ino && entry->d_name_len == name->len &&
			    !memcmp(entry->d_name, name->name, name->len)) {
				*bhp = bh;
				return entry;
			}
		}
		brelse(bh);
		cond_resched();
	}
	return ERR_PTR(-ENOENT);
}

static void vexfs_ref_fill_entry(struct vexfs_ref_dirent *entry, const char *name,
				 unsigned int length, u32 ino, umode_t mode)
{
	memset(entry->d_name, 0, vexfs_ref_dirent_size(length) - VEXFS_REF_DIRENT_HEAD);
	memcpy(entry->d_name, name, length);
	entry->d_ino = cpu_to_le32(ino);
	entry->d_name_len = length;
	entry->d_type = fs_umode_to_ftype(mode);
}

/* The directory's content changed. */
static void vexfs_ref_dir_changed(struct inode *dir)
{
	vexfs_ref_touch(dir);
	mark_inode_dirty(dir);
}

/* Put the name into the room that a record of the block does not need. */
static bool vexfs_ref_add_to_record(struct inode *dir, struct buffer_head *bh,
				    struct vexfs_ref_dirent *entry, const struct qstr *name,
				    const struct inode *inode)
{
	unsigned int length = le16_to_cpu(entry->d_rec_len);
	unsigned int used = entry->d_ino ? vexfs_ref_dirent_size(entry->d_name_len) : 0;

	if (length - used < vexfs_ref_dirent_size(name->len))
		return false;
	vexfs_ref_check_dir_block(dir, bh);
	vexfs_ref_begin_change(bh);
	if (used) {
		entry->d_rec_len = cpu_to_le16(used);
		entry = (struct vexfs_ref_dirent *)((char *)entry + used);
		entry->d_rec_len = cpu_to_le16(length - used);
	}
	vexfs_ref_fill_entry(entry, name->name, name->len, inode->i_ino, inode->i_mode);
	vexfs_ref_end_change(bh);
	vexfs_ref_check_dir_block(dir, bh);
	return true;
}

/* A further block of the directory: one free record. Returns its buffer. */
static struct buffer_head *vexfs_ref_append_block(struct inode *dir)
{
	struct buffer_head *bh;
	u32 block;
	int status = vexfs_ref_map(dir, vexfs_ref_dir_blocks(dir), true, &block);

	if (status < 0)
		return ERR_PTR(status);
	bh = sb_getblk(dir->i_sb, block);
	if (!bh) {
		vexfs_ref_free_blocks_from(dir, dir->i_size);
		return ERR_PTR(-ENOMEM);
	}
	vexfs_ref_begin_change(bh);
	memset(bh->b_data, 0, bh->b_size);
	((struct vexfs_ref_dirent *)bh->b_data)->d_rec_len = cpu_to_le16(VEXFS_REF_BLOCK_SIZE);
	vexfs_ref_end_change(bh);
	i_size_write(dir, dir->i_size + VEXFS_REF_BLOCK_SIZE);
	mark_inode_dirty(dir);
	return bh;
}

/* A new name. When it fails the directory is as it was. */
int vexfs_ref_add_entry(struct inode *dir, const struct qstr *name, struct inode *inode)
{
	struct vexfs_ref_dirent *entry;
	struct buffer_head *bh;
	bool added = false;
	unsigned int offset;
	u32 index;

	for (index = 0; !added && index < vexfs_ref_dir_blocks(dir); index++) {
		bh = vexfs_ref_read_dir_block(dir, index);
		if (IS_ERR(bh))
			return PTR_ERR(bh);
		for (offset = 0; !added && offset < VEXFS_REF_BLOCK_SIZE;
		     offset += le16_to_cpu(entry->d_rec_len)) {
			entry = vexfs_ref_entry_at(dir, bh, offset);
			if (!entry) {
				brelse(bh);
				return -EIO;
			}
			added = vexfs_ref_add_to_record(dir, bh, entry, name, inode);
		}
		brelse(bh);
		cond_resched();
	}
	if (!added) {
		bh = vexfs_ref_append_block(dir);
		if (IS_ERR(bh))
			return PTR_ERR(bh);
		vexfs_ref_add_to_record(dir, bh, (struct vexfs_ref_dirent *)bh->b_data, name,
					inode);
		brelse(bh);
	}
	vexfs_ref_dir_changed(dir);
	return 0;
}

/* Let an existing name mean another inode. The times are the caller's: ".." is no content. */
void vexfs_ref_set_entry(struct vexfs_ref_dirent *entry, struct buffer_head *bh,
			 const struct inode *inode)
{
	vexfs_ref_begin_change(bh);
	entry->d_ino = cpu_to_le32(inode->i_ino);
	entry->d_type = fs_umode_to_ftype(inode->i_mode);
	vexfs_ref_end_change(bh);
}

/* Remove a name: its record joins the one before it, or is free if it is the block's first. */
void vexfs_ref_delete_entry(struct inode *dir, struct vexfs_ref_dirent *entry,
			    struct buffer_head *bh)
{
	const unsigned int end = (char *)entry - bh->b_data;
	struct vexfs_ref_dirent *before = NULL;
	unsigned int offset = 0;

	vexfs_ref_check_dir_block(dir, bh);
	while (offset < end) {
		before = vexfs_ref_entry_at(dir, bh, offset);
		if (!before)
			break;
		offset += le16_to_cpu(before->d_rec_len);
	}
	vexfs_ref_begin_change(bh);
	if (before && offset == end)
		before->d_rec_len = cpu_to_le16(le16_to_cpu(before->d_rec_len) +
						le16_to_cpu(entry->d_rec_len));
	entry->d_ino = 0;
	vexfs_ref_end_change(bh);
	vexfs_ref_check_dir_block(dir, bh);
	vexfs_ref_dir_changed(dir);
}

/* The first block of a new directory. */
int vexfs_ref_make_empty(struct inode *dir, u32 parent)
{
	const unsigned int first = vexfs_ref_dirent_size(1);
	struct buffer_head *bh = vexfs_ref_append_block(dir);
	struct vexfs_ref_dirent *entry;

	if (IS_ERR(bh))
		return PTR_ERR(bh);
	vexfs_ref_begin_change(bh);
	entry = (struct vexfs_ref_dirent *)bh->b_data;
	vexfs_ref_fill_entry(entry, ".", 1, dir->i_ino, S_IFDIR);
	entry->d_rec_len = cpu_to_le16(first);
	entry = (struct vexfs_ref_dirent *)(bh->b_data + first);
	vexfs_ref_fill_entry(entry, "..", 2, parent, S_IFDIR);
	entry->d_rec_len = cpu_to_le16(VEXFS_REF_BLOCK_SIZE - first);
	vexfs_ref_end_change(bh);
	brelse(bh);
	return 0;
}

/* 1 if there are only "." and "..", 0 if there is more, or an error. */
int vexfs_ref_dir_is_empty(struct inode *dir)
{
	const struct vexfs_ref_dirent *entry;
	struct buffer_head *bh;
	unsigned int offset;
	u32 index;

	for (index = 0; index < vexfs_ref_dir_blocks(dir); index++) {
		bh = vexfs_ref_read_dir_block(dir, index);
		if (IS_ERR(bh))
			return PTR_ERR(bh);
		for (offset = 0; offset < VEXFS_REF_BLOCK_SIZE;
		     offset += le16_to_cpu(entry->d_rec_len)) {
			entry = vexfs_ref_entry_at(dir, bh, offset);
			if (!entry || (entry->d_ino && !vexfs_ref_is_dots(entry))) {
				brelse(bh);
				return entry ? 0 : -EIO;
			}
		}
		brelse(bh);
		cond_resched();
	}
	return 1;
}

/*
 * The position is the byte offset of the next record. Records never move, but one may join the
 * record before it while nobody holds the lock: so each call walks its block from the start and
 * passes over what begins before the position.
 */
static int vexfs_ref_readdir(struct file *file, struct dir_context *context)
{
	struct inode *dir = file_inode(file);
	const struct vexfs_ref_dirent *entry;
	struct buffer_head *bh;
	unsigned int offset;

	while (context->pos >= 0 && context->pos < dir->i_size) {
		const loff_t start = round_down(context->pos, VEXFS_REF_BLOCK_SIZE);

		bh = vexfs_ref_read_dir_block(dir, start >> VEXFS_REF_BLOCK_SHIFT);
		if (IS_ERR(bh))
			return PTR_ERR(bh);
		for (offset = 0; offset < VEXFS_REF_BLOCK_SIZE;
		     offset += le16_to_cpu(entry->d_rec_len)) {
			entry = vexfs_ref_entry_at(dir, bh, offset);
			if (!entry) {
				brelse(bh);
				return -EIO;
			}
			if (!entry->d_ino || start + offset < context->pos)
				continue;
			context->pos = start + offset;
			if (!dir_emit(context, entry->d_name, entry->d_name_len,
				      le32_to_cpu(entry->d_ino),
				      fs_ftype_to_dtype(entry->d_type))) {
				brelse(bh);
				return 0;
			}
			/* Behind it: getdents() tells of damage only in a call that meets no name. */
			context->pos = start + offset + le16_to_cpu(entry->d_rec_len);
		}
		brelse(bh);
		context->pos = start + VEXFS_REF_BLOCK_SIZE;
		cond_resched();
	}
	return 0;
}

const struct file_operations vexfs_ref_dir_operations = {
	.llseek = generic_file_llseek,
	.read = generic_read_dir,
	.iterate_shared = vexfs_ref_readdir,
	.fsync = vexfs_ref_fsync,
	.unlocked_ioctl = vexfs_ref_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};
