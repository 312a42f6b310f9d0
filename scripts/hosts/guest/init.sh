#!/bin/sh
# What the guest does before its prompt. /sbin/init runs it by /etc/inittab.
export PATH=/bin:/sbin
mount -t tmpfs run /run
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts

value() { sed -n "s/.*\<$1=\([^ ]*\).*/\1/p" /proc/cmdline; }
hostname "$(value guest.name)"
ip link set lo up
address=$(value guest.address)
if [ -n "$address" ] && [ -e /sys/class/net/eth0 ]; then
  ip link set eth0 up
  ip address add "$address/16" dev eth0
fi
acpid 2>/dev/null
if [ "$(value console)" = hvc0 ]; then
  while :; do setsid -c sh -l <>/dev/hvc0 >&0 2>&1; done &
fi
nc -ll -p 7 -e /bin/count &
agent=/dev/virtio-ports/org.qemu.guest_agent.0
mkdir -p /dev/virtio-ports
for port in /sys/class/virtio-ports/*; do
  [ -e "$port/name" ] && ln -s "/dev/${port##*/}" "/dev/virtio-ports/$(cat "$port/name")"
done
if [ -e $agent ]; then qemu-ga --daemonize --method virtio-serial --path $agent --statedir /run; fi
dirty=$(value guest.dirty)
if [ -n "$dirty" ]; then dirty "${dirty%,*}" "${dirty#*,}" & fi
