// <linux/kvm.h> as C++ must see it. Always include this one instead.
//
// Linux 5.16 to 6.5 headers declare flexible arrays through an empty struct, which has a size of 1 in C++:
// structures get another layout and ioctl numbers, which encode the structure's size, become wrong.
#pragma once

#include <linux/stddef.h>
#include <linux/types.h>

#undef __DECLARE_FLEX_ARRAY
#define __DECLARE_FLEX_ARRAY(type, name) type name[0]

#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#endif
#include <linux/kvm.h>
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

static_assert(sizeof(kvm_reg_list) == 8,
              "include \"kvm/linux_kvm.h\" before anything includes <linux/kvm.h>");
