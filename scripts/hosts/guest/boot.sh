#!/bin/sh
# The first program: loads the modules; then Linux goes on from the disk of root=, or else from memory, as /sbin/init
# there says.
export PATH=/bin:/sbin
mount -t devtmpfs dev /dev 2>/dev/null
mount -t proc proc /proc
mount -t sysfs sys /sys
while read -r module; do insmod "/modules/$module.ko"; done < /modules/order
root=$(sed -n 's/.*\<root=\([^ ]*\).*/\1/p' /proc/cmdline)
if [ -n "$root" ]; then
  mount "$root" /mnt || exec sh
  for folder in dev proc sys; do mount --move /$folder /mnt/$folder; done
  exec switch_root /mnt /sbin/init
fi
exec /sbin/init
