// SPDX-License-Identifier: GPL-2.0
/*
 * vexfs-ref: which blocks and which inodes are in use.
 *
 * Both bitmaps stay in memory while mounted. One mutex guards them and the free counts, so that
 * parallel creates get different inodes and no free block is given away twice.
 */
#include <linux/bitops.h>
#include <linux/slab.h>

#include "vexfs_ref.h"

static void vexfs_ref_put_bits(struct buffer_head **bits, u32 count)
{
	if (!bits)
		return;
	while (count--)
		brelse(bits[count]);
	kvfree(bits);
}

static struct buffer_head **vexfs_ref_read_bits(struct super_block *sb, u32 start, u32 count)
{
	struct buffer_head **bits = kvcalloc(count, sizeof(*bits), GFP_KERNEL);
	u32 i;

	if (!bits)
		return ERR_PTR(-ENOMEM);
	for (i = 0; i < count; i++) {
		bits[i] = sb_bread(sb, start + i);
		if (!bits[i]) {
			vexfs_ref_put_bits(bits, i);
			return ERR_PTR(-EIO);
		}
	}
	return bits;
}

static u32 vexfs_ref_count_zeros(struct buffer_head **bits, u32 size)
{
	u32 base, bit, zeros = 0;

	for (base = 0; base < size; base += VEXFS_REF_BITS_PER_BLOCK) {
		const void *data = bits[base / VEXFS_REF_BITS_PER_BLOCK]->b_data;
		u32 here = min_t(u32, size - base, VEXFS_REF_BITS_PER_BLOCK);

		for (bit = find_next_zero_bit_le(data, here, 0); bit < here;
		     bit = find_next_zero_bit_le(data, here, bit + 1))
			zeros++;
	}
	return zeros;
}

static bool vexfs_ref_test(struct buffer_head **bits, u32 bit)
{
	return test_bit_le(bit % VEXFS_REF_BITS_PER_BLOCK,
			   bits[bit / VEXFS_REF_BITS_PER_BLOCK]->b_data);
}

/* Set or clear one bit; false if it was like that already. */
static bool vexfs_ref_flip(struct buffer_head **bits, u32 bit, bool value)
{
	struct buffer_head *bh = bits[bit / VEXFS_REF_BITS_PER_BLOCK];
	u32 offset = bit % VEXFS_REF_BITS_PER_BLOCK;
	bool changed;

	vexfs_ref_begin_change(bh);
	if (value)
		changed = !__test_and_set_bit_le(offset, bh->b_data);
	else
		changed = __test_and_clear_bit_le(offset, bh->b_data);
	vexfs_ref_end_change(bh);
	return changed;
}

/* First clear bit in [from, to), or `to`. */
static u32 vexfs_ref_find_zero(struct buffer_head **bits, u32 from, u32 to)
{
	while (from < to) {
		u32 base = round_down(from, VEXFS_REF_BITS_PER_BLOCK);
		u32 end = min_t(u32, to - base, VEXFS_REF_BITS_PER_BLOCK);
		u32 found = find_next_zero_bit_le(bits[base / VEXFS_REF_BITS_PER_BLOCK]->b_data,
						  end, from - base);

		if (found < end)
			return base + found;
		from = base + end;
	}
	return to;
}

/*
 * Take the first clear bit of [first, size) at or behind the hint, or else one before it. Returns
 * `size` when all are set, which the free count should have told: but the device's buffers can be
 * changed by others, such as root, or be read again after a write error.
 */
static u32 vexfs_ref_take(struct buffer_head **bits, u32 first, u32 hint, u32 size)
{
	u32 found = vexfs_ref_find_zero(bits, hint, size);

	if (found == size) {
		found = vexfs_ref_find_zero(bits, first, hint);
		if (found == hint)
			return size;
	}
	vexfs_ref_flip(bits, found, true);
	return found;
}

/*
 * Read both bitmaps and count what is free. A volume whose own metadata is marked free would
 * overwrite itself: refused.
 */
int vexfs_ref_load_bitmaps(struct super_block *sb)
{
	struct vexfs_ref_sb_info *sbi = vexfs_ref_sb(sb);
	const struct vexfs_ref_layout *layout = &sbi->s_layout;
	struct buffer_head **bits;

	bits = vexfs_ref_read_bits(sb, layout->inode_bitmap, layout->inode_bitmap_blocks);
	if (IS_ERR(bits))
		return PTR_ERR(bits);
	sbi->s_inode_bits = bits;
	bits = vexfs_ref_read_bits(sb, layout->block_bitmap, layout->block_bitmap_blocks);
	if (IS_ERR(bits))
		return PTR_ERR(bits);
	sbi->s_block_bits = bits;

	if (vexfs_ref_find_zero(bits, 0, layout->data) < layout->data ||
	    !vexfs_ref_test(sbi->s_inode_bits, VEXFS_REF_ROOT_INO - 1))
		return -EINVAL;
	sbi->s_free_blocks = vexfs_ref_count_zeros(bits, sbi->s_blocks);
	sbi->s_free_inodes = vexfs_ref_count_zeros(sbi->s_inode_bits, sbi->s_inodes);
	sbi->s_block_hint = layout->data;
	return 0;
}

void vexfs_ref_release_bitmaps(struct vexfs_ref_sb_info *sbi)
{
	vexfs_ref_put_bits(sbi->s_inode_bits, sbi->s_layout.inode_bitmap_blocks);
	vexfs_ref_put_bits(sbi->s_block_bits, sbi->s_layout.block_bitmap_blocks);
	sbi->s_inode_bits = NULL;
	sbi->s_block_bits = NULL;
}

/* Take `count` blocks, all or none of them. */
int vexfs_ref_alloc_blocks(struct super_block *sb, unsigned int count, u32 *blocks)
{
	struct vexfs_ref_sb_info *sbi = vexfs_ref_sb(sb);
	const u32 first = sbi->s_layout.data;
	unsigned int taken = 0;
	int error = -ENOSPC;

	mutex_lock(&sbi->s_bitmap_lock);
	if (sbi->s_free_blocks < count)
		goto out;
	for (taken = 0; taken < count; taken++) {
		u32 block = vexfs_ref_take(sbi->s_block_bits, first, sbi->s_block_hint,
					   sbi->s_blocks);

		if (block == sbi->s_blocks)
			goto undo;
		blocks[taken] = block;
		sbi->s_block_hint = block + 1 < sbi->s_blocks ? block + 1 : first;
	}
	sbi->s_free_blocks -= count;
	error = 0;
out:
	mutex_unlock(&sbi->s_bitmap_lock);
	return error;

undo:
	while (taken--)
		vexfs_ref_flip(sbi->s_block_bits, blocks[taken], false);
	mutex_unlock(&sbi->s_bitmap_lock);
	vexfs_ref_damaged(sb, "fewer blocks are free than were counted");
	return -EIO;
}

void vexfs_ref_free_block(struct super_block *sb, u32 block)
{
	struct vexfs_ref_sb_info *sbi = vexfs_ref_sb(sb);
	bool was_used = false;

	mutex_lock(&sbi->s_bitmap_lock);
	if (vexfs_ref_is_data_block(sbi, block)) {
		was_used = vexfs_ref_flip(sbi->s_block_bits, block, false);
		sbi->s_free_blocks += was_used;
		/* Low blocks first, so that a volume that was emptied is filled as it was before. */
		if (was_used && block < sbi->s_block_hint)
			sbi->s_block_hint = block;
	}
	mutex_unlock(&sbi->s_bitmap_lock);
	if (!was_used)
		vexfs_ref_damaged(sb, "block %u is freed and was not in use", block);
}

int vexfs_ref_alloc_ino(struct super_block *sb, u32 *ino)
{
	struct vexfs_ref_sb_info *sbi = vexfs_ref_sb(sb);
	u32 bit = sbi->s_inodes;
	bool any;

	mutex_lock(&sbi->s_bitmap_lock);
	any = sbi->s_free_inodes;
	if (any)
		bit = vexfs_ref_take(sbi->s_inode_bits, 0, sbi->s_inode_hint, sbi->s_inodes);
	if (bit < sbi->s_inodes) {
		sbi->s_free_inodes--;
		sbi->s_inode_hint = bit + 1 < sbi->s_inodes ? bit + 1 : 0;
	}
	mutex_unlock(&sbi->s_bitmap_lock);
	*ino = bit + 1;
	if (bit < sbi->s_inodes)
		return 0;
	if (any)
		vexfs_ref_damaged(sb, "fewer inodes are free than were counted");
	return any ? -EIO : -ENOSPC;
}

void vexfs_ref_free_ino(struct super_block *sb, u32 ino)
{
	struct vexfs_ref_sb_info *sbi = vexfs_ref_sb(sb);
	bool was_used;

	mutex_lock(&sbi->s_bitmap_lock);
	was_used = vexfs_ref_flip(sbi->s_inode_bits, ino - 1, false);
	sbi->s_free_inodes += was_used;
	if (was_used && ino - 1 < sbi->s_inode_hint)
		sbi->s_inode_hint = ino - 1;
	mutex_unlock(&sbi->s_bitmap_lock);
	if (!was_used)
		vexfs_ref_damaged(sb, "inode %u is freed and was not in use", ino);
}

bool vexfs_ref_ino_in_use(struct super_block *sb, u32 ino)
{
	struct vexfs_ref_sb_info *sbi = vexfs_ref_sb(sb);
	bool used;

	mutex_lock(&sbi->s_bitmap_lock);
	used = vexfs_ref_test(sbi->s_inode_bits, ino - 1);
	mutex_unlock(&sbi->s_bitmap_lock);
	return used;
}

void vexfs_ref_free_counts(struct super_block *sb, u32 *blocks, u32 *inodes)
{
	struct vexfs_ref_sb_info *sbi = vexfs_ref_sb(sb);

	mutex_lock(&sbi->s_bitmap_lock);
	*blocks = sbi->s_free_blocks;
	*inodes = sbi->s_free_inodes;
	mutex_unlock(&sbi->s_bitmap_lock);
}

#ifdef VEXFS_REF_DEBUG
/* The running counts against the bitmaps themselves. */
void vexfs_ref_recount(struct super_block *sb)
{
	struct vexfs_ref_sb_info *sbi = vexfs_ref_sb(sb);
	u32 blocks, inodes;
	bool right;

	mutex_lock(&sbi->s_bitmap_lock);
	blocks = vexfs_ref_count_zeros(sbi->s_block_bits, sbi->s_blocks);
	inodes = vexfs_ref_count_zeros(sbi->s_inode_bits, sbi->s_inodes);
	right = blocks == sbi->s_free_blocks && inodes == sbi->s_free_inodes;
	mutex_unlock(&sbi->s_bitmap_lock);
	if (!right)
		vexfs_ref_damaged(sb, "%u blocks and %u inodes are free, and counted otherwise",
				  blocks, inodes);
}
#endif
