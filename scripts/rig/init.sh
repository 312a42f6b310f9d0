#!/bin/busybox sh
# What a rig does before it takes commands. Its root is this machine's, shared read-only, with all writes in its memory.
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
while read -r module options; do
  insmod "/modules/$module.ko" $options || echo "rig: no module $module"
done < /modules/order

value() { sed -n "s/.*\<rig.$1=\([^ ]*\).*/\1/p" /proc/cmdline; }
shared() { mount -t 9p -o "trans=virtio,version=9p2000.L,msize=524288,$3" "$1" "$2"; }
name=$(value name)
checkout=$(sed 's/ *$//' /sys/firmware/qemu_fw_cfg/by_name/opt/rig/checkout/raw)

# Nothing of the system changes while the rig runs, so its files may be remembered; those of the checkout are looked at
# each time.
mkdir -p /lower/root /lower/checkout /memory /root
mount -t tmpfs -o mode=755 memory /memory
mkdir -p /memory/root/upper /memory/root/work /memory/checkout/upper /memory/checkout/work
shared root /lower/root cache=loose
shared checkout /lower/checkout cache=none
mount -t overlay -o lowerdir=/lower/root,upperdir=/memory/root/upper,workdir=/memory/root/work root /root
mount -t overlay -o lowerdir=/lower/checkout,upperdir=/memory/checkout/upper,workdir=/memory/checkout/work \
  checkout "/root$checkout"
for folder in tmp var/tmp run dev/shm; do
  [ "$folder" = dev/shm ] && mount -t devtmpfs dev /root/dev && mkdir -p /root/dev/shm /root/dev/pts
  mount -t tmpfs -o mode=1777 tmpfs "/root/$folder"
done
chmod 755 /root/run
mkdir -p /root/run/lock
mount -t devpts -o mode=620,gid=5 pts /root/dev/pts
ln -sf pts/ptmx /root/dev/ptmx
ln -sf /proc/self/fd /root/dev/fd
for n in 0 1 2; do ln -sf "/proc/self/fd/$n" "/root/dev/std$(echo in out err | cut -d' ' -f$((n + 1)))"; done
mount -t proc proc /root/proc
mount -t sysfs sys /root/sys
mount -t cgroup2 cgroup /root/sys/fs/cgroup

mkdir /root/run/rig
cp /bin/busybox /root/run/rig/busybox

hostname "$name"
echo "$name" > /root/etc/hostname
{ echo "127.0.0.1 localhost"; value hosts | tr ',' '\n' | sed 's/=/ /'; } > /root/etc/hosts
ip link set lo up
ip link set eth0 up
ip address add "$(value address)" dev eth0

ulimit -n 65536
ports=
for port in /sys/class/virtio-ports/*; do ports="$ports /dev/${port##*/}"; done
exec /bin/agent "$(value key)" /root $ports
