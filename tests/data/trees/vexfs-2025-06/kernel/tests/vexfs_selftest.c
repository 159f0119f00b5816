// SPDX-License-Identifier: GPL-2.0
static struct file_system_type selftest_type = {
	.name = "vexfs_selftest",
};

static int __init selftest_init(void)
{
	return register_filesystem(&selftest_type);
}
MODULE_LICENSE("GPL");
