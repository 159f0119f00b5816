// SPDX-License-Identifier: GPL-2.0
/*
 * WARN_ON() in module init; the machine goes on.
 */
#include <linux/bug.h>
#include <linux/init.h>
#include <linux/module.h>

static noinline void warn_on_check(void)
{
	WARN_ON(1);
}

static int __init warn_on_init(void)
{
	warn_on_check();
	return 0;
}
module_init(warn_on_init);

static void __exit warn_on_exit(void)
{
}
module_exit(warn_on_exit);

MODULE_DESCRIPTION("vexrun canary: warn_on() in module init; the machine goes on");
MODULE_LICENSE("GPL");
