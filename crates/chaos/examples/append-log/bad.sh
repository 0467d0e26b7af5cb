# Appends to a log, and says so first.
i=0
while [ "$i" -lt "$1" ]; do
    i=$((i + 1))
    echo "saved $i"
    echo "$i" >> log || exit 1
done
