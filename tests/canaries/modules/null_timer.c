// SPDX-License-Identifier: GPL-2.0
/*
 * NULL pointer write in a timer: an oops in interrupt context ends in a panic.
 */
#include <linux/init.h>
#include <linux/jiffies.h>
#include <linux/module.h>
#include <linux/timer.h>

static int *volatile nowhere;
static struct timer_list timer;

static noinline void null_timer_fire(struct timer_list *unused)
{
	*nowhere = 1;
}

static int __init null_timer_init(void)
{
	timer_setup(&timer, null_timer_fire, 0);
	mod_timer(&timer, jiffies + HZ / 2);
	return 0;
}
module_init(null_timer_init);

static void __exit null_timer_exit(void)
{
}
module_exit(null_timer_exit);

MODULE_DESCRIPTION("vexrun canary: null pointer write in a timer");
MODULE_LICENSE("GPL");
