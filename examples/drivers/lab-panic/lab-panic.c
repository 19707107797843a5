// SPDX-License-Identifier: GPL-2.0-only
/*
 * Takes the whole kernel down in its init (`mode=init`, the default) or `delay` milliseconds after it (`later`), dies in
 * its init of a fault that the rest of the kernel survives (`oops`), or does no harm but takes `delay` milliseconds for
 * its init (`slow`).
 */
#include <linux/delay.h>
#include <linux/errno.h>
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/string.h>
#include <linux/workqueue.h>

static char *mode = "init";
module_param(mode, charp, 0444);
MODULE_PARM_DESC(mode, "init, later, oops or slow");

static uint delay = 1000;
module_param(delay, uint, 0444);
MODULE_PARM_DESC(delay, "milliseconds");

static void panic_later(struct work_struct *work)
{
	panic("lab-panic %s: as told, after init", DRIVER_VERSION);
}

static DECLARE_DELAYED_WORK(later, panic_later);

static int __init panic_init(void)
{
	if (!strcmp(mode, "init"))
		panic("lab-panic %s: as told, in init", DRIVER_VERSION);
	if (!strcmp(mode, "oops"))
		BUG();
	if (!strcmp(mode, "later"))
		schedule_delayed_work(&later, msecs_to_jiffies(delay));
	else if (!strcmp(mode, "slow"))
		msleep(delay);
	else
		return -EINVAL;
	return 0;
}

static void __exit panic_exit(void)
{
	cancel_delayed_work_sync(&later);
}

module_init(panic_init);
module_exit(panic_exit);
MODULE_DESCRIPTION("Takes the kernel down as it is told");
MODULE_AUTHOR("The Tenon authors");
MODULE_VERSION(DRIVER_VERSION);
MODULE_LICENSE("GPL");
