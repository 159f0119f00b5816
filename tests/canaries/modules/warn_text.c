// SPDX-License-Identifier: GPL-2.0
/*
 * WARN() with a message of its own.
 */
#include <linux/bug.h>
#include <linux/init.h>
#include <linux/module.h>

static noinline void warn_text_check(void)
{
	WARN(1, "inode %d has no parent\n", 4711);
}

static int __init warn_text_init(void)
{
	warn_text_check();
	return 0;
}
module_init(warn_text_init);

static void __exit warn_text_exit(void)
{
}
module_exit(warn_text_exit);

MODULE_DESCRIPTION("vexrun canary: warn() with a message of its own");
MODULE_LICENSE("GPL");
