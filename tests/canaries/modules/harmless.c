// SPDX-License-Identifier: GPL-2.0
/*
 * Harmless twin: loads, prints alarming but meaningless words, unloads, leaves
 * nothing behind.
 */
#include <linux/init.h>
#include <linux/module.h>

static int __init harmless_init(void)
{
	pr_info("DEBUG: no BUG here; a WARNING: sign on a door, panic room, Oops a daisy\n");
	return 0;
}
module_init(harmless_init);

static void __exit harmless_exit(void)
{
	pr_info("harmless: bye\n");
}
module_exit(harmless_exit);

MODULE_DESCRIPTION("vexrun canary: harmless twin");
MODULE_LICENSE("GPL");
