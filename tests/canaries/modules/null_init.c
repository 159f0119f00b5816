// SPDX-License-Identifier: GPL-2.0
/*
 * NULL pointer write in module init.
 */
#include <linux/init.h>
#include <linux/module.h>

static int *volatile nowhere;

static noinline void null_init_touch(void)
{
	*nowhere = 1;
}

static int __init null_init_init(void)
{
	null_init_touch();
	return 0;
}
module_init(null_init_init);

static void __exit null_init_exit(void)
{
}
module_exit(null_init_exit);

MODULE_DESCRIPTION("vexrun canary: null pointer write in module init");
MODULE_LICENSE("GPL");
