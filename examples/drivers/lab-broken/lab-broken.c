// SPDX-License-Identifier: GPL-2.0-only
/* Refuses to start with the error number that it is given; 0 lets it start; `panic=1` takes the whole kernel down. */
#include <linux/errno.h>
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/moduleparam.h>

static int error = ENODEV;
module_param(error, int, 0444);
MODULE_PARM_DESC(error, "the error number to fail with");

static bool panic_now;
module_param_named(panic, panic_now, bool, 0444);
MODULE_PARM_DESC(panic, "whether to panic instead");

static int __init broken_init(void)
{
	if (panic_now)
		panic("lab-broken: as told");
	if (error)
		pr_err("lab-broken %s: no such device, error %d\n", DRIVER_VERSION, error);
	return -error;
}

static void __exit broken_exit(void)
{
}

module_init(broken_init);
module_exit(broken_exit);
MODULE_DESCRIPTION("Fails as it is told");
MODULE_AUTHOR("The Tenon authors");
MODULE_VERSION(DRIVER_VERSION);
MODULE_LICENSE("GPL");
