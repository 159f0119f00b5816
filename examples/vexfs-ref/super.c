// SPDX-License-Identifier: GPL-2.0
/*
 * vexfs-ref: a small block filesystem with vectors, the reference subject of vexrun.
 *
 * Mounting, the superblock, and the life of the module.
 */
#include <linux/blkdev.h>
#include <linux/crc32.h>
#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/statfs.h>

#include "vexfs_ref.h"

static struct kmem_cache *vexfs_ref_inode_cache;

/*
 * The medium says something that cannot be. The operation that met it fails with -EIO; the
 * volume is remembered as damaged and will not be called clean again.
 */
void vexfs_ref_damaged(struct super_block *sb, const char *format, ...)
{
	struct va_format text = { .fmt = format };
	va_list arguments;

	WRITE_ONCE(vexfs_ref_sb(sb)->s_damaged, true);
	va_start(arguments, format);
	text.va = &arguments;
	pr_err_ratelimited("vexfs_ref: %s: %pV; unmount it and run fsck.vexfs-ref\n", sb->s_id,
			   &text);
	va_end(arguments);
}

static u32 vexfs_ref_super_checksum(const struct vexfs_ref_super *raw)
{
	const size_t skipped = sizeof(raw->s_checksum);

	return ~crc32_le(~0, (const u8 *)raw + skipped, sizeof(*raw) - skipped);
}

/* Bring the superblock's buffer up to date. */
static void vexfs_ref_update_super(struct super_block *sb, bool clean)
{
	struct vexfs_ref_sb_info *sbi = vexfs_ref_sb(sb);
	struct vexfs_ref_super *raw = (struct vexfs_ref_super *)sbi->s_super_bh->b_data;
	u32 state = READ_ONCE(sbi->s_damaged) ? VEXFS_REF_ERROR : clean ? VEXFS_REF_CLEAN : 0;

	mutex_lock(&sbi->s_bitmap_lock);
	vexfs_ref_begin_change(sbi->s_super_bh);
	raw->s_state = cpu_to_le32(state);
	raw->s_free_blocks = cpu_to_le32(sbi->s_free_blocks);
	raw->s_free_inodes = cpu_to_le32(sbi->s_free_inodes);
	raw->s_checksum = cpu_to_le32(vexfs_ref_super_checksum(raw));
	vexfs_ref_end_change(sbi->s_super_bh);
	mutex_unlock(&sbi->s_bitmap_lock);
}

/* The volume is in use: say so on the medium before anything on it changes. */
static int vexfs_ref_mark_in_use(struct super_block *sb)
{
	vexfs_ref_update_super(sb, false);
	return sync_dirty_buffer(vexfs_ref_sb(sb)->s_super_bh);
}

/* Everything is written: then, and only then, call it clean. */
static int vexfs_ref_mark_clean(struct super_block *sb)
{
	int error;

	vexfs_ref_recount(sb);
	error = sync_blockdev(sb->s_bdev);
	if (error)
		return error;
	vexfs_ref_update_super(sb, true);
	return sync_dirty_buffer(vexfs_ref_sb(sb)->s_super_bh);
}

static int vexfs_ref_sync_fs(struct super_block *sb, int wait)
{
	/* A sync while frozen must not say again that the volume is in use. */
	if (sb_rdonly(sb) || sb->s_writers.frozen != SB_UNFROZEN)
		return 0;
	vexfs_ref_recount(sb);
	vexfs_ref_update_super(sb, false);
	return 0;	/* the VFS writes the device's buffers next */
}

/* Frozen, a snapshot of the disk is as good as one taken after umount. */
static int vexfs_ref_freeze(struct super_block *sb)
{
	return vexfs_ref_mark_clean(sb);
}

static int vexfs_ref_unfreeze(struct super_block *sb)
{
	return vexfs_ref_mark_in_use(sb);
}

static int vexfs_ref_statfs(struct dentry *dentry, struct kstatfs *stat)
{
	struct super_block *sb = dentry->d_sb;
	const struct vexfs_ref_sb_info *sbi = vexfs_ref_sb(sb);
	u32 free_blocks, free_inodes;

	vexfs_ref_free_counts(sb, &free_blocks, &free_inodes);
	stat->f_type = VEXFS_REF_MAGIC;
	stat->f_bsize = VEXFS_REF_BLOCK_SIZE;
	stat->f_blocks = sbi->s_blocks - sbi->s_layout.data;
	stat->f_bfree = free_blocks;
	stat->f_bavail = free_blocks;
	stat->f_files = sbi->s_inodes;
	stat->f_ffree = free_inodes;
	stat->f_namelen = VEXFS_REF_NAME_MAX;
	stat->f_fsid = u64_to_fsid(huge_encode_dev(sb->s_bdev->bd_dev));
	return 0;
}

static void vexfs_ref_release(struct super_block *sb)
{
	struct vexfs_ref_sb_info *sbi = vexfs_ref_sb(sb);

	vexfs_ref_release_bitmaps(sbi);
	brelse(sbi->s_super_bh);
	mutex_destroy(&sbi->s_bitmap_lock);
	kfree(sbi);
	sb->s_fs_info = NULL;
}

static void vexfs_ref_put_super(struct super_block *sb)
{
	int error;

	if (!sb_rdonly(sb)) {
		error = vexfs_ref_mark_clean(sb);
		if (error)
			pr_err("vexfs_ref: %s: not unmounted cleanly: error %d\n", sb->s_id, error);
	}
	vexfs_ref_release(sb);
}

static struct inode *vexfs_ref_alloc_inode(struct super_block *sb)
{
	struct vexfs_ref_inode_info *info;

	info = alloc_inode_sb(sb, vexfs_ref_inode_cache, GFP_KERNEL);
	if (!info)
		return NULL;
	memset(info->i_block, 0, sizeof(info->i_block));
	memset(info->i_inline, 0, sizeof(info->i_inline));
	return &info->vfs_inode;
}

static void vexfs_ref_free_inode(struct inode *inode)
{
	kmem_cache_free(vexfs_ref_inode_cache, vexfs_ref_i(inode));
}

static const struct super_operations vexfs_ref_super_operations = {
	.alloc_inode = vexfs_ref_alloc_inode,
	.free_inode = vexfs_ref_free_inode,
	.write_inode = vexfs_ref_write_inode,
	.evict_inode = vexfs_ref_evict_inode,
	.put_super = vexfs_ref_put_super,
	.sync_fs = vexfs_ref_sync_fs,
	.freeze_fs = vexfs_ref_freeze,
	.unfreeze_fs = vexfs_ref_unfreeze,
	.statfs = vexfs_ref_statfs,
};

/* Take over what the superblock says, or say in the log what is wrong with it. */
static int vexfs_ref_read_super(struct super_block *sb, struct fs_context *fc)
{
	struct vexfs_ref_sb_info *sbi = vexfs_ref_sb(sb);
	const struct vexfs_ref_super *raw;
	struct vexfs_ref_layout *layout = &sbi->s_layout;
	u64 device_blocks = bdev_nr_bytes(sb->s_bdev) >> VEXFS_REF_BLOCK_SHIFT;
	u32 state;

	if (!sb_set_blocksize(sb, VEXFS_REF_BLOCK_SIZE))
		return invalf(fc, "vexfs_ref: the device cannot be read in blocks of %d bytes",
			      VEXFS_REF_BLOCK_SIZE);
	if (!device_blocks)
		return invalf(fc, "vexfs_ref: the device is smaller than a superblock");
	sbi->s_super_bh = sb_bread(sb, 0);
	if (!sbi->s_super_bh) {
		errorf(fc, "vexfs_ref: the superblock cannot be read");
		return -EIO;
	}
	raw = (const struct vexfs_ref_super *)sbi->s_super_bh->b_data;
	if (le32_to_cpu(raw->s_magic) != VEXFS_REF_MAGIC) {
		if (!(fc->sb_flags & SB_SILENT))
			errorf(fc, "vexfs_ref: there is no vexfs-ref on %s", sb->s_id);
		return -EINVAL;
	}
	if (le32_to_cpu(raw->s_checksum) != vexfs_ref_super_checksum(raw))
		return invalf(fc, "vexfs_ref: the checksum of the superblock is wrong");
	if (le32_to_cpu(raw->s_version) != VEXFS_REF_VERSION || raw->s_features)
		return invalf(fc, "vexfs_ref: made by a newer version (%u, features %#x)",
			      le32_to_cpu(raw->s_version), le32_to_cpu(raw->s_features));
	sbi->s_blocks = le32_to_cpu(raw->s_blocks);
	sbi->s_inodes = le32_to_cpu(raw->s_inodes);
	if (le32_to_cpu(raw->s_block_size) != VEXFS_REF_BLOCK_SIZE ||
	    le32_to_cpu(raw->s_inode_size) != VEXFS_REF_INODE_SIZE ||
	    vexfs_ref_compute_layout(sbi->s_blocks, sbi->s_inodes, layout) ||
	    le32_to_cpu(raw->s_inode_bitmap) != layout->inode_bitmap ||
	    le32_to_cpu(raw->s_inode_bitmap_blocks) != layout->inode_bitmap_blocks ||
	    le32_to_cpu(raw->s_block_bitmap) != layout->block_bitmap ||
	    le32_to_cpu(raw->s_block_bitmap_blocks) != layout->block_bitmap_blocks ||
	    le32_to_cpu(raw->s_inode_table) != layout->inode_table ||
	    le32_to_cpu(raw->s_inode_table_blocks) != layout->inode_table_blocks ||
	    le32_to_cpu(raw->s_data) != layout->data)
		return invalf(fc, "vexfs_ref: the geometry of the superblock is wrong");
	if (sbi->s_blocks > device_blocks)
		return invalf(fc, "vexfs_ref: %u blocks do not fit on a device of %llu",
			      sbi->s_blocks, (unsigned long long)device_blocks);
	state = le32_to_cpu(raw->s_state);
	sbi->s_damaged = state & VEXFS_REF_ERROR;
	if (!(state & VEXFS_REF_CLEAN))
		pr_warn("vexfs_ref: %s: %s; run fsck.vexfs-ref\n", sb->s_id,
			sbi->s_damaged ? "known to be damaged" : "was not unmounted cleanly");
	return 0;
}

static int vexfs_ref_fill_super(struct super_block *sb, struct fs_context *fc)
{
	struct vexfs_ref_sb_info *sbi = kzalloc(sizeof(*sbi), GFP_KERNEL);
	struct inode *root;
	int error;

	if (!sbi)
		return -ENOMEM;
	mutex_init(&sbi->s_bitmap_lock);
	sb->s_fs_info = sbi;
	sb->s_magic = VEXFS_REF_MAGIC;
	sb->s_op = &vexfs_ref_super_operations;
	sb->s_maxbytes = min_t(loff_t, (loff_t)VEXFS_REF_FILE_BLOCKS << VEXFS_REF_BLOCK_SHIFT,
			       MAX_LFS_FILESIZE);
	sb->s_max_links = VEXFS_REF_LINK_MAX;
	sb->s_time_gran = 1;

	error = vexfs_ref_read_super(sb, fc);
	if (error)
		goto fail;
	error = vexfs_ref_load_bitmaps(sb);
	if (error) {
		errorf(fc, "vexfs_ref: the bitmaps are wrong or cannot be read");
		goto fail;
	}
	root = vexfs_ref_iget(sb, VEXFS_REF_ROOT_INO);
	if (IS_ERR(root)) {
		error = PTR_ERR(root);
		goto fail;
	}
	if (!S_ISDIR(root->i_mode)) {
		errorf(fc, "vexfs_ref: the root is no directory");
		iput(root);
		error = -EIO;
		goto fail;
	}
	if (!sb_rdonly(sb)) {
		error = vexfs_ref_mark_in_use(sb);
		if (error) {
			errorf(fc, "vexfs_ref: the superblock cannot be written");
			iput(root);
			goto fail;
		}
	}
	sb->s_root = d_make_root(root);
	if (sb->s_root)
		return 0;
	error = -ENOMEM;
	if (!sb_rdonly(sb))
		vexfs_ref_mark_clean(sb);
fail:
	vexfs_ref_release(sb);
	return error;
}

static int vexfs_ref_get_tree(struct fs_context *fc)
{
	return get_tree_bdev(fc, vexfs_ref_fill_super);
}

static int vexfs_ref_reconfigure(struct fs_context *fc)
{
	struct super_block *sb = fc->root->d_sb;
	bool read_only = fc->sb_flags & SB_RDONLY;
	int error = sync_filesystem(sb);

	if (error || read_only == sb_rdonly(sb))
		return error;
	return read_only ? vexfs_ref_mark_clean(sb) : vexfs_ref_mark_in_use(sb);
}

static const struct fs_context_operations vexfs_ref_context_operations = {
	.get_tree = vexfs_ref_get_tree,
	.reconfigure = vexfs_ref_reconfigure,
};

static int vexfs_ref_init_fs_context(struct fs_context *fc)
{
	fc->ops = &vexfs_ref_context_operations;
	return 0;
}

static struct file_system_type vexfs_ref_type = {
	.owner = THIS_MODULE,
	.name = "vexfs_ref",
	.init_fs_context = vexfs_ref_init_fs_context,
	.kill_sb = kill_block_super,
	.fs_flags = FS_REQUIRES_DEV | FS_ALLOW_IDMAP,
};

static void vexfs_ref_init_once(void *object)
{
	struct vexfs_ref_inode_info *info = object;

	init_rwsem(&info->i_map_lock);
	inode_init_once(&info->vfs_inode);
}

static int __init vexfs_ref_init(void)
{
	int error;

	BUILD_BUG_ON(sizeof(struct vexfs_ref_super) != VEXFS_REF_BLOCK_SIZE);
	BUILD_BUG_ON(sizeof(struct vexfs_ref_inode) != VEXFS_REF_INODE_SIZE);
	BUILD_BUG_ON(sizeof(struct vexfs_ref_dirent) != VEXFS_REF_DIRENT_HEAD);
	BUILD_BUG_ON(sizeof(struct vexfs_ref_vector_header) != 64);

	/* readlink() copies i_inline to user space: hardened usercopy must know that it may. */
	vexfs_ref_inode_cache = kmem_cache_create_usercopy(
		"vexfs_ref_inode", sizeof(struct vexfs_ref_inode_info), 0,
		SLAB_RECLAIM_ACCOUNT | SLAB_ACCOUNT,
		offsetof(struct vexfs_ref_inode_info, i_inline), VEXFS_REF_INLINE_SIZE,
		vexfs_ref_init_once);
	if (!vexfs_ref_inode_cache)
		return -ENOMEM;
	error = register_filesystem(&vexfs_ref_type);
	if (error)
		kmem_cache_destroy(vexfs_ref_inode_cache);
	return error;
}

static void __exit vexfs_ref_exit(void)
{
	unregister_filesystem(&vexfs_ref_type);
	/* Inodes are freed by RCU; all of them must be before their cache goes. */
	rcu_barrier();
	kmem_cache_destroy(vexfs_ref_inode_cache);
}

module_init(vexfs_ref_init);
module_exit(vexfs_ref_exit);

MODULE_AUTHOR("The vexrun authors");
MODULE_DESCRIPTION("vexfs-ref, the reference subject of vexrun");
MODULE_LICENSE("GPL");
MODULE_ALIAS_FS("vexfs_ref");
