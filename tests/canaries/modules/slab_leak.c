// SPDX-License-Identifier: GPL-2.0
/*
 * A slab object leaked at unload.
 */
#include <linux/init.h>
#include <linux/module.h>
#include <linux/slab.h>

static struct kmem_cache *cache;
static void *volatile lost;

static int __init slab_leak_init(void)
{
	cache = kmem_cache_create("slab_leak_cache", 192, 0, SLAB_POISON, NULL);
	if (!cache)
		return -ENOMEM;
	lost = kmem_cache_alloc(cache, GFP_KERNEL);
	return lost ? 0 : -ENOMEM;
}
module_init(slab_leak_init);

static void __exit slab_leak_exit(void)
{
	kmem_cache_destroy(cache);
}
module_exit(slab_leak_exit);

MODULE_DESCRIPTION("vexrun canary: a slab object leaked at unload");
MODULE_LICENSE("GPL");
