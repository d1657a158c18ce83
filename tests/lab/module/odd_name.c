// SPDX-License-Identifier: Dual BSD/GPL
/*
 * Does nothing but bear a name. The lab overwrites it in the built file by one that the build would
 * not take.
 */

#include <linux/module.h>

MODULE_DESCRIPTION("Bears a name, for tests");
MODULE_LICENSE("Dual BSD/GPL");
