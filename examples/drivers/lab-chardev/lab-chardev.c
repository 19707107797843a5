// SPDX-License-Identifier: GPL-2.0-only
/* /dev/lab-chardev: whoever has it open keeps the module from being unloaded. */
#include <linux/fs.h>
#include <linux/init.h>
#include <linux/miscdevice.h>
#include <linux/module.h>

static ssize_t chardev_read(struct file *file, char __user *to, size_t count, loff_t *offset)
{
	static const char text[] = "lab-chardev " DRIVER_VERSION "\n";

	return simple_read_from_buffer(to, count, offset, text, sizeof(text) - 1);
}

static const struct file_operations operations = {
	.owner = THIS_MODULE,
	.read = chardev_read,
};

static struct miscdevice chardev = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "lab-chardev",
	.fops = &operations,
	.mode = 0444,
};

module_misc_device(chardev);
MODULE_DESCRIPTION("In use while its device is open");
MODULE_AUTHOR("The Tenon authors");
MODULE_VERSION(DRIVER_VERSION);
MODULE_LICENSE("GPL");
