#!/bin/sh
# dirty MIB RATE: writes that much memory over and over, RATE MiB a second, with other contents each time.
mib=$1 rate=$2 n=0
while :; do
  dd if=/dev/urandom of=/run/dirty bs=64K count=16 seek=$((n % mib * 16)) conv=notrunc 2>/dev/null
  n=$((n + 1))
  usleep $((1000000 / rate))
done
