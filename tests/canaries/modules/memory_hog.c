// SPDX-License-Identifier: GPL-2.0
/*
 * Takes pages until the OOM killer wakes up.
 */
#include <linux/gfp.h>
#include <linux/init.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched/signal.h>

static noinline void memory_hog_eat(void)
{
	unsigned long pages = 0;

	while (!fatal_signal_pending(current) && alloc_page(GFP_KERNEL))
		pages++;
	pr_info("memory_hog: ate %lu pages\n", pages);
}

static int __init memory_hog_init(void)
{
	memory_hog_eat();
	return -EINTR;
}
module_init(memory_hog_init);

static void __exit memory_hog_exit(void)
{
}
module_exit(memory_hog_exit);

MODULE_DESCRIPTION("vexrun canary: takes pages until the oom killer wakes up");
MODULE_LICENSE("GPL");
