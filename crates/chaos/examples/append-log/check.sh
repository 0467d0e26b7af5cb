# Every line that was acknowledged is in the log: 0 when it is, 1 when not.
found=0
[ ! -f log ] || found=$(wc -l < log) || exit 3
[ "$CHAOS_ACK_COUNT" -gt "$found" ] || exit 0
echo "$CHAOS_ACK_COUNT acknowledged, $found in the log"
exit 1
