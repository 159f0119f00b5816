// SPDX-License-Identifier: GPL-2.0
/*
 * vexfs-ref: from the block of a file to the block of the volume.
 *
 * Twelve numbers in the inode, one block of numbers, one block of such blocks. Every number read
 * from the medium is checked before it is used.
 */
#include <linux/sched.h>

#include "vexfs_ref.h"

static struct buffer_head *vexfs_ref_read_map_block(struct inode *inode, u32 block)
{
	struct super_block *sb = inode->i_sb;
	struct buffer_head *bh;

	if (!vexfs_ref_is_data_block(vexfs_ref_sb(sb), block)) {
		vexfs_ref_damaged(sb, "inode %lu has its block map in block %u",
				  (unsigned long)inode->i_ino, block);
		return ERR_PTR(-EIO);
	}
	bh = sb_bread(sb, block);
	return bh ? bh : ERR_PTR(-EIO);
}

static u32 vexfs_ref_read_number(const struct buffer_head *bh, u32 index)
{
	return le32_to_cpu(((const __le32 *)bh->b_data)[index]);
}

static void vexfs_ref_write_number(struct buffer_head *bh, u32 index, u32 number)
{
	vexfs_ref_begin_change(bh);
	((__le32 *)bh->b_data)[index] = cpu_to_le32(number);
	vexfs_ref_end_change(bh);
}

/* *block becomes the number at the end of the path, or 0 for a hole. i_map_lock is held. */
static int vexfs_ref_look_up(struct inode *inode, const u32 *path, int depth, u32 *block)
{
	u32 number = vexfs_ref_i(inode)->i_block[path[0]];
	int level;

	for (level = 1; number && level < depth; level++) {
		struct buffer_head *bh = vexfs_ref_read_map_block(inode, number);

		if (IS_ERR(bh))
			return PTR_ERR(bh);
		number = vexfs_ref_read_number(bh, path[level]);
		brelse(bh);
	}
	if (number && !vexfs_ref_is_data_block(vexfs_ref_sb(inode->i_sb), number)) {
		vexfs_ref_damaged(inode->i_sb, "inode %lu has data in block %u",
				  (unsigned long)inode->i_ino, number);
		return -EIO;
	}
	*block = number;
	return 0;
}

/* Forget what the buffer cache knows of a block, and mark it free. */
static void vexfs_ref_give_back(struct inode *inode, u32 block)
{
	struct super_block *sb = inode->i_sb;

	if (vexfs_ref_is_data_block(vexfs_ref_sb(sb), block)) {
		struct buffer_head *bh = sb_find_get_block(sb, block);

		if (bh)
			bforget(bh);
	}
	vexfs_ref_free_block(sb, block);
}

/*
 * Fill the hole at the end of the path. All blocks are taken before anything points to them, and
 * the new part of the map is complete before it is hung into the old one: whatever fails, the
 * file and the free space are as before. i_map_lock is held for writing.
 */
static int vexfs_ref_fill_hole(struct inode *inode, const u32 *path, int depth, u32 *block)
{
	struct vexfs_ref_inode_info *info = vexfs_ref_i(inode);
	struct super_block *sb = inode->i_sb;
	struct buffer_head *parent = NULL;
	u32 fresh[3], number = info->i_block[path[0]];
	int level, count, error, i;

	/* Afterwards path[level - 1] is the empty place, in `parent` or in the inode. */
	for (level = 1; number && level < depth; level++) {
		struct buffer_head *bh = vexfs_ref_read_map_block(inode, number);

		brelse(parent);
		if (IS_ERR(bh))
			return PTR_ERR(bh);
		parent = bh;
		number = vexfs_ref_read_number(parent, path[level]);
	}
	count = depth - level + 1;
	error = vexfs_ref_alloc_blocks(sb, count, fresh);
	if (error)
		goto out;

	for (i = count - 2; i >= 0; i--) {
		struct buffer_head *bh = sb_getblk(sb, fresh[i]);

		if (!bh) {
			error = -ENOMEM;
			goto unwind;
		}
		vexfs_ref_begin_change(bh);
		memset(bh->b_data, 0, bh->b_size);
		((__le32 *)bh->b_data)[path[level + i]] = cpu_to_le32(fresh[i + 1]);
		vexfs_ref_end_change(bh);
		brelse(bh);
	}
	if (parent)
		vexfs_ref_write_number(parent, path[level - 1], fresh[0]);
	else
		info->i_block[path[0]] = fresh[0];
	*block = fresh[count - 1];
	inode_add_bytes(inode, (loff_t)count << VEXFS_REF_BLOCK_SHIFT);
	mark_inode_dirty(inode);
out:
	brelse(parent);
	return error;

unwind:
	for (i = 0; i < count; i++)
		vexfs_ref_give_back(inode, fresh[i]);
	goto out;
}

/*
 * Where block `index` of the file is; 0 for a hole, unless `create` fills it.
 * Returns 1 if the block is new, 0 if not, or an error.
 */
int vexfs_ref_map(struct inode *inode, u64 index, bool create, u32 *block)
{
	struct vexfs_ref_inode_info *info = vexfs_ref_i(inode);
	u32 path[3];
	int depth = vexfs_ref_block_path(index, path);
	int error;

	*block = 0;
	if (!depth)
		return create ? -EFBIG : 0;

	down_read(&info->i_map_lock);
	error = vexfs_ref_look_up(inode, path, depth, block);
	up_read(&info->i_map_lock);
	if (error || *block || !create)
		return error;

	down_write(&info->i_map_lock);
	/* Somebody else may have filled it since. */
	error = vexfs_ref_look_up(inode, path, depth, block);
	if (!error && !*block) {
		error = vexfs_ref_fill_hole(inode, path, depth, block);
		if (!error)
			error = 1;
	}
	up_write(&info->i_map_lock);
	return error;
}

int vexfs_ref_get_block(struct inode *inode, sector_t index, struct buffer_head *result, int create)
{
	u32 block;
	int status = vexfs_ref_map(inode, index, create, &block);

	if (status < 0)
		return status;
	/* "new" makes the caller zero what it does not write, and drop the device's old buffers. */
	if (status)
		set_buffer_new(result);
	if (block)
		map_bh(result, inode->i_sb, block);
	return 0;
}

/* A block of the file goes. i_blocks comes from the medium and may be too small. */
static void vexfs_ref_drop_block(struct inode *inode, u32 block)
{
	vexfs_ref_give_back(inode, block);
	if (inode_get_bytes(inode) >= VEXFS_REF_BLOCK_SIZE)
		inode_sub_bytes(inode, VEXFS_REF_BLOCK_SIZE);
}

/*
 * Free everything at and behind position `first` below a block of numbers, which itself stays.
 * With two levels its numbers are those of blocks of numbers.
 */
static int vexfs_ref_trim(struct inode *inode, u32 block, int levels, u32 first)
{
	const u32 span = levels == 2 ? VEXFS_REF_PTRS : 1;	/* positions below one number */
	struct buffer_head *bh = vexfs_ref_read_map_block(inode, block);
	int error = 0;
	u32 i;

	if (IS_ERR(bh))
		return PTR_ERR(bh);
	for (i = first / span; i < VEXFS_REF_PTRS; i++) {
		u32 below = vexfs_ref_read_number(bh, i);
		u32 keep = i == first / span ? first % span : 0;

		if (!below)
			continue;
		if (levels == 2) {
			int failed = vexfs_ref_trim(inode, below, 1, keep);

			if (failed)
				error = failed;
			if (failed || keep)
				continue;
		}
		vexfs_ref_write_number(bh, i, 0);
		vexfs_ref_drop_block(inode, below);
		cond_resched();
	}
	brelse(bh);
	return error;
}

/* One of the two trees of an inode: trim it, and free its root if nothing can be left below. */
static int vexfs_ref_trim_tree(struct inode *inode, int slot, int levels, u64 first)
{
	struct vexfs_ref_inode_info *info = vexfs_ref_i(inode);
	u32 root = info->i_block[slot];
	u64 positions = levels == 2 ? (u64)VEXFS_REF_PTRS * VEXFS_REF_PTRS : VEXFS_REF_PTRS;
	int error;

	if (!root || first >= positions)
		return 0;
	error = vexfs_ref_trim(inode, root, levels, first);
	if (error || first)
		return error;
	info->i_block[slot] = 0;
	vexfs_ref_drop_block(inode, root);
	return 0;
}

/*
 * Free the blocks that are wholly behind `size` bytes. What cannot be read is left alone and
 * the first error returned; the rest is freed all the same.
 */
int vexfs_ref_free_blocks_from(struct inode *inode, loff_t size)
{
	struct vexfs_ref_inode_info *info = vexfs_ref_i(inode);
	u64 first = ((u64)size + VEXFS_REF_BLOCK_SIZE - 1) >> VEXFS_REF_BLOCK_SHIFT;
	u64 skipped = VEXFS_REF_DIRECT;
	int error, failed;
	u32 i;

	down_write(&info->i_map_lock);
	for (i = first; first < VEXFS_REF_DIRECT && i < VEXFS_REF_DIRECT; i++) {
		if (!info->i_block[i])
			continue;
		vexfs_ref_drop_block(inode, info->i_block[i]);
		info->i_block[i] = 0;
	}
	error = vexfs_ref_trim_tree(inode, VEXFS_REF_INDIRECT, 1,
				    first > skipped ? first - skipped : 0);
	skipped += VEXFS_REF_PTRS;
	failed = vexfs_ref_trim_tree(inode, VEXFS_REF_DOUBLE, 2,
				     first > skipped ? first - skipped : 0);
	up_write(&info->i_map_lock);
	mark_inode_dirty(inode);
	return error ? error : failed;
}
