// SPDX-License-Identifier: GPL-2.0
/*
 * Hold filesystem type names until the root filesystem's own module is loaded.
 *
 * Debian's ext4 registers "ext2" and "ext3" besides "ext4" (CONFIG_EXT4_USE_FOR_EXT2), so on an
 * ext4 root an external ext2 module gets EBUSY. Loaded before ext4, this module takes the names;
 * ext4 then only logs that it could not, and unloading this module leaves them free.
 */
#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/init.h>
#include <linux/module.h>

#define MAX_NAMES 4

static char *names[MAX_NAMES];
static int names_count;
module_param_array(names, charp, &names_count, 0444);
MODULE_PARM_DESC(names, "filesystem type names to hold");

static struct file_system_type held[MAX_NAMES];

static int refuse_mount(struct fs_context *fc)
{
	return -ENODEV;
}

static int __init vexrun_reserve_init(void)
{
	int i, err;

	for (i = 0; i < names_count; i++) {
		held[i].owner = THIS_MODULE;
		held[i].name = names[i];
		held[i].init_fs_context = refuse_mount;
		err = register_filesystem(&held[i]);
		if (err)
			goto undo;
	}
	return 0;

undo:
	while (i--)
		unregister_filesystem(&held[i]);
	return err;
}

static void __exit vexrun_reserve_exit(void)
{
	int i;

	for (i = 0; i < names_count; i++)
		unregister_filesystem(&held[i]);
}

module_init(vexrun_reserve_init);
module_exit(vexrun_reserve_exit);
MODULE_DESCRIPTION("Holds filesystem type names for a module that is loaded later");
MODULE_LICENSE("GPL");
