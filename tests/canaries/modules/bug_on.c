// SPDX-License-Identifier: GPL-2.0
/*
 * BUG_ON() in module init.
 */
#include <linux/bug.h>
#include <linux/init.h>
#include <linux/module.h>

static volatile int truth = 1;

static noinline void bug_on_check(void)
{
	BUG_ON(truth);
}

static int __init bug_on_init(void)
{
	bug_on_check();
	return 0;
}
module_init(bug_on_init);

static void __exit bug_on_exit(void)
{
}
module_exit(bug_on_exit);

MODULE_DESCRIPTION("vexrun canary: bug_on() in module init");
MODULE_LICENSE("GPL");
