/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What bindgen reads: the contract with the shim, and no header of Slurm. */
#include "../c_shim/plugin_abi.h"
