// SPDX-License-Identifier: GPL-2.0
/*
 * A kernel thread that sleeps uninterruptibly for ever.
 */
#include <linux/err.h>
#include <linux/init.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/sched.h>

static noinline int hung_task_wait(void *unused)
{
	for (;;) {
		set_current_state(TASK_UNINTERRUPTIBLE);
		schedule();
	}
	return 0;
}

static int __init hung_task_init(void)
{
	return PTR_ERR_OR_ZERO(kthread_run(hung_task_wait, NULL, "hung_task_wait"));
}
module_init(hung_task_init);

static void __exit hung_task_exit(void)
{
}
module_exit(hung_task_exit);

MODULE_DESCRIPTION("vexrun canary: a kernel thread that sleeps uninterruptibly for ever");
MODULE_LICENSE("GPL");
