#!/bin/sh
# Answers each line of a connection with its number and itself. The number is in this process alone, so who reads
# on after the machine has moved or was restored sees whether its memory came along.
n=0
while read -r line; do
  n=$((n + 1))
  echo "$n $line"
done
