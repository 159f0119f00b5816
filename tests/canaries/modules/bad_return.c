// SPDX-License-Identifier: GPL-2.0
/*
 * Init returns a positive number, which the module loader finds suspicious.
 */
#include <linux/init.h>
#include <linux/module.h>

static int __init bad_return_init(void)
{
	return 1;
}
module_init(bad_return_init);

static void __exit bad_return_exit(void)
{
}
module_exit(bad_return_exit);

MODULE_DESCRIPTION("vexrun canary: init returns a positive number, which the module loader find");
MODULE_LICENSE("GPL");
