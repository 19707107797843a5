// SPDX-License-Identifier: GPL-2.0-only
/* The memory behind lab-volume's disk. */
#include <linux/init.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/string.h>
#include <linux/vmalloc.h>

#include "lab-volume.h"

static unsigned int megabytes = 8;
module_param(megabytes, uint, 0444);
MODULE_PARM_DESC(megabytes, "how much memory the disk has (1 to 64)");

static char *memory;

size_t lab_volume_size(void)
{
	return (size_t)megabytes << 20;
}
EXPORT_SYMBOL_GPL(lab_volume_size);

int lab_volume_transfer(loff_t at, void *buffer, size_t length, bool write)
{
	if (at < 0 || length > lab_volume_size() || at > lab_volume_size() - length)
		return -EIO;
	if (write)
		memcpy(memory + at, buffer, length);
	else
		memcpy(buffer, memory + at, length);
	return 0;
}
EXPORT_SYMBOL_GPL(lab_volume_transfer);

static int __init core_init(void)
{
	if (megabytes < 1 || megabytes > 64)
		return -EINVAL;
	memory = vzalloc(lab_volume_size());
	return memory ? 0 : -ENOMEM;
}

static void __exit core_exit(void)
{
	vfree(memory);
}

module_init(core_init);
module_exit(core_exit);
MODULE_DESCRIPTION("The memory behind a disk");
MODULE_AUTHOR("The Tenon authors");
MODULE_VERSION(DRIVER_VERSION);
MODULE_LICENSE("GPL");
